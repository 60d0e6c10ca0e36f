"""The reducer: what each event changes, and that none is without one."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from autoexp.errors import JournalError
from autoexp.runs import events as ev
from autoexp.runs.checked import Checked, Verdict
from autoexp.runs.records import Best, Metric, Noise, Outcome, Plan
from autoexp.runs.state import RunState, begin, reduce, replay
from autoexp.testing import proposal, trial

CREATED = ev.RunCreated(at=1.0, run_id="r", branch="b", base="0" * 40, seed=7, metric=Metric())
PROPOSED = ev.Proposed(iteration=1, base="0" * 40, proposal=proposal(LR=0.5), proposer="me")
APPLIED = ev.Applied(iteration=1, attempt=1, status="applied", tree="t", source="s")
COMMITTED = ev.Committed(iteration=1, attempt=1, commit="c" * 40, ref="ref")
STARTED = ev.TrainingStarted(iteration=1, attempt=1, folder="f", pid=3, isolated=True)
ENDED = ev.TrainingEnded(iteration=1, attempt=1, outcome=Outcome(status="success", metric=0.5))
TRIAGED = ev.Triaged(iteration=1, attempt=1, action="proceed")
RECORDED = ev.Recorded(trial=trial(1, 0.5))
DECIDED = ev.Decided(iteration=1, decision="keep", why="better")
ITERATION = [PROPOSED, APPLIED, COMMITTED, STARTED, ENDED, TRIAGED, RECORDED, DECIDED]

PROGRAMS = (
    Checked(name="baseline", commit="0" * 40, iteration=0),
    Checked(name="best", commit="c" * 40, iteration=1),
)
OPENED = ev.CheckOpened(key="audit-1", kind="audit", programs=PROGRAMS, seeds=(11, 12))
TRAINED = [
    ev.CheckStarted(key="audit-1", place=0, job=ev.TrainingStarted(iteration=-1, attempt=1, folder="f")),
    ev.CheckEnded(key="audit-1", place=0, outcome=Outcome(status="success", metric=0.5)),
]


def after(*events: ev.Event) -> RunState:
    return replay([CREATED, *events])


EXAMPLES: dict[type, tuple[list[Any], Any]] = {
    ev.PlanMade: ([], ev.PlanMade(plan=Plan(target=3))),
    ev.StopRequested: ([], ev.StopRequested()),
    ev.SessionOpened: ([], ev.SessionOpened(pid=1, host="h")),
    ev.SessionClosed: ([], ev.SessionClosed(reason="done")),
    ev.SetupDone: ([], ev.SetupDone()),
    ev.StageSkipped: ([], ev.StageSkipped(iteration=0, stage="baseline")),
    ev.BaselineOpened: ([], ev.BaselineOpened(commit="0" * 40, ref="r", source="s")),
    ev.ProbeOpened: ([], ev.ProbeOpened(iteration=1, commit="0" * 40, why="3 failed alike")),
    ev.Excused: (ITERATION, ev.Excused(iterations=(1,), why="data is missing: x")),
    ev.Noted: ([], ev.Noted(text="hello")),
    ev.AgentAsked: (
        [],
        ev.AgentAsked(iteration=1, attempt=1, stage="propose", agent="a", number=1, tries=2, timeout_seconds=600.0),
    ),
    ev.AgentCalled: ([], ev.AgentCalled(iteration=1, attempt=1, stage="propose", agent="a", seconds=1.0)),
    ev.GuidanceGiven: ([], ev.GuidanceGiven(text="no dropout")),
    ev.GuidanceWithdrawn: ([ev.GuidanceGiven(text="no dropout")], ev.GuidanceWithdrawn(number=1)),
    ev.QuestionAsked: ([], ev.QuestionAsked(iteration=1, by="a", text="which GPU?")),
    ev.QuestionAnswered: (
        [ev.QuestionAsked(iteration=1, by="a", text="which GPU?")],
        ev.QuestionAnswered(number=1, answer="the big one"),
    ),
    ev.IdeaHad: ([], ev.IdeaHad(iteration=1, by="a", text="deeper")),
    ev.IdeaTried: ([ev.IdeaHad(iteration=1, by="a", text="deeper")], ev.IdeaTried(iteration=2, number=1)),
    ev.IdeaDropped: ([ev.IdeaHad(iteration=1, by="a", text="deeper")], ev.IdeaDropped(number=1)),
    ev.LessonLearned: ([], ev.LessonLearned(iteration=1, by="a", text="depth costs time")),
    ev.CheckOpened: ([], OPENED),
    ev.CheckGrown: ([OPENED], ev.CheckGrown(key="audit-1", program=Checked(name="x", commit="x", iteration=1))),
    ev.CheckStarted: ([OPENED], TRAINED[0]),
    ev.CheckEnded: ([OPENED, TRAINED[0]], TRAINED[1]),
    ev.CheckClosed: ([OPENED], ev.CheckClosed(key="audit-1", verdict=Verdict(finding="unclear", words="w"))),
    ev.BestSimplified: (
        ITERATION,
        ev.BestSimplified(key="ablate-1", commit="d" * 40, of="c" * 40, removed=(1,), metric=0.4, why="w"),
    ),
    ev.LookAgain: (
        ITERATION[:-1],
        ev.LookAgain(iteration=1, of="candidate", commit="c" * 40, source="s", seed=3, why="it may be luck"),
    ),
    ev.NoiseCarried: ([], ev.NoiseCarried(noise=Noise(squares=0.5, freedom=2), runs=("other",))),
    **{type(event): (ITERATION[:n], event) for n, event in enumerate(ITERATION)},
}


@pytest.mark.parametrize("kind", get_args(ev.Event), ids=lambda kind: kind.__name__)
def test_every_event_has_a_reducer_that_changes_the_state_and_nothing_it_was_given(kind: type) -> None:
    if kind is ev.RunCreated:
        with pytest.raises(JournalError, match="twice"):
            reduce(after(), CREATED)
        return
    before, event = EXAMPLES[kind]
    state = after(*before)
    copy = state.model_copy(deep=True)
    changed = reduce(state, event)
    assert changed.model_dump(exclude={"updated_at"}) != state.model_dump(exclude={"updated_at"})
    assert changed.updated_at == event.at
    assert state == copy


@pytest.mark.parametrize("kind", get_args(ev.Event), ids=lambda kind: kind.__name__)
def test_every_event_has_a_type_word_of_its_own_and_survives_its_line(kind: type) -> None:
    event = CREATED if kind is ev.RunCreated else EXAMPLES[kind][1]
    assert ev.ADAPTER.validate_json(event.model_dump_json()) == event
    assert [other for other in get_args(ev.Event) if other.model_fields["type"].default == event.type] == [kind]


def test_an_iteration_moves_through_its_stages_and_closes() -> None:
    stages = []
    state = after()
    for event in ITERATION:
        state = reduce(state, event)
        stages += [state.open[1].stage] if state.open else ["closed"]
    assert stages == ["apply", "commit", "train", "train", "triage", "record", "decide", "closed"]
    assert state.trials[0].decision == "keep"
    assert state.trials[0].why == "better"
    assert state.best == Best(iteration=1, commit=trial(1, 0.5).commit, metric=0.5)
    assert (state.next_number, state.completed, state.tip) == (2, 1, state.best.commit)


@pytest.mark.parametrize("decision", ["discard", "crash", "inconclusive"])
def test_only_a_keep_changes_the_best(decision: Any) -> None:
    state = after(*ITERATION[:-1], ev.Decided(iteration=1, decision=decision, why="w"))
    assert state.best is None
    assert state.tip == CREATED.base
    assert state.trials[0].decision == decision


def test_a_kept_trial_without_a_number_is_no_best() -> None:
    state = after(*ITERATION[:-2], ev.Recorded(trial=trial(1, None)), DECIDED)
    assert state.best is None


def test_the_baseline_is_not_counted_as_completed() -> None:
    opened = ev.BaselineOpened(commit="0" * 40, ref="r", source="s", constants={"LR": 1})
    state = after(ev.SetupDone(), opened)
    assert state.open[0].stage == "train"
    assert state.open[0].applied is not None and state.open[0].applied.constants == {"LR": 1}
    for event in (STARTED, ENDED, TRIAGED):
        state = reduce(state, event.model_copy(update={"iteration": 0}))
    state = reduce(state, ev.Recorded(trial=trial(0, 0.5)))
    state = reduce(state, ev.Decided(iteration=0, decision="keep", why="first"))
    assert (state.baseline_closed, state.completed, state.next_number) == (True, 0, 1)


def test_a_session_that_was_killed_has_no_farewell() -> None:
    opened, closed = ev.SessionOpened(pid=1, host="h"), ev.SessionClosed(reason="done")
    assert after(opened, closed).closed == closed
    assert after(opened, closed, opened).closed is None


def test_requests_and_notes_are_remembered_but_not_for_ever() -> None:
    state = after(*[ev.StopRequested(request=f"{n}") for n in range(150)], *[ev.Noted(text=f"{n}") for n in range(30)])
    assert state.requests == tuple(f"{n}" for n in range(50, 150))
    assert [note.text for note in state.notes] == [f"{n}" for n in range(10, 30)]
    assert after(ev.StopRequested(), ev.PlanMade(plan=Plan())).requests == ()


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([APPLIED], "iteration 1 is not open"),
        ([*ITERATION, DECIDED], "iteration 1 is not open"),
        ([*ITERATION[:6], ev.StageSkipped(iteration=1, stage="record"), DECIDED], "decided but not recorded"),
        ([*ITERATION[:7], ev.StageSkipped(iteration=1, stage="decide")], "cannot be skipped"),
        ([CREATED], "twice"),
    ],
)
def test_what_no_session_writes_is_refused(events: list[Any], said: str) -> None:
    with pytest.raises(JournalError, match=said) as caught:
        after(*events)
    assert caught.value.hint


def test_a_journal_begins_with_the_runs_creation() -> None:
    with pytest.raises(JournalError, match="begins with 'setup_done'"):
        begin(ev.SetupDone())


def test_a_skipped_proposal_opens_an_iteration_of_the_unchanged_program() -> None:
    state = after(ev.StageSkipped(iteration=1, stage="propose"))
    assert (state.open[1].stage, state.open[1].base, state.open[1].commit) == ("apply", CREATED.base, CREATED.base)
    assert state.next_number == 2
