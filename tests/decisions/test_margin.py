"""The rule `margin`."""

from __future__ import annotations

from typing import Any

import pytest

from autoexp.decisions.margin import Margin
from autoexp.errors import UsageError
from autoexp.runs.records import Best, Measurement, Metric, Noise
from autoexp.spec.ports import Case
from autoexp.testing import RuleCases, trial

NOISE = Noise(squares=9e-6, freedom=9)  # 0.001


class TestConformance(RuleCases):
    def make(self) -> Margin:
        return Margin(by=0.01)


class TestConformanceInSigmas(RuleCases):
    def make(self) -> Margin:
        return Margin()


def case(value: float, **fields: Any) -> Case:
    baseline = trial(0, 1.0)
    given: dict[str, Any] = {
        "trial": trial(1, value),
        "best": Best(iteration=0, commit=baseline.commit, metric=1.0),
        "trials": (baseline,),
        "metric": Metric(),
        "candidate": (Measurement(iteration=1, attempt=1, commit="c", source="c", seed=0, value=value),),
        "incumbent": (Measurement(iteration=0, attempt=1, commit="b", source="b", seed=0, value=1.0),),
        "noise": NOISE,
    }
    return Case(**{**given, **fields})


@pytest.mark.parametrize(
    ("options", "value", "decision"),
    [
        ({"by": 0.002}, 0.9985, "discard"),
        ({"by": 0.002}, 0.9975, "keep"),
        ({"sigmas": 2.0}, 0.9975, "discard"),  # 2 * 0.001 * sqrt(2)
        ({"sigmas": 2.0}, 0.9965, "keep"),
        ({"sigmas": 1.0}, 0.9975, "keep"),
    ],
)
def test_a_candidate_must_be_better_by_the_margin(options: dict[str, Any], value: float, decision: str) -> None:
    said = Margin(**options).judge(case(value))
    assert said.decision == decision
    assert "the margin is 0.00" in said.why


def test_sigmas_need_a_noise() -> None:
    said = Margin().judge(case(0.5, noise=Noise()))
    assert (said.decision, said.look) == ("inconclusive", "incumbent")
    baseline = case(1.0, best=None, trials=(), trial=trial(0, 1.0), noise=Noise())
    assert Margin().judge(baseline).look == "candidate"
    assert Margin(by=0.1).judge(baseline).look is None


def test_an_option_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match=r"\[rules.margin\] in autoexp.toml: there is no option sigma"):
        Margin(sigma=1)
