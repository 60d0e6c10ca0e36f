"""What another training is worth: of the candidate, of the best, or of a new idea. Pure, and vectorised.

A keep gains the improvement that is believed in, when the chance that it is one is high enough. Another look is worth
what it adds to that on average. A new idea is worth what it gains on average too, and that is the price of a look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autoexp.decisions.beliefs import Belief, Effects, Numbers, believed

CANDIDATE_LOOKS = (1, 2, 3, 4)
BEST_LOOKS = (1, 2)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Known:
    """What has been measured, all arrays of one shape."""

    difference: Numbers
    """Mean of the candidate's trainings minus the estimate of the best."""
    count: Numbers
    """Trainings of the candidate."""
    best_variance: Numbers
    """Of the estimate of the best's true metric."""
    noise: Numbers
    """Variance of one training."""

    @property
    def variance(self) -> Numbers:
        """Of the difference, the effect given."""
        return self.noise / self.count + self.best_variance


@dataclass(frozen=True)
class Worth:
    """What each choice is worth, in units of the metric."""

    belief: Belief
    stop: Numbers
    """To decide now."""
    candidate: Numbers
    """To train the candidate again, the trainings' price taken off."""
    best: Numbers
    """Likewise the best."""
    price: Numbers
    """What a training must be worth at least."""


def kept_gain(belief: Belief, cost: Any) -> Numbers:
    """What a decision gains: the improvement believed in less what a false keep costs, or nothing, without a keep."""
    return np.asarray(np.maximum(-belief.mean - cost * (1.0 - belief.better), 0.0))


def worth(known: Known, effects: Effects, caution: float, patience: float, thrift: float) -> Worth:
    """What deciding, and looking again, are worth. `patience` is how many trainings a best is expected to be compared
    with: they all gain when it is known better. `thrift` is the part of a new idea's worth that a look must be worth at
    least: less than 1, since the looks that may follow are not thought of.
    """
    cost = caution * effects.gain
    belief = believed(known.difference, known.variance, effects)
    stop = kept_gain(belief, cost)
    price = thrift * idea_price(known.best_variance, known.noise, effects, cost)
    candidate = np.full_like(stop, -np.inf)
    for more in CANDIDATE_LOOKS:
        candidate = np.maximum(candidate, _after_candidate(known, belief, effects, cost, more) - more * price)
    best = np.full_like(stop, -np.inf)
    for more in BEST_LOOKS:
        after = 1.0 / (1.0 / known.best_variance + more / known.noise)
        cheaper = thrift * idea_price(after, known.noise, effects, cost) - price
        later = patience * np.maximum(cheaper, 0.0)
        best = np.maximum(best, _after_best(known, belief, effects, cost, more) + later - more * price)
    return Worth(belief, stop, candidate, best, price)


def idea_price(best_variance: Any, noise: Any, effects: Effects, cost: Any) -> Numbers:
    """What a training gains on average when it is spent on a new idea: with the best number of trainings for each."""
    price = np.zeros(np.broadcast_shapes(np.shape(best_variance), np.shape(noise)))
    before = Belief(effects.better, effects.worse, effects.gain, effects.gain**2, effects.loss, effects.loss**2)
    for count in (1, 2, 3, 5):
        variance = noise / count + best_variance
        gained = _expected(before, 0.0, 1.0, variance, lambda d, s=variance: (d, s), effects, cost)
        price = np.maximum(price, gained / count)
    return price


def _after_candidate(known: Known, belief: Belief, effects: Effects, cost: Any, more: int) -> Numbers:
    """What a decision gains on average after so many further trainings of the candidate."""
    share = known.best_variance / known.variance
    spread = share * known.noise / known.count + known.noise / more
    total = known.count + more

    def then(value: Numbers) -> tuple[Numbers, Numbers]:
        mean = (known.count[..., None] * known.difference[..., None] + more * value) / total[..., None]
        return mean, known.noise / total + known.best_variance

    return _expected(belief, share * known.difference, 1.0 - share, spread, then, effects, cost)


def _after_best(known: Known, belief: Belief, effects: Effects, cost: Any, more: int) -> Numbers:
    """Likewise after so many further trainings of the best."""
    share = known.best_variance / known.variance
    spread = share * known.noise / known.count + known.noise / more
    trust = known.best_variance / (known.best_variance + known.noise / more)
    after = known.best_variance * (1.0 - trust)

    def then(value: Numbers) -> tuple[Numbers, Numbers]:
        return known.difference[..., None] - trust[..., None] * value, known.noise / known.count + after

    return _expected(belief, share * known.difference, -share, spread, then, effects, cost)


def _expected(belief: Belief, shift: Any, slope: Any, spread: Any, then: Any, effects: Effects, cost: Any) -> Numbers:
    """The mean of what a decision gains over measurements `shift + slope * effect + N(0, spread)`.

    Each of the three cases of the belief is taken to be normal; `then` tells difference and variance after a
    measurement, which come with one axis more.
    """
    total: Any = 0.0
    cases = (
        (belief.better, -belief.gain, belief.gain_variance),
        (1.0 - belief.better - belief.worse, 0.0 * belief.gain, 0.0 * belief.gain),
        (belief.worse, belief.loss, belief.loss_variance),
    )
    for chance, mean, variance in cases:
        middle, error = shift + slope * mean, np.sqrt(slope**2 * variance + spread)
        values = np.asarray(middle)[..., None] + np.asarray(error)[..., None] * _NODES
        difference, after = then(values)
        gained = kept_gain(
            believed(difference, np.asarray(after)[..., None], effects.widened()), np.asarray(cost)[..., None]
        )
        total = total + chance * (gained * _WEIGHTS).sum(-1)
    return np.asarray(total)
