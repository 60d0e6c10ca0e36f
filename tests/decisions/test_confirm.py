"""The rule `confirm`: what it says of cases, and what it learns from them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from autoexp.decisions.confirm import Confirm
from autoexp.errors import UsageError
from autoexp.runs.measuring import seed_of
from autoexp.runs.records import Best, Evidence, Measurement, Metric, Noise, Trial
from autoexp.spec.ports import Case
from autoexp.testing import RuleCases, trial

SIGMA = 0.001
KNOWN = Noise(squares=20 * SIGMA**2, freedom=20)


class TestConformance(RuleCases):
    def make(self) -> Confirm:
        return Confirm()


def measurements(values: Sequence[float], program: str, curve: Any = ()) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(iteration=0, attempt=n, commit=program, source=program, seed=seed_of(0, n), value=v, curve=curve)
        for n, v in enumerate(values, 1)
    )


def case(mine: Sequence[float], theirs: Sequence[float], past: Sequence[Trial] = (), **fields: Any) -> Case:
    baseline = trial(0, sum(theirs) / len(theirs), decision="keep")
    given: dict[str, Any] = {
        "trial": trial(len(past) + 1, sum(mine) / len(mine) if mine else None),
        "best": Best(iteration=0, commit=baseline.commit, metric=baseline.metric or 0.0),
        "trials": (baseline, *past),
        "metric": Metric(),
        "candidate": measurements(mine, "candidate"),
        "incumbent": measurements(theirs, "best"),
        "noise": KNOWN,
    }
    return Case(**{**given, **fields})


def test_what_is_clearly_better_is_kept_and_what_is_clearly_worse_dropped_at_once() -> None:
    for direction, better in (("min", -1.0), ("max", 1.0)):
        metric = Metric(direction=direction)
        kept = Confirm().judge(case([1.0 + better * 0.01], [1.0, 1.0005, 0.9995], metric=metric))
        dropped = Confirm().judge(case([1.0 - better * 0.01], [1.0, 1.0005, 0.9995], metric=metric))
        assert (kept.decision, kept.look) == ("keep", None)
        assert (dropped.decision, dropped.look) == ("discard", None)
        assert kept.evidence is not None and kept.evidence.difference < 0.0
        assert f"{better * 0.01:+.4f}" in kept.why


def test_the_reason_is_in_words_and_numbers() -> None:
    said = Confirm().judge(case([0.9970, 0.9975, 0.9965], [1.0, 1.0005, 0.9995])).why
    assert re.fullmatch(r"val_bpb 0\.997000, -0\.0030 \+/- 0\.0009 over 3 v 3, P\(better\) = 0\.\d+", said), said


def test_what_may_be_luck_is_looked_at_again_and_not_when_it_may_not() -> None:
    doubtful = case([0.9985], [1.0, 1.0003, 0.9997])
    first = Confirm().judge(doubtful)
    assert first.look in ("candidate", "incumbent")
    last = Confirm().judge(case([0.9985], [1.0, 1.0003, 0.9997], may_look=False))
    assert last.look is None
    assert first.evidence == last.evidence


def test_more_measurements_of_the_same_make_it_surer() -> None:
    chances = []
    for count in (1, 2, 6):
        found = Confirm().judge(case([0.9985] * count, [1.0] * 4, may_look=False)).evidence
        assert found is not None and found.better is not None
        chances.append(found.better)
    assert chances == sorted(chances) and chances[0] < 0.5 < 0.7 < chances[-1]


def test_a_best_that_was_kept_for_one_lucky_number_is_not_believed_to_be_so_good() -> None:
    """Regression to the mean: what is compared with is an estimate, not the lucky number."""
    numbers = Evidence(difference=-0.003, error=0.0012, candidate=1, best=4, estimate=1.0, estimate_error=0.0005)
    holder = trial(1, 0.997, decision="keep", evidence=numbers)
    best = Best(iteration=1, commit=holder.commit, metric=0.997)
    found = Confirm().judge(case([0.9975], [0.997], past=[holder], best=best, may_look=False)).evidence
    assert found is not None and found.estimate is not None
    assert 0.9972 < found.estimate < 0.9995
    assert found.difference < 0.9975 - 0.997


def test_one_measurement_of_each_seed_counts() -> None:
    twice = measurements([0.9985], "candidate") * 3
    found = Confirm().judge(case([0.9985], [1.0], candidate=twice, may_look=False)).evidence
    assert found is not None and found.candidate == 1


def test_the_unchanged_program_is_repeated_until_the_noise_is_known() -> None:
    rule = Confirm(baseline=3)
    looks = []
    for count in (1, 2, 3):
        values = [1.0, 1.001, 0.999][:count]
        noise = Noise(squares=1e-6, freedom=count - 1)
        first = case(values, values, best=None, trials=(), trial=trial(0, 1.0), noise=noise)
        looks.append(rule.judge(first).look)
    assert looks == ["candidate", "candidate", None]
    carried = case([1.0], [1.0], best=None, trials=(), trial=trial(0, 1.0), noise=KNOWN)
    assert rule.judge(carried).look is None, "earlier runs tell the noise"


def test_without_any_noise_known_nothing_is_kept() -> None:
    said = Confirm().judge(case([0.5], [1.0], noise=Noise()))
    assert (said.decision, said.look) == ("inconclusive", "incumbent")
    assert "noise is not known" in said.why


def test_a_trainer_that_gives_the_same_for_every_seed_is_judged_by_one_training() -> None:
    still = Noise(squares=0.0, freedom=2)
    better, worse = (Confirm().judge(case([value], [1.0, 1.0, 1.0], noise=still)) for value in (0.999999, 1.000001))
    assert (better.decision, better.look, worse.decision, worse.look) == ("keep", None, "discard", None)


@pytest.mark.parametrize(("memory", "decision"), [(0.0, "keep"), (20.0, "keep"), (40.0, "discard")])
def test_memory_above_the_soft_limit_must_be_earned(memory: float, decision: str) -> None:
    rule = Confirm(memory_gb=20.0, memory_price=0.001)
    assert rule.judge(case([0.993], [1.0] * 4, memory_gb=memory, may_look=False)).decision == decision


@pytest.mark.parametrize(
    ("lines", "simpler", "decision"), [(-12, 10, "keep"), (-9, 10, "x"), (-12, 0, "x"), (12, 10, "x")]
)
def test_a_tie_that_deletes_code_is_kept_where_that_is_wanted(lines: int, simpler: int, decision: str) -> None:
    said = Confirm(simpler=simpler).judge(case([1.0], [1.0] * 4, lines=lines, may_look=False))
    assert (said.decision == "keep") == (decision == "keep")
    assert ("lines shorter" in said.why) == (decision == "keep")


CURVE = tuple((n / 20, 3.0 + 1.0 / n) for n in range(1, 21))


def ahead(by: float) -> tuple[tuple[float, float], ...]:
    return tuple((progress, loss + by) for progress, loss in CURVE)


def finished(count: int) -> list[Trial]:
    """Trials whose loss is 10 times as far off as their metric."""
    found = []
    for number in range(1, count + 1):
        difference = 0.004 * number * math.cos(number)
        lead = tuple((n / 20, 10 * difference) for n in range(1, 21))
        numbers = Evidence(difference=difference, error=0.0012, candidate=1, best=3, better=0.1, lead=lead)
        found.append(trial(number, 1.0 + difference, decision="discard", evidence=numbers))
    return found


@pytest.mark.parametrize(
    ("known", "lead", "until", "stopped"),
    [
        (8, 0.1, 10, True),
        (8, 0.0, 10, False),
        (8, -0.1, 10, False),
        (3, 0.1, 10, False),
        (8, 0.1, 4, False),
        (8, 0.1, 19, False),
    ],
)
def test_a_training_is_stopped_only_when_it_is_nearly_sure_to_be_worse(
    known: int, lead: float, until: int, stopped: bool
) -> None:
    """Enough trainings must have ended; early losses tell nothing; and at the end there is nothing to save."""
    theirs = measurements([1.0, 1.0005, 0.9995], "best", CURVE)
    under_way = case([], [1.0, 1.0005, 0.9995], past=finished(known), incumbent=theirs, candidate=())
    verdict = Confirm().foresee(under_way, seed_of(0, 1), ahead(lead)[:until])
    assert (verdict is not None) == stopped
    if verdict is not None:
        assert verdict.decision == "discard"
        assert re.match(
            r"stopped at 50% of its training: its loss foretells \+0\.0\d+ \+/- 0\.0\d+ over 1 v 3", verdict.why
        )
        assert verdict.evidence is not None and (verdict.evidence.better or 0.0) < 0.05
    assert Confirm(hopeless=0).foresee(under_way, seed_of(0, 1), ahead(lead)[:until]) is None


def test_an_option_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match="there is no option cautoin") as caught:
        Confirm(cautoin=1)
    assert caught.value.hint == "did you mean caution?"
    with pytest.raises(UsageError, match="sure"):
        Confirm(sure=2.0)
