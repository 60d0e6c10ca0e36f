"""The arithmetic of few trainings: exact where it can be, right as often as it says."""

from __future__ import annotations

import random

import pytest

from autoexp.runs.comparing import compared, interval, pooled, rank_test, student_t
from autoexp.runs.records import Metric


def test_students_t_is_that_of_the_tables() -> None:
    table = {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 30: 2.042}
    for degrees, value in table.items():
        assert student_t(0.975, degrees) == pytest.approx(value, abs=1e-3)


def test_the_rank_test_is_exact_and_says_what_it_can_give() -> None:
    assert rank_test([3.0, 4.0, 5.0], [0.0, 1.0, 2.0]) == (pytest.approx(1 / 20), pytest.approx(1 / 20))
    assert rank_test([0.0, 1.0, 2.0], [3.0, 4.0, 5.0])[0] == 1.0
    assert rank_test([3.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.0, 2.5]) == (pytest.approx(1 / 70), pytest.approx(1 / 70))
    assert rank_test([1.0, 1.0], [1.0, 1.0])[0] == 1.0  # ties tell nothing
    # scipy.stats.mannwhitneyu([1, 4, 6], [2, 3, 5], alternative="greater", method="exact").pvalue
    assert rank_test([1.0, 4.0, 6.0], [2.0, 3.0, 5.0])[0] == pytest.approx(0.5)


@pytest.mark.parametrize("count", [3, 4])
def test_the_interval_holds_the_truth_as_often_as_it_says(count: int) -> None:
    luck = random.Random(count)
    hits = 0
    for _ in range(300):
        low, high = interval(*([luck.gauss(0, 1) for _ in range(count)] for _ in range(2)))
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_a_gain_is_positive_in_the_metrics_direction() -> None:
    lower = compared("a", [1.0, 1.1], "b", [2.0, 2.1], Metric())
    higher = compared("a", [1.0, 1.1], "b", [2.0, 2.1], Metric(direction="max"))
    assert lower is not None and higher is not None
    assert lower.gain == pytest.approx(1.0) and higher.gain == pytest.approx(-1.0)
    assert (lower.p, higher.p) == (pytest.approx(1 / 6), 1.0)
    assert compared("a", [], "b", [1.0], Metric()) is None
    one = compared("a", [1.0], "b", [2.0], Metric())
    assert one is not None and (one.low, one.high, one.least_p) == (None, None, 0.5)


def test_noise_is_pooled_over_samples() -> None:
    assert pooled([[1.0], []]) is None
    assert pooled([[1.0, 3.0], [10.0, 10.0, 10.0]]) == (pytest.approx((2.0 / 3) ** 0.5), 3)
