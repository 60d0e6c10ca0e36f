"""The steps of a check in the session's loop. A check's training is a `train` and a `triage`, as an iteration has them.

So keepers, isolation, evaluation and the plugins that wrap these stages are the same, and a session that was killed
finds a check's training as it finds any other. The stages see an iteration with a negative number, which is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from autoexp.errors import UsageError
from autoexp.runs import events as ev
from autoexp.runs.auditing import fresh_seeds
from autoexp.runs.checks import Check, CheckTraining
from autoexp.runs.plan import Step
from autoexp.runs.state import Iteration, RunState
from autoexp.session.ablating import ablated
from autoexp.session.opening import audit_of
from autoexp.session.verdicts import audited, reproduced
from autoexp.spec.context import Context
from autoexp.workspace.paths import CheckPaths

EVALUATE = "AUTOEXP_EVALUATE"
"""Tells a trainer which splits to evaluate on. Iterations do not set it: no decision may see the test split."""
SPLITS = "val,test"
_MOST_TRAININGS = 100_000
"""Of one check: their numbers are counted within it."""


def opened(state: RunState, context: Context, hook: Any) -> ev.Event | None:
    """The audit at the end of a run."""
    return audit_of(state, fresh_seeds(state, context.plan.audit_seeds), auto=True)


def trained(state: RunState, context: Context, hook: Any) -> ev.Event | None:
    """Begin a training of the check, or tell how it ended; None while it runs."""
    check, place = state.check, context.iteration
    assert check is not None  # `next_stages` says so
    training = check.trainings[place]
    inner, around = _as_iteration(state, check, place, context)
    event = hook.autoexp_train(state=inner, context=around)
    match event:
        case None:
            return None
        case ev.TrainingStarted():
            return ev.CheckStarted(key=check.key, place=place, job=event)
        case ev.TrainingEnded():
            ended = ev.CheckEnded(key=check.key, place=place, outcome=event.outcome)
            iteration = inner.open[around.iteration].model_copy(update={"outcome": event.outcome, "stage": "triage"})
            inner = inner.model_copy(update={"open": {iteration.number: iteration}})
            answer = hook.autoexp_triage(state=inner, context=around)
            again = isinstance(answer, ev.Triaged) and answer.action in ("rerun", "reevaluate")
            return ended.model_copy(update={"action": answer.action}) if again else ended
    raise UsageError(
        f"stage train returned {type(event).__name__} for {training.folder_name} of {check.key}", "autoexp plugins"
    )


def concluded(state: RunState, context: Context, hook: Any) -> ev.Event | None:
    """What a check found; of an ablation first the simpler best, if there is one."""
    check = state.check
    assert check is not None
    if check.kind == "ablate":
        return ablated(state, check, context)
    verdict = audited(state, check) if check.kind == "audit" else reproduced(state, check)
    return ev.CheckClosed(key=check.key, verdict=verdict)


STEPS: dict[str, Callable[[RunState, Context, Any], ev.Event | None]] = {
    "audit": opened,
    "check": trained,
    "conclude": concluded,
}


def at_work(state: RunState) -> list[CheckTraining]:
    """The trainings of a check that run."""
    return [state.check.trainings[place] for place in state.check.running] if state.check is not None else []


def step_of(step: Step) -> bool:
    return step.stage in STEPS


def _as_iteration(state: RunState, check: Check, place: int, context: Context) -> tuple[RunState, Context]:
    """The state and the context in which the stages train this one program with this seed."""
    training = check.trainings[place]
    program = check.program(training.program)
    assert program is not None
    number = -(check.number * _MOST_TRAININGS + place + 1)
    slot = training.slot if training.job is not None else check.free_slot
    applied = ev.Applied(
        at=check.at, iteration=number, attempt=training.attempt, status="applied", by="nobody", source=program.source
    )
    iteration = Iteration(
        number=number,
        stage="train",
        attempt=training.attempt,
        slot=slot,
        base=program.commit,
        proposer="check",
        applied=applied,
        commit=program.commit,
        job=training.job,
        failures=training.failures,
        reevaluate=training.reevaluate,
    )
    more = any(place not in check.running for place in check.next(len(check.trainings))[1:])
    plan = context.plan.model_copy(update={"stochastic": False, "target": None if more else 0})
    train = context.settings.train
    train = train.model_copy(update={"env": {**train.env, EVALUATE: SPLITS}})
    around = dataclasses.replace(
        context,
        iteration=number,
        attempt=training.attempt,
        plan=plan,
        settings=context.settings.model_copy(update={"train": train}),
        paths=CheckPaths(context.paths.folder, check.key, training.folder_name),
    )
    # With neither a best nor earlier measurements: nothing is compared here, and the seed is the check's, not the next.
    nothing: dict[str, Any] = {name: () for name in ("measurements",) if name in RunState.model_fields}
    view = {"open": {number: iteration}, "seed": training.seed, "plan": plan, "stopping": False, "best": None}
    return state.model_copy(update={**view, **nothing}), around
