"""RunState and `reduce`: what the journal's events add up to. Pure: no files, no clock, no git."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from autoexp.errors import JournalError
from autoexp.runs import events as ev
from autoexp.runs.measuring import mean, measured, repeats
from autoexp.runs.records import (
    AgentRecord,
    Best,
    Guidance,
    Idea,
    Lesson,
    Measurement,
    Metric,
    Noise,
    Outcome,
    Plan,
    Proposal,
    Question,
    Record,
    Spent,
    Trial,
)
from autoexp.runs.resting import judged, rested

R = TypeVar("R", bound=Record)
LESSONS = 200
"""How many a run remembers."""
BASELINE = ("baseline", "train", "triage", "record", "decide")
"""The stages of iteration 0."""
LOOP = ("propose", "apply", "commit", "train", "triage", "record", "decide")
"""The stages of every other iteration."""
TOP = ("setup", "baseline", "loop")
"""What `--only` selects."""


class Iteration(Record):
    """An iteration under way. `stage` is what comes next; `attempt` counts from 1."""

    number: int
    stage: str
    attempt: int = 1
    slot: int = 0
    """Its worktree and device, its own while it is open."""
    base: str = ""
    proposal: Proposal | None = None
    proposer: str = ""
    applied: ev.Applied | None = None
    commit: str = ""
    ref: str = ""
    job: ev.TrainingStarted | None = None
    outcome: Outcome | None = None
    failures: tuple[Outcome, ...] = ()
    """Outcomes of the earlier attempts."""
    triage: ev.Triaged | None = None
    reevaluate: str | None = None
    """Checkpoint that this attempt evaluates instead of training."""
    trial: Trial | None = None
    again: ev.LookAgain | None = None
    """What this attempt trains once more; None: the candidate for the first time."""
    repeated: tuple[tuple[str, str], ...] = ()
    """(description, why not) of changes that came to a program that was trained before; another was asked for."""

    @property
    def stages(self) -> tuple[str, ...]:
        return BASELINE if self.number == 0 else LOOP


class RunState(Record):
    """The whole truth about a run, as far as its journal goes."""

    format: int = ev.FORMAT
    run_id: str
    branch: str
    base: str
    seed: int
    metric: Metric
    created_at: float
    updated_at: float
    plan: Plan = Plan()
    setup_done: bool = False
    baseline_closed: bool = False
    """Decided, or skipped because it was not selected."""
    open: dict[int, Iteration] = {}
    trials: tuple[Trial, ...] = ()
    """Decided trials in iteration order, the baseline first."""
    next_number: int = 1
    """The number that the next loop iteration will get."""
    best: Best | None = None
    measurements: tuple[Measurement, ...] = ()
    """All finished trainings that have a number, in the order in which they ended."""
    carried: Noise | None = None
    """What earlier runs measured of the noise; None before it was looked for."""
    earlier_seconds: float = 0.0
    """What the sessions before the present one worked; of a closed one, it too."""
    trainings: int = 0
    """That were started, re-evaluations not counted."""
    since_keep: int = 0
    """Iterations decided in a row of which none was kept."""
    spent: Spent = Spent()
    agents: dict[str, AgentRecord] = {}
    """By the name of each agent that was called."""
    conversations: dict[int, tuple[str, str]] = {}
    """(agent, its name for the conversation) of the iterations under way and of the one that is being proposed."""
    guidance: tuple[Guidance, ...] = ()
    """All that a person ever said to keep in mind, by number."""
    questions: tuple[Question, ...] = ()
    """All that the person was ever asked, by number."""
    ideas: tuple[Idea, ...] = ()
    """The backlog, by number."""
    lessons: tuple[Lesson, ...] = ()
    """The last two hundred."""
    stopping: bool = False
    session: ev.SessionOpened | None = None
    closed: ev.SessionClosed | None = None
    """How the last session ended; None while one is open, or when it was killed."""
    requests: tuple[str, ...] = ()
    """Requests already taken in (the last hundred)."""
    notes: tuple[ev.Noted, ...] = ()
    """The last few."""

    @property
    def completed(self) -> int:
        """Completed loop iterations, the baseline not counted."""
        return len(self.trials) - (1 if self.trials and self.trials[0].iteration == 0 else 0)

    @property
    def worked_seconds(self) -> float:
        """Wall time of the run's sessions, up to the last event: nothing but the journal's own times."""
        if self.session is None or self.closed is not None:
            return self.earlier_seconds
        return self.earlier_seconds + max(0.0, self.updated_at - self.session.at)

    @property
    def steering(self) -> tuple[Guidance, ...]:
        """The guidance in force."""
        return tuple(each for each in self.guidance if not each.withdrawn)

    @property
    def unanswered(self) -> tuple[Question, ...]:
        """The questions that wait for the person."""
        return tuple(each for each in self.questions if not each.answer)

    @property
    def backlog(self) -> tuple[Idea, ...]:
        """The ideas that nobody has tried yet."""
        return tuple(each for each in self.ideas if each.tried is None and not each.dropped)

    @property
    def free_slot(self) -> int:
        """The worktree and device that the next iteration will get."""
        taken = {iteration.slot for iteration in self.open.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def measured(self, source: str, commit: str) -> tuple[Measurement, ...]:
        """The measurements of a program."""
        return measured(self.measurements, source, commit)

    @property
    def noise(self) -> Noise:
        """How much the metric changes from seed to seed, by all repeats of this run and what was carried into it."""
        return repeats(self.measurements, self.carried)

    def trained(self, source: str) -> Trial | None:
        """The trial that has trained the program with this hash; None when none has."""
        return next((t for t in self.trials if t.source == source and t.status == "success"), None)

    def talk(self, iteration: int, agent: str) -> str | None:
        """The conversation that `agent` has had about an iteration; None when it would begin one."""
        name, conversation = self.conversations.get(iteration, ("", ""))
        return conversation if name == agent else None

    @property
    def tip(self) -> str:
        """The commit that the next proposal starts from."""
        return self.best.commit if self.best else self.base


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


Changes = dict[str, Any]


def same_words(one: str, other: str) -> bool:
    """Whether two texts say the same, but for case, spaces and the last full stop."""
    return " ".join(one.casefold().split()).rstrip(".") == " ".join(other.casefold().split()).rstrip(".")


def slot_of(state: RunState, iteration: int) -> int:
    """The worktree and device of an iteration that is proposed: its own when it is open already."""
    return state.open[iteration].slot if iteration in state.open else state.free_slot


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


def _taken(state: RunState, request: str | None) -> tuple[str, ...]:
    return (*state.requests, request)[-100:] if request else state.requests


def _plan_made(state: RunState, event: ev.PlanMade) -> Changes:
    # a baseline that was skipped is measured when it is asked for after all, as long as nothing else was tried
    again = "baseline" in event.plan.stages and state.next_number == 1 and not state.trials and not state.open
    closed = state.baseline_closed and not again
    requests = _taken(state, event.request)
    return {"plan": event.plan, "stopping": False, "requests": requests, "baseline_closed": closed}


def _stop_requested(state: RunState, event: ev.StopRequested) -> Changes:
    return {"stopping": True, "requests": _taken(state, event.request)}


def _session_opened(state: RunState, event: ev.SessionOpened) -> Changes:
    # who resumes what had come to a standstill wants to see more of it
    again = state.closed is not None and state.closed.reason == "plateau"
    return {
        "session": event,
        "closed": None,
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
    return {**_moved(state, iteration, "train", job=event), "trainings": state.trainings + (not again)}


def _training_ended(state: RunState, event: ev.TrainingEnded) -> Changes:
    iteration, outcome = _open(state, event.iteration), event.outcome
    changes = _moved(state, iteration, outcome=outcome)
    if outcome.status != "success" or outcome.metric is None:
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
        "since_keep": 0 if event.decision == "keep" or event.iteration == 0 else state.since_keep + 1,
        "best": best,
        "baseline_closed": closed,
        "conversations": talks,
    }


def _agent_called(state: RunState, event: ev.AgentCalled) -> Changes:
    conversations = state.conversations
    if event.conversation:
        conversations = {**conversations, event.iteration: (event.agent, event.conversation)}
    before = state.agents.get(event.agent, AgentRecord())
    after = judged(before, event).model_copy(update={"spent": _added(before.spent, event)})
    return {
        "spent": _added(state.spent, event),
        "agents": {**state.agents, event.agent: after},
        "conversations": conversations,
    }


def sum_of(calls: Iterable[ev.AgentCalled]) -> Spent:
    """What these calls took together."""
    return functools.reduce(_added, calls, Spent())


def _added(spent: Spent, event: ev.AgentCalled) -> Spent:
    counted = event.input_tokens is not None or event.output_tokens is not None
    return Spent(
        calls=spent.calls + 1,
        input_tokens=spent.input_tokens + (event.input_tokens or 0),
        output_tokens=spent.output_tokens + (event.output_tokens or 0),
        cost_usd=spent.cost_usd + (event.cost_usd or 0.0),
        uncounted=spent.uncounted + (not counted),
        unpriced=spent.unpriced + (event.cost_usd is None),
    )


def _noted(state: RunState, event: ev.Noted) -> Changes:
    return {"notes": (*state.notes, event)[-20:]}


# -- what a person says, and what a proposer remembers ----------------------------------------------------------------


def _changed(items: tuple[R, ...], number: int, **changes: Any) -> tuple[R, ...]:
    """With the item of that number changed; a number that is none changes nothing: it was asked for twice, say."""
    return tuple(item.model_copy(update=changes) if getattr(item, "number", 0) == number else item for item in items)


def _guidance_given(state: RunState, event: ev.GuidanceGiven) -> Changes:
    new = Guidance(number=len(state.guidance) + 1, text=event.text)
    return {"guidance": (*state.guidance, new), "requests": _taken(state, event.request)}


def _guidance_withdrawn(state: RunState, event: ev.GuidanceWithdrawn) -> Changes:
    changed = _changed(state.guidance, event.number, withdrawn=True)
    return {"guidance": changed, "requests": _taken(state, event.request)}


def _question_asked(state: RunState, event: ev.QuestionAsked) -> Changes:
    new = Question(number=len(state.questions) + 1, iteration=event.iteration, by=event.by, text=event.text)
    return {"questions": (*state.questions, new)}


def _question_answered(state: RunState, event: ev.QuestionAnswered) -> Changes:
    changed = _changed(state.questions, event.number, answer=event.answer)
    return {"questions": changed, "requests": _taken(state, event.request)}


def _idea_had(state: RunState, event: ev.IdeaHad) -> Changes:
    new = Idea(number=len(state.ideas) + 1, iteration=event.iteration, by=event.by, text=event.text)
    return {"ideas": (*state.ideas, new)}


def _idea_tried(state: RunState, event: ev.IdeaTried) -> Changes:
    return {"ideas": _changed(state.ideas, event.number, tried=event.iteration)}


def _idea_dropped(state: RunState, event: ev.IdeaDropped) -> Changes:
    return {
        "ideas": _changed(state.ideas, event.number, dropped=True),
        "requests": _taken(state, event.request),
    }


def _lesson_learned(state: RunState, event: ev.LessonLearned) -> Changes:
    new = Lesson(iteration=event.iteration, by=event.by, text=event.text)
    return {"lessons": (*state.lessons, new)[-LESSONS:]}


_REDUCERS: dict[type, Callable[[RunState, Any], Changes]] = {
    ev.RunCreated: _run_created,
    ev.PlanMade: _plan_made,
    ev.StopRequested: _stop_requested,
    ev.SessionOpened: _session_opened,
    ev.SessionClosed: _session_closed,
    ev.SetupDone: _setup_done,
    ev.StageSkipped: _stage_skipped,
    ev.BaselineOpened: _baseline_opened,
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
    ev.AgentCalled: _agent_called,
    ev.Noted: _noted,
    ev.GuidanceGiven: _guidance_given,
    ev.GuidanceWithdrawn: _guidance_withdrawn,
    ev.QuestionAsked: _question_asked,
    ev.QuestionAnswered: _question_answered,
    ev.IdeaHad: _idea_had,
    ev.IdeaTried: _idea_tried,
    ev.IdeaDropped: _idea_dropped,
    ev.LessonLearned: _lesson_learned,
}
