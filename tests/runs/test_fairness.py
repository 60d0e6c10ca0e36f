"""Whether a training has kept to its budget, by what is seen from outside."""

from __future__ import annotations

import pytest

from autoexp.runs.fairness import over_budget, over_evaluated
from autoexp.runs.records import Taken


def taken(wall: float, cpu: float | None = None, gpu: float | None = None) -> Taken:
    return Taken(wall_seconds=wall, cpu_seconds=cpu, gpu_seconds=gpu)


@pytest.mark.parametrize(
    ("candidate", "baseline"),
    [
        (taken(410, 500, 335), taken(400, 500, 330)),
        (taken(500, 3000, 340), taken(400, 500, 330)),  # it compiles: no work for the GPU
        (taken(400, 500, 390), taken(400, 500, 340)),  # a larger model, evaluated longer
        (taken(900, 410), taken(400, 400)),  # the machine was busy
        (taken(400, 700), taken(400, 400)),  # more threads, in the same time
        (taken(500, None, None), taken(400, None, None)),  # nothing tells
        (taken(9999, 9999, 9999), None),  # nor is there anything to compare with
    ],
)
def test_within_the_budget(candidate: Taken, baseline: Taken | None) -> None:
    assert over_budget(candidate, baseline, 300) == ""


@pytest.mark.parametrize(
    ("candidate", "baseline", "said"),
    [
        (taken(700, 700, 630), taken(400, 500, 330), "its GPU was at work for 630.0 s"),
        (taken(700, 690), taken(400, 390), "it worked for 690.0 s"),
        (taken(700, 1400), taken(400, 790), "it worked for 700.0 s"),
    ],
)
def test_over_the_budget(candidate: Taken, baseline: Taken, said: str) -> None:
    why = over_budget(candidate, baseline, 300)
    assert why.startswith(f"over budget: {said}; with a budget of 300 s, start and evaluation included, ")


def test_a_baseline_may_take_what_it_takes() -> None:
    """A program with a time of its own, whatever budget the settings name."""
    assert over_budget(taken(3100, 3000), taken(3000, 2900), 300) == ""


@pytest.mark.parametrize(
    ("candidate", "baseline", "splits"),
    [
        (taken(40, 90), taken(30, 60), 1),  # a larger model
        (taken(300, 65), taken(30, 60), 1),  # the machine was busy
        (taken(40, 200, 70), taken(30, 60, 30), 1),  # it compiles: no work for the GPU
        (taken(75, 150), taken(30, 60), 2),  # on validation and on the test split
        (taken(9999, 9999), None, 1),
        (None, taken(30, 60), 1),
        (taken(9999), taken(30, 60), 1),
    ],
)
def test_an_evaluation_may_take_what_evaluations_take(
    candidate: Taken | None, baseline: Taken | None, splits: int
) -> None:
    assert over_evaluated(candidate, baseline, 300, splits) == ""


@pytest.mark.parametrize(
    ("candidate", "said"), [(taken(200, 300), "200.0 s"), (taken(300, 120), "120.0 s"), (taken(90, 90, 85), "85.0 s")]
)
def test_nobody_trains_in_an_evaluation(candidate: Taken, said: str) -> None:
    why = over_evaluated(candidate, taken(30, 60, 30), 300)
    assert why == f"over budget: its evaluation worked for {said}; by the baseline's, 75.0 s are the most"
