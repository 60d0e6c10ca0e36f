"""What a loss curve tells of a training before it has ended. Pure, and vectorised.

The curve of a training is compared with that of the best with the same seed, at the same progress: the two saw the same
data in the same order. From the finished trainings of the run it is learned how such a lead in loss becomes one in the
metric, and how far that may be off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autoexp.decisions.beliefs import Numbers

LEAST_FINISHED = 5
"""Finished trainings with a curve before anything is foretold."""
SHARE = 0.4
"""Part of a lead that may be gone at the end: what curves of the CPU program do at first (benchmarks/decision_rules.py
--fit), and learned from the run's own afterwards."""
TRUST = 6.0
"""Trainings that this first guess weighs as much as."""
FLATTEST = 1e-12


def foretold(lead: Any, leads: Any, differences: Any, known: Any, variance: Any) -> tuple[Numbers, Numbers]:
    """Mean and variance of the difference that a training will have, whose curve has this lead now.

    `leads` and `differences` of finished trainings are on the last axis, `known` is 1 where there is one. `variance` is
    what a difference of no effect has. The variance is infinite while too little is known.
    """
    known, variance = np.asarray(known, float), np.asarray(variance, float)
    leads, differences = np.asarray(leads) * known, np.asarray(differences) * known
    many = known.sum(-1)
    slope = _slope(known, leads, differences)
    for _ in range(3):
        expected = variance[..., None] + (SHARE * slope[..., None] * leads) ** 2
        weights = known / expected
        slope = _slope(weights, leads, differences)
    expected = variance[..., None] + (SHARE * slope[..., None] * leads) ** 2
    off = known * np.minimum((differences - slope[..., None] * leads) ** 2 / expected, 25.0)
    wider = np.maximum((off.sum(-1) + TRUST) / (many + TRUST), 1.0)
    steepness = (known / expected * leads**2).sum(-1)
    mean = slope * lead
    spread = wider * (variance + (SHARE * mean) ** 2 + np.asarray(lead) ** 2 / np.maximum(steepness, FLATTEST))
    unknown = (many < LEAST_FINISHED) | (slope <= 0.0) | (steepness <= FLATTEST)
    return np.asarray(mean), np.asarray(np.where(unknown, np.inf, spread))


def _slope(weights: Numbers, leads: Numbers, differences: Numbers) -> Numbers:
    below = (weights * leads**2).sum(-1)
    return np.asarray((weights * leads * differences).sum(-1) / np.where(below > 0.0, below, 1.0))
