"""Budgets: what counts, when a limit is reached, and that only the journal is asked."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from autoexp.runs import budget
from autoexp.runs import events as ev
from autoexp.runs.budget import doubt, limited, reached, used
from autoexp.runs.plan import next_stages
from autoexp.runs.records import Budget, Metric, Outcome, Plan
from autoexp.runs.state import RunState, begin, reduce
from autoexp.testing import proposal, trial

CREATED = ev.RunCreated(at=1000.0, run_id="r", branch="b", base="0" * 40, seed=7, metric=Metric())
READY = (ev.SetupDone(at=1000.0), ev.StageSkipped(at=1000.0, iteration=0, stage="baseline"))


def after(*events: ev.Event, created: ev.RunCreated = CREATED) -> RunState:
    state = begin(created)
    for event in events:
        state = reduce(state, event)
    return state


def plan(**limits: Any) -> Plan:
    return Plan(target=None, budget=Budget.model_validate(limits))


def opened(at: float) -> ev.SessionOpened:
    return ev.SessionOpened(at=at, pid=1, host="h")


def iteration(number: int, metric: float = 1.0, decision: Any = "discard", at: float = 1000.0) -> list[ev.Event]:
    key = {"iteration": number, "attempt": 1, "at": at}
    return [
        ev.Proposed(at=at, iteration=number, base="0" * 40, proposal=proposal(LR=1), proposer="p"),
        ev.Applied.model_validate({**key, "status": "applied", "source": f"s{number}"}),
        ev.Committed.model_validate({**key, "commit": f"{number:040}", "ref": "r"}),
        ev.TrainingStarted.model_validate({**key, "folder": "f"}),
        ev.TrainingEnded.model_validate({**key, "outcome": Outcome(status="success", metric=metric)}),
        ev.Triaged.model_validate({**key, "action": "proceed"}),
        ev.Recorded(at=at, trial=trial(number, metric)),
        ev.Decided(at=at, iteration=number, decision=decision, why="w"),
    ]


def call(at: float = 1000.0, **fields: Any) -> ev.AgentCalled:
    given = {"iteration": 1, "attempt": 1, "stage": "propose", "agent": "a", "seconds": 1.0, "at": at}
    return ev.AgentCalled.model_validate({**given, **fields})


def opens(state: RunState, limits: Plan) -> bool:
    """Whether another iteration may be opened."""
    return any(step.stage == "propose" for step in next_stages(state, limits))


# -- hours --------------------------------------------------------------------------------------------------------


def test_hours_are_those_between_the_openings_and_the_ends_of_sessions() -> None:
    state = after(*READY, opened(1000.0), ev.SessionClosed(at=2800.0, reason="stopped"))
    assert state.worked_seconds == 1800.0
    state = reduce(state, opened(90000.0))
    assert state.worked_seconds == 1800.0
    state = reduce(state, ev.Noted(at=90000.0 + 900.0, text="t"))
    assert used(state)["max_hours"] == 0.75


def test_of_a_killed_session_the_time_up_to_its_last_event_counts() -> None:
    state = after(
        *READY, opened(1000.0), ev.Noted(at=1600.0, text="t"), opened(50000.0), ev.Noted(at=50100.0, text="t")
    )
    assert state.worked_seconds == 700.0


def test_a_clock_that_was_put_back_takes_nothing_away() -> None:
    state = after(*READY, opened(1000.0), ev.Noted(at=1600.0, text="t"), ev.SessionClosed(at=900.0, reason="stopped"))
    assert state.worked_seconds == 0.0
    assert after(*READY, opened(1000.0), ev.Noted(at=10.0, text="t")).worked_seconds == 0.0


def test_past_its_hours_a_run_finishes_what_is_open_and_opens_nothing() -> None:
    limits, events = plan(max_hours=1), iteration(1, at=1500.0)
    state = after(*READY, opened(1000.0), *events[:4], ev.Noted(at=1000.0 + 3600.0, text="t"))
    assert [step.stage for step in next_stages(state, limits)] == ["train"]
    done = after(*READY, opened(1000.0), *iteration(1, at=4600.0))
    assert next_stages(done, limits) == ()
    assert reached(done, limits) == ("max_hours", "1 of 1 hours")
    assert opens(done, plan(max_hours=1.01))


# -- trainings ----------------------------------------------------------------------------------------------------


def test_every_training_that_was_started_counts_once() -> None:
    first = ev.TrainingStarted(iteration=1, attempt=1, folder="f")
    crash = ev.TrainingEnded(iteration=1, attempt=1, outcome=Outcome(status="crash", checkpoint="/c"))
    state = after(*READY, *iteration(1)[:3], first, first, crash)
    assert state.trainings == 1, "told twice: the session was killed in between"

    for action, trainings in (("rerun", 2), ("fix_and_rerun", 2), ("reevaluate", 1)):
        again = reduce(state, ev.Triaged.model_validate({"iteration": 1, "attempt": 1, "action": action}))
        if action == "fix_and_rerun":
            again = reduce(again, ev.Applied(iteration=1, attempt=2, status="applied"))
            again = reduce(again, ev.Committed(iteration=1, attempt=2, commit="c", ref="r"))
        again = reduce(again, ev.TrainingStarted(iteration=1, attempt=2, folder="g"))
        assert (action, again.trainings) == (action, trainings)


def test_the_baseline_is_a_training_and_a_refused_candidate_is_none() -> None:
    state = after(
        ev.SetupDone(),
        ev.BaselineOpened(commit="0" * 40, ref="r", source="s"),
        ev.TrainingStarted(iteration=0, attempt=1, folder="f"),
    )
    assert state.trainings == 1
    refused = ev.Applied(iteration=1, attempt=1, status="refused")
    assert after(*READY, iteration(1)[0], refused).trainings == 0


def test_iterations_under_way_have_their_trainings_promised() -> None:
    """Three workers and two trainings left: the third worker gets none."""
    limits = plan(max_trials=2).model_copy(update={"workers": 3})
    state = after(*READY, *iteration(1)[:3])
    assert opens(state, limits)
    state = after(*READY, *iteration(1)[:3], *iteration(2)[:3])
    assert not opens(state, limits)
    assert reached(state, limits) == ("max_trials", "0 of 2 trainings")
    assert [step.stage for step in next_stages(state, limits)] == ["train", "train"]


# -- dollars and tokens -------------------------------------------------------------------------------------------


def test_dollars_and_tokens_are_those_that_are_reported() -> None:
    calls = [call(cost_usd=0.3, input_tokens=900, output_tokens=100), call(cost_usd=None), call(cost_usd=0.2)]
    state = after(*READY, *calls)
    assert (used(state)["max_cost"], used(state)["max_tokens"]) == (0.5, 1000)
    assert opens(state, plan(max_cost=0.51)) and opens(state, plan(max_tokens=1001))
    assert reached(state, plan(max_cost=0.5)) == ("max_cost", "$0.50 of $0.50")
    assert reached(state, plan(max_tokens=1000)) == ("max_tokens", "1,000 of 1,000 tokens")
    assert doubt(state, "max_cost") == "at least: 1 of 3 calls did not tell what it cost"


def test_a_cost_that_nobody_reports_is_unknown_and_not_nothing() -> None:
    state = after(*READY, call(input_tokens=5), call(output_tokens=5))
    assert doubt(state, "max_cost") == "it cannot hold: none of 2 calls told what it cost"
    assert doubt(state, "max_tokens") == ""
    assert doubt(after(*READY), "max_cost") == doubt(state, "max_hours") == ""
    assert opens(state, plan(max_cost=0.01))


def test_what_each_agent_took_is_told_apart() -> None:
    state = after(*READY, call(agent="a", cost_usd=1.0), call(agent="b", input_tokens=7), call(agent="a", cost_usd=0.5))
    assert (state.agents["a"].spent.calls, state.agents["a"].spent.cost_usd) == (2, 1.5)
    assert (state.agents["b"].spent.input_tokens, state.agents["b"].spent.unpriced) == (7, 1)
    assert (state.spent.calls, state.spent.cost_usd, state.spent.unpriced) == (3, 1.5, 1)


# -- enough -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "best", "until", "enough"),
    [
        *[("min", 0.95, 0.95, True), ("min", 0.94, 0.95, True), ("min", 0.96, 0.95, False)],
        *[("max", 0.95, 0.95, True), ("max", 0.94, 0.95, False), ("min", 0.0, 0.0, True), ("max", -1.0, 0.0, False)],
    ],
)
def test_until_is_a_best_that_is_at_least_as_good(direction: Any, best: float, until: float, enough: bool) -> None:
    created = CREATED.model_copy(update={"metric": Metric(direction=direction)})
    state = after(*READY, *iteration(1, best, "keep"), created=created)
    assert (reached(state, plan(until=until)) is not None) is enough
    assert opens(state, plan(until=until)) is not enough


def test_without_a_best_nothing_is_enough() -> None:
    assert opens(after(*READY), plan(until=1e9))


def test_a_plateau_is_decided_iterations_in_a_row_without_a_keep() -> None:
    state = after(*READY, *iteration(1), *iteration(2, 0.5, "keep"), *iteration(3), *iteration(4, decision="crash"))
    assert state.since_keep == 2
    assert opens(state, plan(plateau=3))
    assert reached(state, plan(plateau=2)) == ("plateau", "2 of 2 iterations in a row without one that was kept")


def test_only_the_resume_of_a_run_that_a_plateau_has_ended_counts_anew() -> None:
    stuck = after(*READY, opened(1.0), *iteration(1), *iteration(2))
    assert reduce(stuck, opened(2.0)).since_keep == 2, "killed: it ends as it would have"
    stopped = reduce(stuck, ev.SessionClosed(reason="stopped"))
    assert reduce(stopped, opened(2.0)).since_keep == 2
    ended = reduce(stuck, ev.SessionClosed(reason="plateau"))
    assert (ended.since_keep, reduce(ended, opened(2.0)).since_keep) == (2, 0)


def test_a_target_and_a_budget_hold_both() -> None:
    state = after(*READY, *iteration(1))
    both = Plan(target=1, budget=Budget(max_trials=9))
    assert not opens(state, both) and reached(state, both) is None
    assert opens(state, Plan(target=2, budget=Budget(max_trials=9)))
    assert not opens(state, Plan(target=2, budget=Budget(max_trials=1)))


def test_the_baseline_is_measured_whatever_the_budget() -> None:
    state = after(opened(1000.0), ev.SetupDone(at=9e9))
    assert reached(state, plan(max_hours=1)) is not None
    assert [step.stage for step in next_stages(state, plan(max_hours=1))] == ["baseline"]


def test_every_prefix_of_a_journal_decides_the_same_again() -> None:
    """Whatever the time is when it is asked: the clock has no say."""
    events = [*READY, opened(1000.0), *itertools.chain(*(iteration(n, at=1000.0 + 600.0 * n) for n in range(1, 9)))]
    limits = plan(max_hours=0.9, max_trials=100, plateau=50)
    first = [opens(after(*events[:n]), limits) for n in range(2, len(events) + 1)]
    assert [opens(after(*events[:n]), limits) for n in range(2, len(events) + 1)] == first
    assert first[-1] is False and any(first)


# -- the record ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", budget.LIMITS)
def test_none_lifts_any_limit_and_zero_those_that_could_not_be_zero(name: str) -> None:
    assert getattr(Budget.model_validate({name: "none"}), name) is None
    assert getattr(Budget.model_validate({name: None}), name) is None
    lifted = getattr(Budget.model_validate({name: "0"}), name)
    assert lifted == (0.0 if name == "until" else None)
    assert limited(Plan(budget=Budget.model_validate({name: "3"})))
    assert not limited(Plan())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *[(name, ("soon", "nan", "inf", "-1", "")) for name in ("max_hours", "max_cost")],
        *[(name, ("soon", "nan", "inf", "-1", "2.5")) for name in ("max_trials", "max_tokens", "plateau")],
        ("until", ("soon", "nan", "inf")),
    ],
)
def test_what_is_no_limit_is_refused(name: str, values: tuple[str, ...]) -> None:
    for value in values:
        with pytest.raises(ValidationError):
            Budget.model_validate({name: value})


def test_a_plan_of_an_older_release_has_no_limit() -> None:
    assert Plan.model_validate({"target": 3}).budget == Budget()
