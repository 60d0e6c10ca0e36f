"""Whether a training has kept to its budget, by what is seen from outside."""

from __future__ import annotations

import pytest

from autoexp.runs.fairness import over_budget
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
