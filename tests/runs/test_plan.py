"""`next_stages` and `select`: all the control flow, without a file, a clock or a process."""

from __future__ import annotations

from typing import Any

import pytest

from autoexp.errors import UsageError
from autoexp.runs import events as ev
from autoexp.runs.plan import LOOP, TOP, Step, next_stages, pending, select
from autoexp.runs.records import Metric, Outcome, Plan
from autoexp.runs.state import RunState, begin, reduce
from autoexp.testing import proposal, trial

GOOD = Outcome(status="success", metric=1.0)
ALL = Plan(target=2)


def state_after(*events: ev.Event) -> RunState:
    state = begin(ev.RunCreated(run_id="r", branch="b", base="0" * 40, seed=0, metric=Metric()))
    for event in events:
        state = reduce(state, event)
    return state


def event_of(step: Step, outcome: Outcome = GOOD, action: str = "proceed", decision: str = "discard") -> list[ev.Event]:
    """What the stage of a step would bring about."""
    n, a = step.iteration, step.attempt
    if step.skip:
        return [ev.StageSkipped(iteration=n, stage=step.stage)]
    known: dict[str, Any] = {
        "setup": [ev.SetupDone()],
        "baseline": [ev.BaselineOpened(commit="0" * 40, ref="r", source="s")],
        "propose": [ev.Proposed(iteration=n, base="0" * 40, proposal=proposal(LR=1), proposer="p")],
        "apply": [ev.Applied(iteration=n, attempt=a, status="applied", tree="t", source=f"s{n}")],
        "commit": [ev.Committed(iteration=n, attempt=a, commit=f"{n:040}", ref="r")],
        "train": [
            ev.TrainingStarted(iteration=n, attempt=a, folder="f"),
            ev.TrainingEnded(iteration=n, attempt=a, outcome=outcome),
        ],
        "triage": [ev.Triaged.model_validate({"iteration": n, "attempt": a, "action": action})],
        "record": [ev.Recorded(trial=trial(n, outcome.metric))],
        "decide": [ev.Decided.model_validate({"iteration": n, "decision": decision, "why": "w"})],
    }
    return list(known[step.stage])


def walk(state: RunState, plan: Plan, limit: int = 200) -> tuple[list[str], RunState]:
    """Always do the first step; returns the steps in words, and the state in which nothing is left."""
    words = []
    while steps := next_stages(state, plan):
        step = steps[0]
        words.append(f"{step.iteration} {step.stage}{' skip' if step.skip else ''}")
        for event in event_of(step):
            state = reduce(state, event)
        assert len(words) < limit
    return words, state


READY = (ev.SetupDone(), ev.StageSkipped(iteration=0, stage="baseline"))
BASELINE = ["0 setup", "0 baseline", "0 train", "0 triage", "0 record", "0 decide"]


def test_setup_then_the_baseline_then_the_loop_until_the_target() -> None:
    words, state = walk(state_after(), ALL)
    assert words == BASELINE + [f"{n} {stage}" for n in (1, 2) for stage in LOOP]
    assert state.completed == 2
    assert pending(state, ALL) == []


def test_with_no_loops_only_the_baseline_runs() -> None:
    assert walk(state_after(), Plan(target=0))[0] == BASELINE


def test_a_run_goes_on_where_it_was_whatever_its_last_event() -> None:
    """At every prefix of a run's events the next step is the one that was taken."""
    state, plan, expected = state_after(), ALL, walk(state_after(), ALL)[0]
    while steps := next_stages(state, plan):
        assert walk(state, plan)[0] == expected
        for event in event_of(steps[0]):
            state = reduce(state, event)
        expected = expected[1:]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (("setup",), ["0 setup"]),
        (("setup", "baseline"), BASELINE),
        (("baseline",), BASELINE),
        (("setup", "loop"), ["0 setup", "0 baseline skip"] + [f"1 {stage}" for stage in LOOP]),
        ((), []),
    ],
)
def test_only_the_selected_top_stages_run_but_setup_always_comes_first(stages: Any, words: list[str]) -> None:
    assert walk(state_after(), Plan(stages=stages, target=1))[0] == words


def test_a_baseline_under_way_is_finished_although_only_the_loop_is_selected() -> None:
    opened = state_after(ev.SetupDone(), *event_of(Step("baseline")))
    words, _ = walk(opened, Plan(stages=("loop",), target=1))
    assert words == BASELINE[2:] + [f"1 {stage}" for stage in LOOP]


