"""What a check is to train: made from the run and its repository, before anything is asked of a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoexp.errors import RunError, UsageError
from autoexp.runs import events as ev
from autoexp.runs.auditing import audit_of_best, claim, fresh_seeds
from autoexp.runs.checked import Checked, CheckKind
from autoexp.runs.records import Trial
from autoexp.runs.state import RunState
from autoexp.session import requests
from autoexp.session.background import live
from autoexp.session.reverted import kept_changes, removals
from autoexp.session.snapshot import load
from autoexp.session.verdicts import noise
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.repository import Repository
from autoexp.workspace.settings import load as load_settings

MANY_SEEDS = 100


def ask_audit(workspace: Workspace, paths: RunPaths, seeds: int | None) -> str:
    """Have the run's next session audit it; returns the check's key.

    Raises RunError when it is live, or there is nothing to audit.
    """
    state = _idle(paths)
    count = _counted(seeds, load_settings(workspace).audit.seeds)
    return _ask(paths, state, audit_of(state, fresh_seeds(state, count)), seeds)


def ask_reproduction(workspace: Workspace, paths: RunPaths, number: int, seeds: int | None) -> str:
    """Have its next session train trial `number` again; returns the check's key. Raises RunError as `ask_audit`."""
    state = _idle(paths)
    trial = next((trial for trial in state.trials if trial.iteration == number), None)
    if trial is None:
        raise RunError(f"run {state.run_id} has no decided trial {number}", "autoexp log")
    if trial.metric is None:
        raise RunError(f"trial {number} has no {state.metric.name}: {trial.reason or trial.status}", "autoexp log")
    # against the clock no two trainings are the same: without a measured noise one number says little
    count = _counted(seeds, 1 if noise(state) is not None else 3)
    own, recorded = recorded_of(state, trial)
    program = _program(f"trial-{number}", trial).model_copy(update={"recorded": recorded})
    opened = ev.CheckOpened(
        key=_key(state, "reproduce"),
        kind="reproduce",
        programs=(program,),
        seeds=(own, *fresh_seeds(state, count - 1)),
        early=seeds is None,
    )
    return _ask(paths, state, opened, seeds)


def ask_ablation(workspace: Workspace, paths: RunPaths, seeds: int | None, keep: bool) -> str:
    """Have its next session find out which changes carry the gain. Raises RunError as `ask_audit`."""
    state, settings = _idle(paths), load_settings(workspace)
    _claimed(state)
    baseline, best = _both(state)
    programs, notes = [best], []
    if audit_of_best(state) is None:  # else it has said what the whole gain is
        programs.append(baseline)
    repository, key = Repository(workspace), _key(state, "ablate")
    made, why_not = removals(repository, settings, state, key, [[trial] for trial in kept_changes(state)])
    notes = [f"the change of iteration {number} cannot be taken out alone: {why}" for number, why in why_not]
    if not made:
        raise RunError(f"no kept change can be taken out alone: {notes[0]}", "autoexp log")
    count = _counted(seeds, settings.audit.seeds)
    opened = ev.CheckOpened(
        key=key,
        kind="ablate",
        programs=(*programs, *made),
        seeds=fresh_seeds(state, count),
        keep=keep,
        notes=tuple(notes),
    )
    return _ask(paths, state, opened, seeds)


def audit_of(state: RunState, seeds: tuple[int, ...], auto: bool = False) -> ev.CheckOpened:
    """The audit of what the run claims. Raises RunError when it claims nothing."""
    _claimed(state)
    baseline, best = _both(state)
    return ev.CheckOpened(key=_key(state, "audit"), kind="audit", programs=(baseline, best), seeds=seeds, auto=auto)


def recorded_of(state: RunState, trial: Trial) -> tuple[int, float | None]:
    """(the seed that a trial was first trained with, what that training came to)."""
    for measurement in getattr(state, "measurements", ()):
        if (measurement.iteration, measurement.commit) == (trial.iteration, trial.commit):
            return int(measurement.seed), float(measurement.value)
    return state.seed, trial.metric


def _both(state: RunState) -> tuple[Checked, Checked]:
    first = state.trials[0]
    best = state.best
    assert best is not None
    trial = next(trial for trial in reversed(state.trials) if trial.iteration == best.iteration)
    changes: Mapping[str, Any] = {"commit": best.commit, "recorded": best.metric}
    simpler = [event for event in state.simplified if event.commit == best.commit]
    if simpler:
        changes = {**changes, "removed": simpler[-1].removed, "source": ""}
    return _program("baseline", first), _program("best", trial).model_copy(update=changes)


def _program(name: str, trial: Trial) -> Checked:
    return Checked(
        name=name,
        commit=trial.commit,
        iteration=trial.iteration,
        source=trial.source,
        description=trial.description,
        recorded=trial.metric,
    )


def _claimed(state: RunState) -> None:
    if claim(state) is None:
        raise RunError(
            f"run {state.run_id} claims nothing: it has kept no change of its baseline", "autoexp resume --loops 5"
        )


def _idle(paths: RunPaths) -> RunState:
    if live(paths):
        raise RunError(
            f"a session works on run {paths.run_id}", f"autoexp stop --run-id {paths.run_id}, or wait for it"
        )
    return load(paths)


def _counted(seeds: int | None, default: int) -> int:
    if seeds is not None and not 1 <= seeds <= MANY_SEEDS:
        raise UsageError(f"--seeds {seeds}: 1 to {MANY_SEEDS}", "autoexp audit --seeds 3")
    return seeds or default


def _key(state: RunState, kind: CheckKind) -> str:
    return f"{kind}-{sum(check.kind == kind for check in state.checks) + 1}"


def _ask(paths: RunPaths, state: RunState, opened: ev.CheckOpened, seeds: int | None) -> str:
    """Leave the request. The same check, when it is under way, is gone on with instead of begun anew."""
    under_way = state.check
    if under_way is not None and _same(under_way, opened, seeds):
        programs, own = under_way.programs, under_way.seeds
        opened = opened.model_copy(update={"key": under_way.key, "programs": programs, "seeds": own})
    requests.post(paths, requests.Request(kind="check", changes=opened.model_dump(mode="json", exclude={"at"})))
    return opened.key


def _same(check: Any, opened: ev.CheckOpened, seeds: int | None) -> bool:
    commits = {program.name: program.commit for program in check.programs}
    wanted = {program.name: program.commit for program in opened.programs}
    if opened.kind == "ablate":  # its programs were committed anew, under another key
        return check.kind == "ablate" and commits.get("best") == wanted["best"]
    return check.kind == opened.kind and commits == wanted and seeds in (None, len(check.seeds))
