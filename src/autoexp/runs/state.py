"""`reduce`: what the journal's events add up to. Pure: no files, no clock, no git."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoexp.errors import JournalError
from autoexp.runs import asides, checks, suspicion
from autoexp.runs import events as ev
from autoexp.runs.asides import Changes, sum_of
from autoexp.runs.checks import Check
from autoexp.runs.measuring import mean, measured
from autoexp.runs.records import Best, Measurement, Outcome, Taken, Trial
from autoexp.runs.resting import rested
from autoexp.runs.shape import BASELINE, LOOP, TOP, Iteration, RunState, same_words, slot_of

__all__ = [
    "BASELINE",
    "LOOP",
    "TOP",
    "Iteration",
    "RunState",
    "begin",
    "reduce",
    "replay",
    "same_words",
    "slot_of",
    "sum_of",
]
"""With the shape, so that a plugin has one place to import a state and what makes one from."""


def begin(event: ev.Event) -> RunState:
    """The state after the journal's first line.

    Raises JournalError when that line is something else.
    """
    if not isinstance(event, ev.RunCreated):
        raise JournalError(f"the journal begins with {event.type!r} instead of 'run_created'", "autoexp status")
    return RunState(
        format=event.format,
        run_id=event.run_id,
        branch=event.branch,
        base=event.base,
        seed=event.seed,
        metric=event.metric,
        created_at=event.at,
        updated_at=event.at,
    )


def reduce(state: RunState, event: ev.Event) -> RunState:
    """The state after `event`. Neither argument is changed.

    Raises JournalError when the event cannot follow, which no session writes.
    """
    changes = _REDUCERS[type(event)](state, event)
    return state.model_copy(update={**changes, "updated_at": event.at})


def replay(journal: list[ev.Event]) -> RunState:
    """The state that a whole journal adds up to."""
    state = begin(journal[0])
    for event in journal[1:]:
        state = reduce(state, event)
    return state


def _open(state: RunState, number: int) -> Iteration:
    if number not in state.open:
        raise JournalError(f"iteration {number} is not open in run {state.run_id}", "autoexp log")
    return state.open[number]


def _moved(state: RunState, iteration: Iteration, stage: str | None = None, **changes: Any) -> Changes:
    """Put `iteration` at `stage`; left out, at the one after its current stage."""
    stages = iteration.stages
    after = stage or stages[stages.index(iteration.stage) + 1]
    return {"open": {**state.open, iteration.number: iteration.model_copy(update={**changes, "stage": after})}}


def _run_created(state: RunState, event: ev.RunCreated) -> Changes:
    raise JournalError("the journal holds 'run_created' twice", "autoexp log")


def _plan_made(state: RunState, event: ev.PlanMade) -> Changes:
    # a baseline that was skipped is measured when it is asked for after all, as long as nothing else was tried
    again = "baseline" in event.plan.stages and state.next_number == 1 and not state.trials and not state.open
    closed = state.baseline_closed and not again
    requests = asides.taken(state, event.request)
    return {
        "plan": event.plan,
        "stopping": False,
        "requests": requests,
        "baseline_closed": closed,
        "checking": False,
    }


def _stop_requested(state: RunState, event: ev.StopRequested) -> Changes:
    return {"stopping": True, "requests": asides.taken(state, event.request)}


def _session_opened(state: RunState, event: ev.SessionOpened) -> Changes:
    # who resumes what had come to a standstill wants to see more of it
    again = state.closed is not None and state.closed.reason == "plateau"
    return {
        "session": event,
        "closed": None,
        "broken": "",
        "asking": {},
        "earlier_seconds": state.worked_seconds,
        "since_keep": 0 if again else state.since_keep,
        "agents": {name: rested(agent) for name, agent in state.agents.items()},
    }


def _session_closed(state: RunState, event: ev.SessionClosed) -> Changes:
    worked = max(0.0, event.at - state.session.at) if state.session is not None and state.closed is None else 0.0
    return {"closed": event, "earlier_seconds": state.earlier_seconds + worked}


def _setup_done(state: RunState, event: ev.SetupDone) -> Changes:
    return {"setup_done": True}


def _stage_skipped(state: RunState, event: ev.StageSkipped) -> Changes:
    if event.stage == "baseline":
        return {"baseline_closed": True}
    if event.stage == "propose":
        new = Iteration(
            number=event.iteration,
            stage="propose",
            slot=slot_of(state, event.iteration),
            base=state.tip,
            commit=state.tip,
            proposer="nobody",
        )
        return {**_moved(state, new), "next_number": max(state.next_number, event.iteration + 1)}
    iteration = _open(state, event.iteration)
    if event.stage == "decide":
        raise JournalError("'decide' cannot be skipped: it is always the last stage", "autoexp log")
    return _moved(state, iteration)


def _baseline_opened(state: RunState, event: ev.BaselineOpened) -> Changes:
    applied = ev.Applied(
        at=event.at,
        iteration=0,
        attempt=1,
        status="applied",
        by="nobody",
        source=event.source,
        constants=event.constants,
    )
    first = Iteration(
        number=0,
        stage="baseline",
        base=event.commit,
        commit=event.commit,
        ref=event.ref,
        proposer="baseline",
        applied=applied,
    )
    return _moved(state, first)


def _probe_opened(state: RunState, event: ev.ProbeOpened) -> Changes:
    new = Iteration(
        number=event.iteration,
        stage="commit",
        slot=slot_of(state, event.iteration),
        base=event.commit,
        proposal=suspicion.proposal(event),
        commit=event.commit,
        proposer=suspicion.PROBE,
    )
    opened = _moved(state, new, "commit")
    return {**opened, "next_number": event.iteration + 1, "plan": suspicion.one_more(state.plan, 1)}


def _proposed(state: RunState, event: ev.Proposed) -> Changes:
    new = Iteration(
        number=event.iteration,
        stage="propose",
        slot=slot_of(state, event.iteration),
        base=event.base,
        proposal=event.proposal,
        proposer=event.proposer,
        repeated=state.open[event.iteration].repeated if event.iteration in state.open else (),
    )
    return {**_moved(state, new), "next_number": max(state.next_number, event.iteration + 1)}


def _applied(state: RunState, event: ev.Applied) -> Changes:
    iteration = _open(state, event.iteration)
    if event.status == "applied":
        return _moved(state, iteration, applied=event)
    if event.again:
        words = iteration.proposal.description if iteration.proposal else ""
        return _moved(state, iteration, "propose", repeated=(*iteration.repeated, (words, event.summary)))
    reason = event.summary or event.status
    return _moved(state, iteration, "record", applied=event, outcome=Outcome(status="untrained", reason=reason))


def _committed(state: RunState, event: ev.Committed) -> Changes:
    return _moved(state, _open(state, event.iteration), commit=event.commit, ref=event.ref)


def _training_started(state: RunState, event: ev.TrainingStarted) -> Changes:
    iteration = _open(state, event.iteration)
    again = iteration.job is not None or iteration.reevaluate is not None
    changes = _moved(state, iteration, "train", job=event)
    why_not = event.why_not_isolated or None
    told = event.isolated or why_not is not None
    return {
        **changes,
        "trainings": state.trainings + (not again),
        "isolated": event.isolated if told else state.isolated,
        "why_not_isolated": why_not if told else state.why_not_isolated,
    }


def _training_ended(state: RunState, event: ev.TrainingEnded) -> Changes:
    iteration, outcome = _open(state, event.iteration), event.outcome
    changes = _moved(state, iteration, outcome=outcome)
    if outcome.status != "success":
        return changes
    if event.iteration == 0 and iteration.reevaluate is None:
        taken = Taken(
            wall_seconds=outcome.wall_seconds or 0.0, cpu_seconds=outcome.cpu_seconds, gpu_seconds=outcome.gpu_seconds
        )
        changes["baseline_taken"] = state.baseline_taken.at_least(taken) if state.baseline_taken else taken
    if event.iteration == 0 and (took := outcome.evaluation_taken) is not None:
        before = state.baseline_evaluation
        changes["baseline_evaluation"] = before.at_least(took) if before else took
    if outcome.metric is None:
        return changes
    again = iteration.again
    new = Measurement(
        iteration=iteration.number,
        attempt=iteration.attempt,
        commit=again.commit if again else iteration.commit,
        source=again.source if again else iteration.applied.source if iteration.applied else "",
        seed=state.seed if outcome.seed is None else outcome.seed,
        value=outcome.metric,
        curve=outcome.curve,
        machine=outcome.machine,
    )
    changes["measurements"] = (*state.measurements, new)
    if again is not None and again.of == "incumbent" and state.best is not None and state.best.commit == again.commit:
        value = mean(measured(changes["measurements"], again.source, again.commit))
        changes["best"] = state.best.model_copy(update={"metric": value})
    return changes


def _triaged(state: RunState, event: ev.Triaged) -> Changes:
    iteration = _open(state, event.iteration)
    if event.action in ("proceed", "give_up"):
        return _moved(state, iteration, triage=event)
    outcome = iteration.outcome or Outcome(status="lost")
    return _moved(
        state,
        iteration,
        "apply" if event.action == "fix_and_rerun" and iteration.number else "train",
        triage=event,
        attempt=iteration.attempt + 1,
        failures=(*iteration.failures, outcome),
        # a re-evaluation that was lost is one again: its training is done
        reevaluate={"reevaluate": outcome.checkpoint, "rerun": iteration.reevaluate}.get(event.action),
        job=None,
        outcome=None,
    )


def _look_again(state: RunState, event: ev.LookAgain) -> Changes:
    iteration = _open(state, event.iteration)
    afresh = {"attempt": iteration.attempt + 1, "job": None, "outcome": None, "triage": None, "reevaluate": None}
    return _moved(state, iteration, "train", again=event, **afresh)


def _noise_carried(state: RunState, event: ev.NoiseCarried) -> Changes:
    return {"carried": event.noise}


def _recorded(state: RunState, event: ev.Recorded) -> Changes:
    return _moved(state, _open(state, event.trial.iteration), trial=event.trial)


def _decided(state: RunState, event: ev.Decided) -> Changes:
    trial = _open(state, event.iteration).trial
    if trial is None:
        raise JournalError(f"iteration {event.iteration} is decided but not recorded", "autoexp log")
    trial = trial.model_copy(update={"decision": event.decision, "why": event.why, "evidence": event.evidence})
    best = state.best
    if event.decision == "keep" and trial.metric is not None:
        best = Best(iteration=trial.iteration, commit=trial.commit, metric=trial.metric)
    rest = {number: iteration for number, iteration in state.open.items() if number != event.iteration}
    closed = state.baseline_closed or event.iteration == 0
    talks = {number: talk for number, talk in state.conversations.items() if number != event.iteration}
    return {
        "open": rest,
        "trials": (*state.trials, trial),
        "since_keep": _since_keep(state, trial),
        "best": best,
        "baseline_closed": closed,
        "conversations": talks,
    }


def _since_keep(state: RunState, trial: Trial) -> int:
    if trial.decision == "keep" or trial.iteration == 0:
        return 0
    return state.since_keep + (trial.proposer != suspicion.PROBE)


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_opened(state: RunState, event: ev.CheckOpened) -> Changes:
    changes: Changes = {"requests": asides.taken(state, event.request)}
    if not event.auto:
        changes |= {"checking": True, "stopping": False}
    if any(check.key == event.key for check in state.checks):
        return changes
    before = tuple(c.model_copy(update={"superseded": True}) if c.under_way else c for c in state.checks)
    return {**changes, "checks": (*before, checks.opened(event, len(before) + 1))}


def _with_check(state: RunState, key: str, change: Callable[[Check], Check]) -> Changes:
    if all(check.key != key for check in state.checks):
        raise JournalError(f"there is no check {key} in run {state.run_id}", "autoexp log")
    return {"checks": tuple(change(check) if check.key == key else check for check in state.checks)}


def _check_grown(state: RunState, event: ev.CheckGrown) -> Changes:
    return _with_check(state, event.key, lambda check: checks.grown(check, event))


def _check_started(state: RunState, event: ev.CheckStarted) -> Changes:
    return _with_check(state, event.key, lambda check: checks.started(check, event))


def _check_ended(state: RunState, event: ev.CheckEnded) -> Changes:
    return _with_check(state, event.key, lambda check: checks.ended(check, event))


def _check_closed(state: RunState, event: ev.CheckClosed) -> Changes:
    return _with_check(state, event.key, lambda check: check.model_copy(update={"verdict": event.verdict}))


def _best_simplified(state: RunState, event: ev.BestSimplified) -> Changes:
    if state.best is None:
        raise JournalError(f"there is no best to simplify in run {state.run_id}", "autoexp log")
    best = state.best.model_copy(update={"commit": event.commit, "metric": event.metric})
    return {"best": best, "simplified": (*state.simplified, event)}


_REDUCERS: dict[type, Callable[[RunState, Any], Changes]] = {
    ev.RunCreated: _run_created,
    ev.PlanMade: _plan_made,
    ev.StopRequested: _stop_requested,
    ev.SessionOpened: _session_opened,
    ev.SessionClosed: _session_closed,
    ev.SetupDone: _setup_done,
    ev.StageSkipped: _stage_skipped,
    ev.BaselineOpened: _baseline_opened,
    ev.ProbeOpened: _probe_opened,
    ev.Excused: suspicion.excused,
    ev.Proposed: _proposed,
    ev.Applied: _applied,
    ev.Committed: _committed,
    ev.TrainingStarted: _training_started,
    ev.TrainingEnded: _training_ended,
    ev.Triaged: _triaged,
    ev.Recorded: _recorded,
    ev.Decided: _decided,
    ev.LookAgain: _look_again,
    ev.NoiseCarried: _noise_carried,
    ev.AgentAsked: asides.agent_asked,
    ev.AgentCalled: asides.agent_called,
    ev.Noted: asides.noted,
    ev.GuidanceGiven: asides.guidance_given,
    ev.GuidanceWithdrawn: asides.guidance_withdrawn,
    ev.QuestionAsked: asides.question_asked,
    ev.QuestionAnswered: asides.question_answered,
    ev.IdeaHad: asides.idea_had,
    ev.IdeaTried: asides.idea_tried,
    ev.IdeaDropped: asides.idea_dropped,
    ev.LessonLearned: asides.lesson_learned,
    ev.CheckOpened: _check_opened,
    ev.CheckGrown: _check_grown,
    ev.CheckStarted: _check_started,
    ev.CheckEnded: _check_ended,
    ev.CheckClosed: _check_closed,
    ev.BestSimplified: _best_simplified,
}