@pytest.mark.parametrize(
    ("loop", "words", "left"),
    [
        (("propose",), ["1 propose"], ["iteration 1: apply"]),
        (("propose", "apply"), ["1 propose", "1 apply"], ["iteration 1: commit"]),
        (("apply",), ["1 propose skip", "1 apply"], ["iteration 1: commit"]),
        (("train",), ["1 propose skip", "1 apply skip", "1 commit", "1 train"], ["iteration 1: triage"]),
        (("propose", "train"), ["1 propose", "1 apply skip", "1 commit", "1 train"], ["iteration 1: triage"]),
        (
            ("train", "decide"),
            [
                "1 propose skip",
                "1 apply skip",
                "1 commit",
                "1 train",
                "1 triage skip",
                "1 record",
                "1 decide",
            ],
            [],
        ),
    ],
)
def test_unselected_stages_are_skipped_before_the_last_selected_and_pending_after_it(
    loop: Any, words: list[str], left: list[str]
) -> None:
    plan = Plan(loop=loop, target=1)
    state = state_after(*READY)
    said = []
    while steps := next_stages(state, plan):
        said.append(f"{steps[0].iteration} {steps[0].stage}{' skip' if steps[0].skip else ''}")
        for event in event_of(steps[0]):
            state = reduce(state, event)
    assert said == words
    assert pending(state, plan) == left


def test_what_is_pending_goes_on_once_it_is_selected() -> None:
    _, state = walk(state_after(*READY), Plan(loop=("propose", "apply"), target=1))
    assert walk(state, Plan(target=1))[0] == [f"1 {stage}" for stage in LOOP[2:]]


def test_nothing_new_opens_while_an_earlier_iteration_is_pending_uncommitted() -> None:
    _, state = walk(state_after(*READY), Plan(loop=("propose",), target=5))
    assert list(state.open) == [1]


@pytest.mark.parametrize("action", ["fix_and_rerun", "rerun", "reevaluate"])
def test_a_retry_is_another_attempt_of_the_same_iteration(action: str) -> None:
    state = state_after(*READY)
    crash = Outcome(status="crash", reason="r", checkpoint="/c" if action == "reevaluate" else None)
    for stage in ("propose", "apply", "commit", "train", "triage"):
        for event in event_of(Step(stage, 1), outcome=crash, action=action):
            state = reduce(state, event)
    again = "apply" if action == "fix_and_rerun" else "train"
    assert next_stages(state, Plan(target=1)) == (Step(again, 1, 2),)
    assert state.open[1].failures == (crash,)
    assert state.open[1].reevaluate == ("/c" if action == "reevaluate" else None)
    assert state.open[1].job is None


def test_a_refused_candidate_is_recorded_without_training() -> None:
    refused = ev.Applied(iteration=1, attempt=1, status="refused", refused=("evaluate.py",))
    state = state_after(*READY, *event_of(Step("propose", 1)), refused)
    assert walk(state, Plan(target=1))[0] == ["1 record", "1 decide"]


def test_stopping_finishes_what_is_open_and_opens_nothing() -> None:
    state = state_after(*READY, *event_of(Step("propose", 1)), ev.StopRequested())
    words, end = walk(state, Plan(target=5))
    assert words == [f"1 {stage}" for stage in LOOP[1:]]
    assert end.completed == 1


def test_a_new_plan_ends_the_stopping() -> None:
    loop = Plan(target=1, stages=("loop",))
    state = state_after(*READY, ev.StopRequested(), ev.PlanMade(plan=loop))
    assert next_stages(state, state.plan) == (Step("propose", 1),)


def test_a_baseline_that_was_skipped_is_measured_when_it_is_asked_for_before_anything_was_tried() -> None:
    state = state_after(*READY, ev.PlanMade(plan=Plan(target=1)))
    assert next_stages(state, state.plan) == (Step("baseline"),)


# -- several workers --------------------------------------------------------------------------------------------------


def open_until(state: RunState, number: int, stage: str) -> RunState:
    """Bring iteration `number` to where `stage` comes next."""
    for name in LOOP[: LOOP.index(stage)]:
        for event in event_of(Step(name, number)):
            state = reduce(state, event)
    return state


