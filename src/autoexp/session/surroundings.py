"""Whether it is the candidates that fail, or what is around them: data that is gone, a best that trains no more."""

from __future__ import annotations

from itertools import takewhile

from autoexp.errors import SurroundingsError
from autoexp.runs import events as ev
from autoexp.runs import suspicion
from autoexp.runs.plan import Step
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.workspace.inbox import PEOPLE, give_back
from autoexp.workspace.paths import LOG_FILE, RunPaths, Workspace
from autoexp.workspace.settings import Settings, missing_data

STEPS = ("probe", "excuse")
"""What the session does itself: no stage of an iteration, but what is about all of them."""

PREPARE = "autoexp prepare, then: autoexp start"
"""What to type when the data was not there for the baseline."""


def step(state: RunState, context: Context, what: Step) -> ev.Event:
    """The event of a step of STEPS."""
    row = suspicion.suspects(state)
    if what.stage == "probe":
        failed = f"{len(row)} candidate{'s' if len(row) != 1 else ''} in a row failed alike ({row[0].reason[:300]})"
        return ev.ProbeOpened(iteration=what.iteration, commit=state.tip, why=failed)
    probe = state.trials[-1]
    why = f"the best so far does not train any more either: {probe.reason[:1000]}"
    return excuse(state, context.paths, why, (probe.iteration,))


def excuse(state: RunState, paths: RunPaths, why: str, more: tuple[int, ...] = ()) -> ev.Excused:
    """The last failures are not the candidates' fault. What people proposed waits in the queue again."""
    row = suspicion.suspects(state)
    for trial in row:
        if trial.proposer in PEOPLE:
            give_back(paths, trial.iteration)
    return ev.Excused(iterations=(*sorted(trial.iteration for trial in row), *more), why=why)


def gone(workspace: Workspace, settings: Settings) -> str:
    """What is said of data that was there and is not any more; '' when all of it is there."""
    missing = missing_data(workspace, settings)
    return f"data is missing: {', '.join(missing)}" if missing else ""


def unprepared(state: RunState, workspace: Workspace, settings: Settings) -> str:
    """Why the baseline failed, when preparing the data is what mends it; '' when it is something else."""
    said = state.trials[0].why
    asks = settings.prepare.command is not None and "prepare" in said  # a trainer that names what it lacks
    return gone(workspace, settings) or (said if asks else "")


def refuse_broken(state: RunState, paths: RunPaths) -> None:
    """Raise SurroundingsError when that has ended the run, with what mends it."""
    if not state.broken:
        return
    resume = f"autoexp resume --run-id {paths.run_id}"
    if state.broken.startswith("data is missing"):
        raise SurroundingsError(state.broken, f"autoexp prepare, then: {resume}")
    last = state.trials[-1]
    log = paths.attempt(last.iteration, last.attempts) / LOG_FILE
    count = len(list(takewhile(lambda trial: trial.excused, reversed(state.trials)))) - 1
    raise SurroundingsError(
        f"{state.broken} ({count} trial{'s' if count != 1 else ''} that failed alike are not counted)",
        f"mend what is around the program (log: {log}), then: {resume}",
    )
