"""What to do with a candidate, given all that was measured: the core of the rule `confirm`. Pure, and vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoexp.decisions.beliefs import Effects, Numbers, believed
from autoexp.decisions.lookahead import Known, Worth, worth

KEEP, DISCARD, INCONCLUSIVE, CANDIDATE, BEST = range(5)
"""The answers; the last two are another look at the one or the other."""


@dataclass(frozen=True)
class Policy:
    """The settings of the rule."""

    caution: float = 0.5
    """What a keep that is no improvement costs, in mean improvements."""
    sure: float = 0.5
    """A candidate is kept only when the chance that it is better is at least this."""
    doubt: float = 0.3
    """One that is not kept is inconclusive when that chance is at least this, else discarded."""
    looks: int = 6
    """Trainings of one candidate at most."""
    best_looks: int = 8
    """Trainings of a best at most."""
    patience: float = 10.0
    """With how many candidates a best is expected to be compared."""
    thrift: float = 0.25
    """What another look must be worth at least, in parts of what the training would gain when spent on a new idea."""
    hopeless: float = 0.05
    """A training is ended when the chance that its candidate is better has fallen below this."""


def choose(known: Known, best_count: Numbers, effects: Effects, policy: Policy) -> tuple[NDArray[np.int64], Worth]:
    """The answer for each, and what it was weighed by."""
    found = worth(known, effects, policy.caution, policy.patience, policy.thrift)
    candidate = np.where(known.count < policy.looks, found.candidate, -np.inf)
    best = np.where(best_count < policy.best_looks, found.best, -np.inf)
    better = found.belief.better
    answer = np.where(better >= policy.doubt, INCONCLUSIVE, DISCARD)
    answer = np.where((better >= policy.sure) & (found.stop > 0.0), KEEP, answer)
    look = np.maximum(candidate, best) > found.stop
    answer = np.where(look, np.where(best > candidate, BEST, CANDIDATE), answer)
    return np.asarray(answer, np.int64), found


def hopeless(
    difference: Numbers, variance: Numbers, effects: Effects, policy: Policy
) -> tuple[NDArray[np.bool_], Numbers]:
    """Whether a training whose difference is foretold like that is to be ended, and the chance that it is better."""
    unknown = ~np.isfinite(variance)
    better = believed(np.where(unknown, 0.0, difference), np.where(unknown, 1.0, variance), effects).better
    return ~unknown & (better < policy.hopeless), np.where(unknown, np.nan, better)
