"""What is believed about the effect of a change, before and after it was measured. Pure, and vectorised.

An effect is candidate minus best, turned so that less is better. Before any measurement it is, with some probability,
an improvement (its size an exponential), nothing at all, or a worsening (another exponential). A difference that was
measured with a normal error leaves truncated normals of the two and keeps the middle, all in closed form.

Every function works on arrays that broadcast together: the product asks about one trial, benchmarks/decision_rules.py
about hundreds of nights at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_SQRT2, _ROOT = float(np.sqrt(2.0)), float(np.sqrt(2.0 / np.pi))
FARTHEST = 30.0
"""Standard errors, within which the formulas are used; beyond, nothing is left to doubt."""


@dataclass(frozen=True)
class Effects:
    """How the effects of changes are spread. All may be arrays of one shape."""

    better: Any
    """Part of the changes that improve."""
    worse: Any
    """Part that makes it worse; the rest does nothing."""
    gain: Any
    """Mean size of an improvement, in units of the metric."""
    loss: Any
    """Mean size of a worsening."""

    @property
    def same(self) -> Any:
        return 1.0 - self.better - self.worse

    def widened(self) -> Effects:
        """With one more axis at the end, for broadcasting."""
        return Effects(*(np.asarray(a)[..., None] for a in (self.better, self.worse, self.gain, self.loss)))


@dataclass(frozen=True)
class Belief:
    """About one effect: the chances, and mean and variance of its size in each case."""

    better: Numbers
    """Chance that it is an improvement."""
    worse: Numbers
    gain: Numbers
    """Mean improvement, if it is one."""
    gain_variance: Numbers
    loss: Numbers
    loss_variance: Numbers

    @property
    def same(self) -> Numbers:
        return np.asarray(np.clip(1.0 - self.better - self.worse, 0.0, 1.0))

    @property
    def mean(self) -> Numbers:
        """Mean effect; less than 0 is better."""
        return self.worse * self.loss - self.better * self.gain

    @property
    def variance(self) -> Numbers:
        second = self.better * (self.gain_variance + self.gain**2) + self.worse * (self.loss_variance + self.loss**2)
        return np.asarray(np.maximum(second - self.mean**2, 0.0))


def believed(difference: Any, variance: Any, effects: Effects) -> Belief:
    """What to believe of an effect whose measured difference has that variance."""
    error = np.sqrt(variance)
    near = np.clip(np.asarray(difference, float), -FARTHEST * error, FARTHEST * error)
    farther = difference - near  # all of it is effect: noise does not reach there
    better, gain, gain_variance = _side(-near, error, effects.gain)
    worse, loss, loss_variance = _side(near, error, effects.loss)
    gain, loss = gain + np.maximum(-farther, 0.0), loss + np.maximum(farther, 0.0)
    odds_better, odds_worse = effects.better * better, effects.worse * worse
    total = odds_better + odds_worse + effects.same
    return Belief(odds_better / total, odds_worse / total, gain, gain_variance, loss, loss_variance)


def _side(measured: Any, error: Any, scale: Any) -> tuple[Numbers, Numbers, Numbers]:
    """One exponential with mean `scale`, measured: (how much likelier it makes that than nothing does, mean, variance).

    What is left of it is the normal N(measured - error²/scale, error²), cut off at 0.
    """
    z = measured / error - error / scale
    tail = scaled_erfc(-z / _SQRT2)
    hazard = _ROOT / tail  # density over probability of the normal at z
    mean = np.maximum(error * (z + hazard), 1e-3 * np.minimum(error, scale))
    variance = np.clip(error**2 * (1.0 - hazard * (z + hazard)), 0.0, error**2)
    return error / scale * tail / _ROOT, mean, variance


def scaled_erfc(x: Any) -> Numbers:
    """exp(x²)·erfc(x), to seven digits (a Chebyshev fit, Numerical Recipes' erfcc)."""
    x = np.asarray(x, float)
    away = np.abs(x)
    t = 2.0 / (2.0 + away)
    series = np.full_like(t, 0.17087277)
    for term in (-0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368):
        series = series * t + term
    found = t * np.exp(series * t - 1.26551223)
    return np.asarray(np.where(x >= 0.0, found, 2.0 * np.exp(np.minimum(away, 26.0) ** 2) - found))


def after_keep(mean: Any, variance: Any, value: Any, noise: Any, effects: Effects) -> tuple[Numbers, Numbers]:
    """Mean and variance of a kept candidate's true metric, measured as `value` with variance `noise`.

    `mean` and `variance` are those of the best that it was compared with. That it was chosen for being good is in it:
    what looks like a large improvement is believed to be a smaller one, as improvements are.
    """
    total = noise + variance
    belief = believed(value - mean, total, effects)
    share = variance / total  # of a surprise that is the old best's
    guess = mean + share * (value - mean) + (1.0 - share) * belief.mean
    return guess, variance * noise / total + (1.0 - share) ** 2 * belief.variance
