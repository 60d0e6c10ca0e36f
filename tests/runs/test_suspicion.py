"""Failures alike: when the best is trained once more, and what is excused."""

from __future__ import annotations

from typing import Any

import pytest

from autoexp.runs import events as ev
from autoexp.runs.plan import Step, next_stages
from autoexp.runs.records import Best, Metric, Plan, Trial
from autoexp.runs.state import RunState, begin, reduce
from autoexp.runs.suspicion import PROBE, probe_due, suspects
from autoexp.testing import trial

GONE = "FileNotFoundError: [Errno 2] No such file or directory: '/data/{}.bin'"


def crash(number: int, reason: str = "out of memory", **fields: Any) -> Trial:
    changes = {"status": "crash", "reason": reason, "decision": "crash", "metric": None, **fields}
    return trial(number, None).model_copy(update=changes)


def good(number: int, **fields: Any) -> Trial:
    return trial(number, 0.5).model_copy(update={"decision": "discard", **fields})


def state_of(*trials: Trial, target: int | None = 20) -> RunState:
    created = ev.RunCreated(at=1.0, run_id="r", branch="b", base="0" * 40, seed=7, metric=Metric())
    return begin(created).model_copy(
        update={
            "plan": Plan(target=target),
            "setup_done": True,
            "baseline_closed": True,
            "trials": (good(0, decision="keep"), *trials),
            "best": Best(iteration=0, commit="0" * 40, metric=0.5),
            "next_number": len(trials) + 1,
        }
    )


@pytest.mark.parametrize(
    ("trials", "due"),
    [
        ([], False),
        ([crash(1), crash(2)], False),
        ([crash(1), crash(2), crash(3)], True),
        ([crash(n, GONE.format(n)) for n in (1, 2, 3)], True),
        ([crash(1), crash(2, "another"), crash(3)], False),
        ([crash(1), crash(2), good(3)], False),
        ([crash(1), crash(2), crash(3, status="untrained")], False),
        # a probe that trained: twice as many are waited for
        ([crash(1), crash(2), crash(3), good(4, proposer=PROBE)], False),
        ([crash(1), crash(2), crash(3), good(4, proposer=PROBE), crash(5), crash(6)], False),
        ([crash(1), crash(2), crash(3), good(4, proposer=PROBE), crash(5), crash(6), crash(7)], True),
        # one that did not: a single failure is enough
        ([crash(1, excused=True), crash(2, excused=True, proposer=PROBE), crash(3)], True),
        ([crash(1, excused=True), crash(2, excused=True, proposer=PROBE), good(3), crash(4)], False),
    ],
)
def test_failures_alike_in_a_row_call_for_a_probe(trials: list[Trial], due: bool) -> None:
    state = state_of(*trials)
    assert probe_due(state) == due
    stage = "probe" if due else "propose"
    assert next_stages(state, state.plan) == (Step(stage, len(trials) + 1),)


def test_without_a_best_there_is_nothing_to_train_again() -> None:
    state = state_of(crash(1), crash(2), crash(3)).model_copy(update={"best": None})
    assert not probe_due(state)


def test_a_probe_is_none_of_the_iterations_that_were_asked_for() -> None:
    state = state_of(crash(1), crash(2), crash(3))
    after = reduce(state, ev.ProbeOpened(iteration=4, commit=state.tip, why="they failed alike"))
    assert (after.plan.target, after.next_number, after.open[4].stage) == (21, 5, "commit")
    assert next_stages(after, after.plan.model_copy(update={"workers": 2})) == (Step("commit", 4),)
    assert after.open[4].commit == state.tip


def test_what_failed_before_a_probe_that_failed_is_excused_and_the_run_stops_until_a_session_opens() -> None:
    state = state_of(good(1), crash(2), crash(3), crash(4), crash(5, "no such GPU", proposer=PROBE))
    assert [each.iteration for each in suspects(state)] == [4, 3, 2]
    assert next_stages(state, state.plan) == (Step("excuse", 5),)
    after = reduce(state, ev.Excused(iterations=(2, 3, 4, 5), why="no such GPU"))
    assert [each.excused for each in after.trials] == [False, False, True, True, True, True]
    assert after.trials[2].why == "not counted: no such GPU"
    assert after.plan.target == 23
    assert next_stages(after, after.plan) == ()
    again = reduce(after, ev.SessionOpened(pid=1, host="h"))
    assert next_stages(again, again.plan) == (Step("propose", 6),)
    assert reduce(again, ev.Excused(iterations=(2,), why="again")).plan.target == 23  # once is enough


def test_at_the_target_nothing_is_trained_again() -> None:
    state = state_of(crash(1), crash(2), crash(3), target=3)
    assert next_stages(state, state.plan) == ()
    more = state.plan.model_copy(update={"target": 5})
    assert next_stages(state, more) == (Step("probe", 4),)
