"""The kept changes that the best is made of, and the best without some of them, as commits under refs of the run's."""

from __future__ import annotations

from collections.abc import Sequence

from autoexp.runs.checked import Checked
from autoexp.runs.records import Trial
from autoexp.runs.state import RunState
from autoexp.workspace.candidate import described
from autoexp.workspace.repository import Repository, refs
from autoexp.workspace.reverting import CannotRevertError, without
from autoexp.workspace.settings import Settings


def kept_changes(state: RunState) -> list[Trial]:
    """The trials whose changes are in the best, the oldest first: its chain of bases, less what was taken out again."""
    by_commit = {trial.commit: trial for trial in state.trials if trial.decision == "keep"}
    simpler = {event.commit: event for event in state.simplified}
    removed: set[int] = set()
    chain: list[Trial] = []
    commit = state.best.commit if state.best is not None else ""
    while True:
        if commit in simpler:
            removed |= set(simpler[commit].removed)
            commit = simpler[commit].of
        elif (trial := by_commit.get(commit)) is not None and trial.iteration:
            chain.append(trial)
            commit = trial.base
        else:
            return [trial for trial in reversed(chain) if trial.iteration not in removed]


def removals(
    repository: Repository,
    settings: Settings,
    state: RunState,
    key: str,
    sets: Sequence[Sequence[Trial]],
    name: str = "",
) -> tuple[list[Checked], list[tuple[int, str]]]:
    """(the best without each of these sets of changes, committed; (iteration, why not) of those that cannot be)."""
    assert state.best is not None
    best = state.best
    made, why_not = [], []
    for trials in sets:
        numbers = [trial.iteration for trial in trials]
        try:
            tree = best.commit
            for trial in sorted(trials, key=lambda each: -each.iteration):
                tree = without(repository, tree, trial.base, trial.commit)
        except CannotRevertError as error:
            why_not.append((numbers[0], str(error)))
            continue
        called = name or f"without-{numbers[0]}"
        words = "; ".join(trial.description for trial in trials)
        message = f"Without the change of {', '.join(map(str, numbers))}\n\n{words}"
        ref = f"{refs(state.run_id)}/{key}/{called}"
        commit = repository.commit(tree, [best.commit], message, ref)
        source, _ = described(repository, commit, settings.files.editable, settings.files.frozen)
        same = state.trained(source)
        made.append(
            Checked(
                name=called,
                commit=commit,
                iteration=best.iteration,
                source=source,
                description=words,
                recorded=same.metric if same is not None else None,
                removed=tuple(numbers),
            )
        )
    return made, why_not
