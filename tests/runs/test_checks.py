"""Checks, purely: what is trained next, when it is enough, what goes before what; and when a run audits itself."""

from __future__ import annotations

from typing import Any

from autoexp.runs import events as ev
from autoexp.runs.auditing import audit_due, fresh_seeds
from autoexp.runs.checked import Checked, Verdict
from autoexp.runs.plan import Step, next_stages
from autoexp.runs.records import Budget, Metric, Outcome, Plan
from autoexp.runs.state import RunState, reduce, replay
from autoexp.testing import trial

PLAN = Plan(target=1, audit_seeds=2, audit_share=0.5)
PROGRAMS = (
    Checked(name="baseline", commit="0" * 40, iteration=0, recorded=0.9),
    Checked(name="best", commit=f"{1:040x}", iteration=1, recorded=0.5),
)
OPENED = ev.CheckOpened(key="audit-1", kind="audit", programs=PROGRAMS, seeds=(11, 12))


def iteration(number: int, metric: float, seconds: float, at: float) -> list[ev.Event]:
    """An iteration (0 is the baseline) from its first event to the last."""
    done = trial(number, metric, seconds=seconds, commit="0" * 40 if number == 0 else f"{number:040x}")
    first: ev.Event = ev.BaselineOpened(commit="0" * 40, ref="r", source="s")
    if number:
        first = ev.StageSkipped(iteration=number, stage="propose")
    rest = [] if number == 0 else [ev.StageSkipped(iteration=number, stage=name) for name in ("apply", "commit")]
    return [
        first,
        *rest,
        ev.StageSkipped(iteration=number, stage="train"),
        ev.StageSkipped(iteration=number, stage="triage"),
        ev.Recorded(trial=done),
        ev.Decided(iteration=number, decision="keep", why="w", at=at),
    ]


def night(hours: float = 1.0, metric: float = 0.5, plan: Plan = PLAN, seconds: float = 60.0) -> RunState:
    """A run that has worked for so long, and has kept one change."""
    end = 1.0 + 3600 * hours
    created = ev.RunCreated(at=1.0, run_id="r", branch="b", base="0" * 40, seed=7, metric=Metric())
    opened = ev.SessionOpened(at=1.0, pid=1, host="h")
    start: list[ev.Event] = [created, ev.PlanMade(plan=plan), opened, ev.SetupDone()]
    return replay([*start, *iteration(0, 0.9, seconds, 2.0), *iteration(1, metric, seconds, end)])


def done(state: RunState, place: int, metric: float | None, **more: Any) -> RunState:
    """A training of the check, from its start to its end."""
    key = state.check.key if state.check else ""
    job = ev.TrainingStarted(iteration=-1, attempt=1, folder="f", slot=state.check.free_slot if state.check else 0)
    outcome = Outcome(status="crash" if metric is None else "success", metric=metric)
    for event in (
        ev.CheckStarted(key=key, place=place, job=job),
        ev.CheckEnded(key=key, place=place, outcome=outcome, **more),
    ):
        state = reduce(state, event)
    return state


def test_trainings_are_paired_and_so_many_at_a_time_as_there_are_workers() -> None:
    state = reduce(night(), OPENED)
    assert state.check is not None
    assert [(t.program, t.seed) for t in state.check.trainings] == [
        ("baseline", 11),
        ("best", 11),
        ("baseline", 12),
        ("best", 12),
    ]
    assert next_stages(state, PLAN) == (Step("check", 0),)
    assert next_stages(state, PLAN.model_copy(update={"workers": 3})) == tuple(Step("check", n) for n in range(3))
    for place in range(4):
        assert next_stages(state, PLAN) == (Step("check", place),)
        state = done(state, place, 0.5)
    assert next_stages(state, PLAN) == (Step("conclude"),)
    state = reduce(state, ev.CheckClosed(key="audit-1", verdict=Verdict(finding="unclear", words="w")))
    assert state.check is None and next_stages(state, PLAN) == ()


def test_what_was_lost_is_done_again_and_a_failure_counts() -> None:
    state = done(reduce(night(), OPENED), 0, None, action="rerun")
    assert next_stages(state, PLAN) == (Step("check", 0, 2),)
    state = done(state, 0, None)
    assert next_stages(state, PLAN) == (Step("check", 1),)
    assert state.check is not None and [t.program for t in state.check.failed] == ["baseline"]


