"""The rule `improvement`."""

from __future__ import annotations

import pytest

from autoexp.decisions.improvement import Improvement
from autoexp.errors import UsageError
from autoexp.testing import RuleCases


class TestConformance(RuleCases):
    def make(self) -> Improvement:
        return Improvement()


@pytest.mark.parametrize(
    ("direction", "metrics", "decisions"),
    [
        ("min", [1.0, 1.0, 0.9, 0.95, 0.8999999], ["keep", "discard", "keep", "discard", "keep"]),
        ("max", [1.0, 1.0, 0.9, 1.1, 1.05], ["keep", "discard", "discard", "keep", "discard"]),
        ("min", [-1.0, 0.0, -2.0], ["keep", "discard", "keep"]),
    ],
)
def test_only_a_strictly_better_number_is_kept(direction: str, metrics: list[float], decisions: list[str]) -> None:
    said = TestConformance().decisions(metrics, direction)  # type: ignore[arg-type]
    assert [decision for decision, _ in said] == decisions


def test_the_reason_has_both_numbers_and_their_difference() -> None:
    _, why = TestConformance().decisions([1.0, 0.75], "min")[1]
    assert all(part in why for part in ("0.750000", "1.000000", "-0.250000", "val_bpb"))


def test_it_has_no_options_and_says_so() -> None:
    with pytest.raises(UsageError, match=r"\[rules.improvement\] in autoexp.toml: there is no option by") as caught:
        Improvement(by=0.1)
    assert caught.value.hint == "take it out: it has none"
