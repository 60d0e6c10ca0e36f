"""`next_stages`: what can be done now. Pure, and the only place that orders the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoexp.errors import UsageError
from autoexp.runs import budget, suspicion
from autoexp.runs.auditing import audit_due
from autoexp.runs.checks import Check
from autoexp.runs.records import Plan
from autoexp.runs.state import LOOP, TOP, RunState


@dataclass(frozen=True)
class Step:
    """One stage of one iteration. `skip`: it is not selected, and a later one is.

    Beside the stages there are `audit`, which opens a check at the end of a run, `check`, one training of a check (its
    place is in `iteration`), and `conclude`, which says what a check found.
    """

    stage: str
    iteration: int = 0
    attempt: int = 1
    skip: bool = False


_NEEDED_BY = {"commit": "train", "record": "decide"}
"""Stages that run although they are not selected: only a commit can be trained, and only a record decided."""


def next_stages(state: RunState, plan: Plan) -> tuple[Step, ...]:
    """The steps that may run now, in the order in which they are to be tried. Empty: nothing is left.

    Iterations under way come first, the lowest number first. A new one opens when a worker is free, the earlier
    ones have been committed, and neither the target nor a limit of the budget is reached. Records and decisions wait
    for all lower numbers.
    """
    looping = "loop" in plan.stages
    if not state.setup_done:
        return (Step("setup"),) if plan.stages else ()
    if state.check is not None:
        return _checking(state.check, state.stopping, plan)
    if state.checking:
        return ()
    if not state.baseline_closed and 0 not in state.open:
        if "baseline" in plan.stages:
            return (Step("baseline"),)
        return (Step("baseline", skip=True),) if looping else ()

    if baseline_failed(state) or state.broken:
        return ()
    if suspicion.probe_failed(state):
        return (Step("excuse", state.trials[-1].iteration),)
    steps = []
    for number in sorted(state.open):
        if looping or number == 0:
            steps += _continue(state, plan, number)
    if looping and _may_open(state, plan):
        if suspicion.probe_due(state) and {"commit", "train", "decide"} <= set(plan.loop):
            return (*steps, Step("probe", state.next_number))
        steps += _select("propose", state.next_number, 1, plan)
    if not steps and looping and audit_due(state, plan):
        return (Step("audit"),)
    return tuple(steps)


def _checking(check: Check, stopping: bool, plan: Plan) -> tuple[Step, ...]:
    """Trainings of a check: those that run, then those that may begin; when all are over, what it found."""
    if check.enough and not check.running:
        return (Step("conclude"),)
    begin = [] if stopping else check.next(plan.workers)
    return tuple(Step("check", place, check.trainings[place].attempt) for place in (*check.running, *begin))


def baseline_failed(state: RunState) -> bool:
    """Whether the unchanged program does not train, and it was not said to go on without it (`--only loop`)."""
    first = state.trials[0] if state.trials else None
    crashed = first is not None and first.iteration == 0 and first.decision == "crash"
    return crashed and state.best is None and "baseline" in state.plan.stages


def _may_open(state: RunState, plan: Plan) -> bool:
    if state.stopping or 0 in state.open or len(state.open) >= plan.workers or suspicion.probing(state):
        return False
    if (plan.target is not None and state.next_number > plan.target) or budget.reached(state, plan):
        return False
    early = ("propose", "apply", "commit")
    return all(iteration.stage not in early for iteration in state.open.values())


def _continue(state: RunState, plan: Plan, number: int) -> list[Step]:
    iteration = state.open[number]
    if iteration.stage in ("record", "decide") and min(state.open) < number:
        return []
    if number == 0:
        return [Step(iteration.stage, 0, iteration.attempt)]
    return _select(iteration.stage, number, iteration.attempt, plan)


def _select(stage: str, number: int, attempt: int, plan: Plan) -> list[Step]:
    """Run it, skip it because a later stage is selected, or leave it pending."""
    if stage in plan.loop or _NEEDED_BY.get(stage) in plan.loop:
        return [Step(stage, number, attempt)]
    later = LOOP[LOOP.index(stage) + 1 :]
    return [Step(stage, number, attempt, skip=True)] if any(s in plan.loop for s in later) else []


def pending(state: RunState, plan: Plan) -> list[str]:
    """What stays for the next resume although nothing can run now: 'iteration 3: train'."""
    if next_stages(state, plan):
        return []
    return [f"iteration {number}: {state.open[number].stage}" for number in sorted(state.open)]


def select(
    only: str | None, loop_only: str | None, from_stage: str | None, to_stage: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The top-level and the loop stages that the flags name.

    Raises UsageError for a name that is none, an empty list, a range that runs backwards, or `--only` with a range.
    """
    ranged = from_stage is not None or to_stage is not None
    if only is not None and ranged:
        raise UsageError(
            "--only cannot be mixed with --from-stage or --to-stage", "choose one of them: autoexp start --help"
        )
    names = _names("--only", only, (*TOP, *LOOP)) if only is not None else None
    inner = tuple(_names("--loop-only", loop_only, LOOP)) if loop_only is not None else None
    if names is not None:
        in_loop = tuple(name for name in LOOP if name in names)
        top = tuple(name for name in TOP if name in names or (name == "loop" and in_loop))
        return top, inner or in_loop or LOOP
    if ranged:
        first = TOP.index(_names("--from-stage", from_stage, TOP)[0]) if from_stage is not None else 0
        last = TOP.index(_names("--to-stage", to_stage, TOP)[0]) if to_stage is not None else len(TOP) - 1
        if first > last:
            raise UsageError(
                f"--from-stage {from_stage} comes after --to-stage {to_stage}", f"the order is {', '.join(TOP)}"
            )
        return TOP[first : last + 1], inner or LOOP
    return TOP, inner or LOOP


def _names(flag: str, text: str | None, allowed: Sequence[str]) -> list[str]:
    names = [name.strip().lower() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise UsageError(f"{flag}: {name!r} is no stage", f"the stages are {', '.join(allowed)}")
    if not names:
        raise UsageError(f"{flag} is empty", f"the stages are {', '.join(allowed)}")
    return names
