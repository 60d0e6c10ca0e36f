"""The trials of a run in words: the way to the best, a table, endings, diffs, and what was tried long ago."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import variance
from typing import TYPE_CHECKING

from autoexp.errors import RepositoryError
from autoexp.runs.records import Metric, Trial
from autoexp.spec.answers import untrusted
from autoexp.workspace.candidate import editable_files

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.workspace.repository import Repository
    from autoexp.workspace.settings import Files

RECENT = 20
"""Trials in the table; the older ones get a line each."""
LINES = 200
"""Older trials with a line each; those before them are counted in groups."""
GROUP = 100
"""Trials of a group."""
FAILURES = 5
"""Diffs and endings of the last trials that were not kept."""
DIFF_LINES = 400
"""Of one diff."""
REASON_BYTES = 400


def way(state: RunState) -> list[str]:
    """The kept trials, the latest first, each with what it gained over the one before."""
    kept = [trial for trial in state.trials if trial.decision == "keep" and trial.metric is not None]
    lines = []
    for trial, before in zip(kept[::-1], [*kept[-2::-1], None], strict=True):
        assert trial.metric is not None
        gain = f", better by {gained(state.metric, before.metric, trial.metric):.6f}" if before else ", the first"
        lines.append(f"trial {trial.iteration}: {trial.metric:.6f}{gain}: {line(trial.description, 200)}")
    return lines


def gained(metric: Metric, before: float | None, after: float) -> float:
    """The improvement; positive is better."""
    before = after if before is None else before
    return before - after if metric.direction == "min" else after - before


def table(state: RunState) -> list[str]:
    """What is under way, then the last trials, the latest first."""
    bests: dict[int, float | None] = {}
    best: float | None = None
    for trial in state.trials:
        bests[trial.iteration] = best
        best = trial.metric if trial.decision == "keep" and trial.metric is not None else best
    rows = [
        f"{number}\t-\t-\tunder way\t{line(iteration.proposal.description, 200)}"
        for number, iteration in sorted(state.open.items(), reverse=True)
        if iteration.proposal is not None and iteration.stage != "propose"
    ]
    for trial in state.trials[: -RECENT - 1 : -1]:
        number = "-" if trial.metric is None else f"{trial.metric:.6f}"
        before = bests[trial.iteration]
        delta = f"{trial.metric - before:+.6f}" if trial.metric is not None and before is not None else "-"
        decision = "was not to blame" if trial.excused else trial.decision
        rows.append(f"{trial.iteration}\t{number}\t{delta}\t{decision}\t{line(trial.description, 200)}")
    head = f"number\t{line(state.metric.name, 60)}\tagainst the best then\tdecision\tdescription"
    return [head, *rows] if rows else []


def older(state: RunState) -> list[str]:
    """Everything before the table: counts of the oldest in groups, then a line each, the latest first."""
    past = state.trials[:-RECENT]
    counted, single = past[:-LINES], past[-LINES:]
    lines = [_group(state.metric, counted[at : at + GROUP]) for at in range(0, len(counted), GROUP)]
    lines += _constants(state, past)
    for trial in reversed(single):
        number = "no number" if trial.metric is None else f"{trial.metric:.6f}"
        lines.append(f"{trial.iteration} {number} {trial.decision}: {line(trial.description, 80)}")
    return lines


def _group(metric: Metric, trials: Sequence[Trial]) -> str:
    counts = Counter(trial.decision for trial in trials)
    words = ", ".join(f"{number} {name}" for name, number in sorted(counts.items(), key=lambda item: str(item[0])))
    numbers = [(trial.metric, trial.iteration) for trial in trials if trial.metric is not None]
    first = f"trials {trials[0].iteration} to {trials[-1].iteration}: {words}"
    if not numbers:
        return first
    best, number = min(numbers) if metric.direction == "min" else max(numbers)
    return f"{first}; the best of them {best:.6f} (trial {number})"


def _constants(state: RunState, trials: Sequence[Trial]) -> Iterator[str]:
    """Constants that were moved alone among those trials: how often, between what, and what was kept."""
    known = {trial.commit: trial for trial in state.trials}
    moves: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        base = known.get(trial.base)
        if base is not None and base is not trial and trial.iteration and not trial.excused:
            changed = [name for name, value in trial.constants.items() if base.constants.get(name) != value]
            if len(changed) == 1:
                moves[changed[0]].append(trial)
    for name, moved in sorted(moves.items()):
        values = list(dict.fromkeys(str(trial.constants[name]) for trial in moved))
        kept = sum(trial.decision == "keep" for trial in moved)
        told = line(", ".join(values[:12]), 200) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
        yield f"{line(name, 60)} alone was changed {len(moved)} times, {kept} kept; values: {told}"


def _failures(state: RunState) -> list[Trial]:
    failed = [trial for trial in state.trials if trial.iteration and trial.decision != "keep" and not trial.excused]
    return failed[: -FAILURES - 1 : -1]


def endings(state: RunState) -> list[str]:
    """How the last trials without a number ended. These words may be a program's own."""
    return [
        f"Trial {trial.iteration} ({trial.status}):\n{untrusted(trial.reason, REASON_BYTES)}"
        for trial in _failures(state)
        if trial.metric is None and trial.reason
    ]


def diffs(state: RunState, repository: Repository, files: Files) -> list[str]:
    """What the last failures had changed in the editable files, the latest first, line by line."""
    lines = []
    for trial in _failures(state):
        if trial.base == trial.commit:
            continue
        try:
            names = {
                name
                for commit in (trial.base, trial.commit)
                for name in editable_files(repository, commit, files.editable, files.frozen)
            }
            diff = repository.diff(trial.base, trial.commit, sorted(names)) if names else ""
        except RepositoryError:  # a commit that is gone is no reason not to propose
            lines.append(f"Trial {trial.iteration} ({trial.decision}): its diff is gone")
            continue
        text = diff.split("\n")
        lines += [f"Trial {trial.iteration} ({trial.decision}):", *text[:DIFF_LINES]]
        if len(text) > DIFF_LINES:
            lines.append(f"[… {len(text) - DIFF_LINES} more lines of this diff]")
    return lines


def noise(state: RunState) -> str:
    """How far the same program's numbers lie apart, from programs that were trained more than once."""
    same: dict[str, list[float]] = defaultdict(list)
    for trial in state.trials:
        if trial.source and trial.metric is not None:
            same[trial.source].append(trial.metric)
    repeated = [numbers for numbers in same.values() if len(numbers) > 1]
    if not repeated:
        return "Noise of the metric: unknown, no program was trained twice. A tiny gain may be luck."
    freedom = sum(len(numbers) - 1 for numbers in repeated)
    widest = max(max(numbers) - min(numbers) for numbers in repeated)
    scaled = [[number / (widest or 1.0) for number in numbers] for numbers in repeated]  # 1e200 has no square
    deviation = widest * (sum(variance(numbers) * (len(numbers) - 1) for numbers in scaled) / freedom) ** 0.5
    trainings = sum(map(len, repeated))
    return (
        f"Noise of the metric: {len(repeated)} program{'s' if len(repeated) > 1 else ''} trained {trainings} times in "
        f"all; standard deviation {deviation:.6f}, at most {widest:.6f} apart. A smaller gain may be luck."
    )


def line(text: str, limit: int) -> str:
    """On one line, and no longer than that."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
