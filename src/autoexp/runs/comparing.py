"""Two handfuls of numbers beside each other: the difference, how sure it is, and a rank test. Pure, and deterministic.

There are few trainings, three of each program say. So the rank test is exact, and says what it can give at best; and
the bootstrap, which for a few numbers comes out too narrow, is widened by what Student's t is wider than the normal.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import fmean, stdev

from autoexp.runs.checked import Comparison
from autoexp.runs.records import Metric

CONFIDENCE = 0.95
ALL_RESAMPLES = 4000
"""Where there are no more, each resample is looked at once; else this many are drawn."""
ALL_ORDERS = 200_000
"""Splits of the ranks that are counted one by one; where there are more, so many are drawn."""


def compared(
    of: str, values: Sequence[float], against: str, others: Sequence[float], metric: Metric, name: str = ""
) -> Comparison | None:
    """`of` beside `against`; None without numbers of both. `name` is the metric's, if it is not the run's own."""
    if not values or not others:
        return None
    sign = -1.0 if metric.direction == "min" else 1.0
    ours, theirs = [sign * value for value in values], [sign * value for value in others]
    low, high = interval(ours, theirs)
    p, least = rank_test(ours, theirs)
    gain = fmean(ours) - fmean(theirs)
    return Comparison(
        of=of,
        against=against,
        metric=name or metric.name,
        values=tuple(values),
        others=tuple(others),
        gain=gain,
        low=low,
        high=high,
        p=p,
        least_p=least,
    )


def interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """The confidence interval of mean(ours) - mean(theirs). One number on a side tells nothing of its width."""
    if len(ours) < 2 or len(theirs) < 2:
        return None, None
    gain = fmean(ours) - fmean(theirs)
    means = [_means(part) for part in (ours, theirs)]
    differences = sorted(a - b for a, b in zip(*_paired(means), strict=True))
    tail = (1 - CONFIDENCE) / 2
    least, most = (quantile(differences, share) - gain for share in (tail, 1 - tail))
    size = min(len(ours), len(theirs))
    degrees = len(ours) + len(theirs) - 2
    wider = math.sqrt(size / (size - 1)) * student_t(1 - tail, degrees) / student_t(1 - tail, 1_000_000)
    return gain + wider * least, gain + wider * most


def _means(part: Sequence[float]) -> list[float]:
    """The means of resamples of `part`: of each there is, or of many drawn ones."""
    count = len(part)
    if count**count <= ALL_RESAMPLES:
        return [fmean(chosen) for chosen in itertools.product(part, repeat=count)]
    luck = random.Random(count)
    return [fmean(luck.choices(part, k=count)) for _ in range(ALL_RESAMPLES)]


def _paired(means: list[list[float]]) -> tuple[list[float], list[float]]:
    """Each of the one with each of the other where that is not too many, else as many as there are, by chance."""
    one, other = means
    if len(one) * len(other) <= 5 * ALL_RESAMPLES:
        pairs = list(itertools.product(one, other))
        return [a for a, _ in pairs], [b for _, b in pairs]
    luck = random.Random(len(one))
    return luck.choices(one, k=5 * ALL_RESAMPLES), luck.choices(other, k=5 * ALL_RESAMPLES)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which so much of an ordered sequence lies, 0 to 1."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def rank_test(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """(p, the least p that is possible): exact Mann-Whitney test that ours are larger, one-sided. Ties share ranks."""
    both = [*ours, *theirs]
    ranks = [_rank(value, both) for value in both]
    count = len(ours)
    found = sum(ranks[:count])
    splits = math.comb(len(both), count)
    if splits <= ALL_ORDERS:
        as_large = sum(sum(chosen) >= found - 1e-9 for chosen in itertools.combinations(ranks, count))
        return as_large / splits, 1 / splits
    luck = random.Random(count)
    as_large = sum(sum(luck.sample(ranks, count)) >= found - 1e-9 for _ in range(ALL_ORDERS))
    return (as_large + 1) / (ALL_ORDERS + 1), 1 / splits


def _rank(value: float, among: Sequence[float]) -> float:
    return sum(other < value for other in among) + (sum(other == value for other in among) + 1) / 2


def pooled(samples: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """(standard deviation, degrees of freedom) of the noise that several samples have in common; None without any."""
    squares, degrees = 0.0, 0
    for sample in samples:
        if len(sample) > 1:
            squares += stdev(sample) ** 2 * (len(sample) - 1)
            degrees += len(sample) - 1
    return (math.sqrt(squares / degrees), degrees) if degrees else None


def student_t(share: float, degrees: int) -> float:
    """The quantile of Student's t distribution, for a share above one half."""
    low, high = 0.0, 1.0
    while _t_below(high, degrees) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def _t_below(value: float, degrees: int) -> float:
    """P(t < value) for a value of 0 or more: the density, in the angle atan(t / sqrt(n)), by Simpson's rule."""
    if degrees > 1000:
        return 0.5 * (1 + math.erf(value / math.sqrt(2)))
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    end, steps = math.atan(value / math.sqrt(degrees)), 400
    width = end / steps
    weights = (1 if place in (0, steps) else 4 if place % 2 else 2 for place in range(steps + 1))
    total = sum(weight * math.cos(place * width) ** (degrees - 1) for place, weight in enumerate(weights))
    return 0.5 + constant * total * width / 3