def test_a_stop_lets_what_runs_come_to_its_end_and_begins_nothing() -> None:
    state = reduce(night(), OPENED)
    job = ev.TrainingStarted(iteration=-1, attempt=1, folder="f")
    state = reduce(reduce(state, ev.CheckStarted(key="audit-1", place=0, job=job)), ev.StopRequested())
    assert next_stages(state, PLAN) == (Step("check", 0),)
    ended = ev.CheckEnded(key="audit-1", place=0, outcome=Outcome(status="success", metric=0.5))
    assert next_stages(reduce(state, ended), PLAN) == ()


def test_a_check_that_a_person_asks_for_is_all_that_is_done_until_they_resume() -> None:
    more = PLAN.model_copy(update={"target": 5, "audit_seeds": 0})
    state = reduce(night(plan=more), OPENED)
    for place in range(4):
        state = done(state, place, 0.5)
    state = reduce(state, ev.CheckClosed(key="audit-1", verdict=Verdict(finding="unclear", words="w")))
    assert next_stages(state, more) == ()
    assert next_stages(reduce(state, ev.PlanMade(plan=more)), more) == (Step("propose", 2),)


def test_a_reproduction_is_over_when_the_first_training_comes_to_the_same() -> None:
    once = OPENED.model_copy(
        update={"key": "reproduce-1", "kind": "reproduce", "programs": PROGRAMS[1:], "seeds": (7, 8, 9), "early": True}
    )
    same, other = (done(reduce(night(), once), 0, metric) for metric in (0.5, 0.51))
    assert next_stages(same, PLAN) == (Step("conclude"),)
    assert next_stages(other, PLAN.model_copy(update={"workers": 8})) == (Step("check", 1), Step("check", 2))


def test_another_check_takes_the_place_of_one_that_is_not_through() -> None:
    state = done(reduce(night(), OPENED), 0, 0.5)
    again = reduce(state, OPENED)
    assert again.check == state.check  # the same one is gone on with
    state = reduce(state, OPENED.model_copy(update={"key": "audit-2", "seeds": (13,)}))
    assert [check.under_way for check in state.checks] == [False, True]


def test_seeds_are_fresh_and_the_same_until_they_are_used() -> None:
    state = night()
    first = fresh_seeds(state, 3)
    assert first == fresh_seeds(state, 3) and len(set(first)) == 3
    used = reduce(state, OPENED.model_copy(update={"seeds": first}))
    assert not set(first) & set(fresh_seeds(used, 3))
    other = night().model_copy(update={"run_id": "another"})
    assert not set(first) & set(fresh_seeds(other, 3))


def test_a_run_audits_itself_at_its_end_when_it_has_kept_something_and_that_is_cheap() -> None:
    assert next_stages(night(), PLAN) == (Step("audit"),)  # four minutes of an hour
    assert next_stages(night(), PLAN.model_copy(update={"audit_seeds": 0})) == ()
    assert next_stages(night(), PLAN.model_copy(update={"audit_share": 0.05})) == ()
    assert not audit_due(night(metric=0.9, hours=1.0), PLAN)  # a keep that gained nothing
    assert not audit_due(reduce(night(), ev.StopRequested()), PLAN)
    assert next_stages(night(), PLAN.model_copy(update={"target": 2})) == (Step("propose", 2),)
    audited = reduce(night(), OPENED.model_copy(update={"auto": True}))
    for place in range(4):
        audited = done(audited, place, 0.5)
    audited = reduce(audited, ev.CheckClosed(key="audit-1", verdict=Verdict(finding="failed", words="w")))
    assert next_stages(audited, PLAN) == ()  # also one that failed is not tried for ever


def test_hours_for_the_audit_are_kept_back() -> None:
    """At 0.95 of an hour with an audit of four minutes to come, no iteration of a minute is begun."""
    plan = Plan(target=None, budget=Budget(max_hours=1.0), audit_seeds=2, audit_share=0.2)
    assert next_stages(night(0.9), plan) == (Step("propose", 2),)
    assert next_stages(night(0.95), plan) == (Step("audit"),)
    assert next_stages(night(0.95), plan.model_copy(update={"audit_seeds": 0})) == (Step("propose", 2),)
    assert next_stages(night(0.95), plan.model_copy(update={"audit_share": 0.01})) == (Step("propose", 2),)
