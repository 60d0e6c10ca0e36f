"""The noise of a training and the spread of the effects, learned from what a run has measured. Pure, and vectorised."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoexp.decisions.beliefs import Effects, Numbers, believed

FIRST_BETTER, FIRST_WORSE = 0.15, 0.6
"""Parts of the changes that are taken to be better and worse before there are any."""
FIRST_GAIN, FIRST_LOSS = 1.0, 3.0
"""Their mean sizes then, in noises."""
WEIGHT = 12.0
"""How many trials these first guesses weigh as much as."""
ROUNDS = 6
FARTHEST = 3.0
"""An effect counts as at most so many mean ones: what a change broke says nothing of what others do."""
LEAST_NOISE = 1e-9
"""Noise of a trainer that gives the same number for every seed, in parts of the metric."""


def noise_variance(squares: Any, freedom: Any, value: Any) -> Numbers:
    """The variance of a training's metric, to be on the safe side of what its repeats say.

    `squares` are summed squared deviations of repeats from their means, with `freedom` degrees of freedom. With few of
    them the variance may be larger than it looks, and is taken to be.
    """
    freedom = np.maximum(freedom, 1.0)
    least = (LEAST_NOISE * np.maximum(np.abs(value), 1.0)) ** 2
    return np.asarray(np.maximum(squares / freedom * (freedom + 2.0) / freedom, least))


def learned_effects(differences: Any, variances: Any, known: Any, noise: Any) -> Effects:
    """The spread of effects that explains the trials so far best, by expectation and maximisation from first guesses.

    `differences` and `variances` have the trials on their last axis, `known` is 1 where there is one; `noise` is the
    variance of a training, and has no such axis.
    """
    sigma = np.sqrt(np.asarray(noise, float))
    first = Effects(FIRST_BETTER + 0 * sigma, FIRST_WORSE + 0 * sigma, FIRST_GAIN * sigma, FIRST_LOSS * sigma)
    effects = first
    known = np.asarray(known, float)
    count = known.sum(-1) + WEIGHT
    for _ in range(ROUNDS):
        before = effects.widened()
        belief = believed(differences, variances, before)
        gain, loss = np.minimum(belief.gain, FARTHEST * before.gain), np.minimum(belief.loss, FARTHEST * before.loss)
        better, worse = known * belief.better, known * belief.worse
        before_better, before_worse = WEIGHT * first.better, WEIGHT * first.worse
        sum_better, sum_worse = better.sum(-1) + before_better, worse.sum(-1) + before_worse
        effects = Effects(
            sum_better / count,
            sum_worse / count,
            ((better * gain).sum(-1) + before_better * first.gain) / sum_better,
            ((worse * loss).sum(-1) + before_worse * first.loss) / sum_worse,
        )
    return effects