def test_another_iteration_opens_when_the_earlier_ones_are_committed_and_a_worker_is_free() -> None:
    plan = Plan(target=9, workers=2)
    state = open_until(state_after(*READY), 1, "commit")
    assert next_stages(state, plan) == (Step("commit", 1),)
    state = open_until(state_after(*READY), 1, "train")
    assert next_stages(state, plan) == (Step("train", 1), Step("propose", 2))
    state = open_until(state, 2, "train")
    assert next_stages(state, plan) == (Step("train", 1), Step("train", 2))
    assert next_stages(state, Plan(target=9, workers=3)) == (Step("train", 1), Step("train", 2), Step("propose", 3))


def test_every_open_iteration_has_a_slot_of_its_own_and_gives_it_back() -> None:
    state = state_after(*READY)
    for number in (1, 2, 3):
        state = open_until(state, number, "train")
    assert [state.open[n].slot for n in (1, 2, 3)] == [0, 1, 2]
    for stage in ("train", "triage", "record", "decide"):
        for event in event_of(Step(stage, 1)):
            state = reduce(state, event)
    state = open_until(state, 4, "train")
    assert {n: i.slot for n, i in state.open.items()} == {2: 1, 3: 2, 4: 0}


def test_records_and_decisions_wait_for_all_lower_numbers() -> None:
    """Iteration 2 and 3 have ended before 1: they are decided after it, in order."""
    plan, state = Plan(target=3, workers=3), state_after(*READY)
    for number in (1, 2, 3):
        state = open_until(state, number, "train")
    for number in (3, 2):
        for stage in ("train", "triage"):
            for event in event_of(Step(stage, number)):
                state = reduce(state, event)
    assert next_stages(state, plan) == (Step("train", 1),)
    words, end = walk(state, plan)
    assert words == [
        *("1 train", "1 triage", "1 record", "1 decide"),
        *("2 record", "2 decide"),
        *("3 record", "3 decide"),
    ]
    assert [t.iteration for t in end.trials] == [1, 2, 3]


def test_the_loop_waits_for_the_baseline_however_many_workers_there_are() -> None:
    state = state_after(ev.SetupDone(), *event_of(Step("baseline")))
    assert next_stages(state, Plan(target=3, workers=3)) == (Step("train", 0),)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_target_is_never_overshot(workers: int) -> None:
    state = state_after(*READY)
    plan = Plan(target=4, workers=workers)
    while steps := next_stages(state, plan):
        for event in event_of(steps[-1]):  # the newest first: open as many as may be
            state = reduce(state, event)
        assert len(state.open) <= workers
    assert [t.iteration for t in state.trials] == [1, 2, 3, 4]


# -- the flags --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "top", "loop"),
    [
        ((None, None, None, None), TOP, LOOP),
        (("setup", None, None, None), ("setup",), LOOP),
        (("loop,setup", None, None, None), ("setup", "loop"), LOOP),
        ((" Train , propose", None, None, None), ("loop",), ("propose", "train")),
        (("baseline,train", None, None, None), ("baseline", "loop"), ("train",)),
        ((None, "propose,apply", None, None), TOP, ["propose", "apply"]),
        (("loop", "train", None, None), ("loop",), ["train"]),
        ((None, None, "baseline", None), ("baseline", "loop"), LOOP),
        ((None, None, None, "baseline"), ("setup", "baseline"), LOOP),
        ((None, "train", "loop", "loop"), ("loop",), ["train"]),
    ],
)
def test_flags_select_stages(flags: Any, top: Any, loop: Any) -> None:
    chosen = select(*flags)
    assert chosen[0] == top
    assert list(chosen[1]) == list(loop)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("nonsense", None, None, None), "'nonsense' is no stage"),
        (("", None, None, None), "--only is empty"),
        ((" , ", None, None, None), "--only is empty"),
        ((None, "setup", None, None), "--loop-only: 'setup' is no stage"),
        ((None, "", None, None), "--loop-only is empty"),
        ((None, None, "train", None), "--from-stage: 'train' is no stage"),
        ((None, None, None, ""), "--to-stage is empty"),
        ((None, None, "loop", "setup"), "--from-stage loop comes after --to-stage setup"),
        (("setup", None, "setup", None), "--only cannot be mixed"),
        (("setup", None, None, "loop"), "--only cannot be mixed"),
    ],
)
def test_flags_that_mean_nothing_are_a_usage_error_with_the_valid_names(flags: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        select(*flags)
    assert caught.value.hint
