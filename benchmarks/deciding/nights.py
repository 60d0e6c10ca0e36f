"""Simulated nights: many at once, each a run of trainings whose true effects are known, judged by a rule.

`confirm` is judged by the functions of `autoexp.decisions` that the product calls, with arrays of nights for one run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoexp.decisions.beliefs import after_keep
from autoexp.decisions.curves import foretold
from autoexp.decisions.learning import learned_effects, noise_variance
from autoexp.decisions.lookahead import Known
from autoexp.decisions.policy import BEST, CANDIDATE, INCONCLUSIVE, KEEP, Policy, choose, hopeless

Numbers = NDArray[np.float64]
PROGRESS = (0.3, 0.5, 0.7)
"""Where the simulated curves are looked at."""


@dataclass(frozen=True)
class Curves:
    """How far the difference that a curve shows is from the one measured at the end, at each of PROGRESS.

    Fitted to real trainings of the CPU program: `decision_rules.py fit`.
    """

    noise: tuple[float, ...] = (0.58, 0.54, 0.47)
    """Standard deviation where the change has no effect, in noises of the metric."""
    share: tuple[float, ...] = (0.57, 0.33, 0.41)
    """Further standard deviation, in parts of the effect."""


POLICY, CURVES = Policy(), Curves()


@dataclass(frozen=True)
class World:
    """How true effects are spread: issue's world; `null` has none but changes of no effect."""

    sigma: float
    null: bool = False
    trainings: float = 120.0
    broken: float = 0.0
    """Part of the proposals that wreck the program, as a tenfold learning rate does: in the median by 0.15."""

    def effects(self, rng: np.random.Generator, count: int) -> Numbers:
        if self.null:
            return np.zeros(count)
        kind = rng.random(count)
        worse = 0.0003 + np.abs(rng.normal(0.0, 0.004, count))
        better = -rng.exponential(0.0012, count)
        effects = np.where(kind < 0.70, worse, np.where(kind < 0.88, 0.0, better))
        if not self.broken:
            return effects
        return np.where(rng.random(count) < self.broken, 0.02 * np.exp(rng.normal(2.0, 1.0, count)), effects)


@dataclass
class Result:
    """Per night: what was really gained, and what was kept."""

    gain: Numbers
    keeps: Numbers
    false: Numbers
    """Kept, and no improvement."""
    proposals: Numbers
    trainings: Numbers
    stopped: Numbers = field(default_factory=lambda: np.zeros(0))
    lost: Numbers = field(default_factory=lambda: np.zeros(0))
    """Improvements that were stopped early."""


def simple(world: World, nights: int, seed: int, keeps: Callable[[Numbers], NDArray[np.bool_]]) -> Result:
    """A rule that sees one training of each candidate: `keeps` says which differences are kept."""
    rng = np.random.default_rng(seed)
    true = np.zeros(nights)
    best = rng.normal(0.0, world.sigma, nights)
    kept, false = np.zeros(nights), np.zeros(nights)
    count = int(world.trainings) - 1
    for _ in range(count):
        effect = world.effects(rng, nights)
        value = true + effect + rng.normal(0.0, world.sigma, nights)
        keep = keeps(value - best)
        kept += keep
        false += keep & (effect >= 0.0)
        true = np.where(keep, true + effect, true)
        best = np.where(keep, value, best)
    return Result(-true, kept, false, np.full(nights, float(count)), np.full(nights, world.trainings))


class Nights:
    """Nights under `confirm`: the state of each run as arrays, one entry a night."""

    def __init__(self, world: World, nights: int, seed: int, policy: Policy, baseline: int, curves: Curves) -> None:
        self.world, self.policy, self.curves, self.baseline = world, policy, curves, baseline
        self.rng = np.random.default_rng(seed)
        self.size = nights
        zeros = lambda: np.zeros(nights)  # noqa: E731
        self.true, self.time = zeros(), zeros()
        self.best_sum, self.best_count = zeros(), zeros()
        self.before, self.before_variance = zeros(), np.full(nights, np.inf)
        self.squares, self.freedom = zeros(), zeros()
        self.open = np.zeros(nights, bool)
        self.effect, self.sum, self.count, self.lead = zeros(), zeros(), zeros(), np.zeros((nights, len(PROGRESS)))
        most = int(world.trainings * 3)
        self.known, self.whole = np.zeros((nights, most)), np.zeros((nights, most))
        self.differences, self.variances = np.zeros((nights, most)), np.ones((nights, most))
        self.leads = np.zeros((nights, most, len(PROGRESS)))
        self.trials = np.zeros(nights, int)
        self.kept, self.false, self.stopped, self.lost = zeros(), zeros(), zeros(), zeros()
        for _ in range(baseline):
            self._look_at_best(np.ones(nights, bool))

    # -- trainings ------------------------------------------------------------------------------------------------

    def _measured(
        self, who: NDArray[np.bool_], total: Numbers, count: Numbers, true: Numbers, luck: Numbers | None = None
    ) -> None:
        """One more training of each of `who`; the noise learns from it when it is a repeat."""
        value = true + (self.rng.normal(0.0, self.world.sigma, self.size) if luck is None else luck)
        repeat = who & (count > 0)
        mean = total / np.maximum(count, 1.0)
        self.squares += np.where(repeat, count / (count + 1.0) * (value - mean) ** 2, 0.0)
        self.freedom += repeat
        total += np.where(who, value, 0.0)
        count += who
        self.time += who

    def _look_at_best(self, who: NDArray[np.bool_]) -> None:
        self._measured(who, self.best_sum, self.best_count, self.true)

    def _look_at_candidate(self, who: NDArray[np.bool_], luck: Numbers | None = None) -> None:
        self._measured(who, self.sum, self.count, self.true + self.effect, luck)

    # -- what is known --------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        self.noise = noise_variance(self.squares, self.freedom, 1.0)
        width = int(self.trials.max()) + 1
        self.effects = learned_effects(
            self.differences[:, :width], self.variances[:, :width], self.known[:, :width], self.noise
        )

    def _best(self) -> tuple[Numbers, Numbers]:
        """Mean and variance of the best's true metric."""
        mean, own = self.best_sum / self.best_count, self.noise / self.best_count
        first = ~np.isfinite(self.before_variance)
        before = np.where(first, own, self.before_variance)
        guess, variance = after_keep(self.before, before, mean, own, self.effects)
        return np.where(first, mean, guess), np.where(first, own, variance)

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One training and what follows from it, in each night that has time left. False: none has."""
        going = self.time < self.world.trainings - 0.5
        if not going.any():
            return False
        fresh = going & ~self.open
        self.effect = np.where(fresh, self.world.effects(self.rng, self.size), self.effect)
        self.sum, self.count = np.where(fresh, 0.0, self.sum), np.where(fresh, 0.0, self.count)
        self.open |= fresh
        self._learn()
        best, best_variance = self._best()
        ended = self._stop_early(fresh, best, best_variance)
        self._look_at_candidate(fresh & ~ended, self.luck)
        self._learn()
        best, best_variance = self._best()
        known = Known(
            self.sum / np.maximum(self.count, 1.0) - best, np.maximum(self.count, 1.0), best_variance, self.noise
        )
        answer, _ = choose(known, self.best_count, self.effects, self.policy)
        judged = going & ~ended
        self._do(judged, answer, known, best, best_variance)
        return True

    def _stop_early(self, fresh: NDArray[np.bool_], best: Numbers, best_variance: Numbers) -> NDArray[np.bool_]:
        drawn = self.rng.normal(0.0, 1.0, (2, self.size))
        self.luck = self.rng.normal(0.0, self.world.sigma, self.size)
        ended = np.zeros(self.size, bool)
        width = int(self.trials.max()) + 1
        variance = self.noise + best_variance
        for index, progress in enumerate(PROGRESS):
            own = self.curves.noise[index] * self.world.sigma * drawn[1]
            lead = self.effect * (1.0 + self.curves.share[index] * drawn[0]) + self.luck + own
            self.lead[:, index] = np.where(fresh, lead, self.lead[:, index])
            mean, spread = foretold(
                lead, self.leads[:, :width, index], self.differences[:, :width], self.whole[:, :width], variance
            )
            stop, _ = hopeless(mean, spread, self.effects, self.policy)
            stop &= fresh & ~ended
            self._remember(stop, mean, spread, whole=False)
            self.time += np.where(stop, progress, 0.0)
            self.stopped += stop
            self.lost += stop & (self.effect < 0.0)
            ended |= stop
        self.open &= ~ended
        return ended

    def _remember(self, who: NDArray[np.bool_], difference: Numbers, variance: Numbers, whole: bool) -> None:
        rows = np.flatnonzero(who)
        columns = self.trials[rows]
        self.differences[rows, columns], self.variances[rows, columns] = difference[rows], variance[rows]
        self.known[rows, columns], self.whole[rows, columns] = 1.0, float(whole)
        self.leads[rows, columns] = self.lead[rows]
        self.trials[rows] += 1

    def _do(
        self, judged: NDArray[np.bool_], answer: NDArray[np.int64], known: Known, best: Numbers, variance: Numbers
    ) -> None:
        late = self.time >= self.world.trainings - 0.5
        look = judged & ~late
        self._look_at_candidate(look & (answer == CANDIDATE))
        self._look_at_best(look & (answer == BEST))
        over = judged & (answer <= INCONCLUSIVE)
        keep = over & (answer == KEEP)
        self._remember(over, known.difference, known.variance, whole=True)
        self.kept += keep
        self.false += keep & (self.effect >= 0.0)
        self.true = np.where(keep, self.true + self.effect, self.true)
        self.before, self.before_variance = (
            np.where(keep, best, self.before),
            np.where(keep, variance, self.before_variance),
        )
        self.best_sum, self.best_count = (
            np.where(keep, self.sum, self.best_sum),
            np.where(keep, self.count, self.best_count),
        )
        self.open &= ~over

    def result(self) -> Result:
        return Result(-self.true, self.kept, self.false, self.trials.astype(float), self.time, self.stopped, self.lost)


def confirm(
    world: World, nights: int, seed: int, policy: Policy = POLICY, baseline: int = 3, curves: Curves = CURVES
) -> Result:
    """Nights under the rule `confirm`."""
    run = Nights(world, nights, seed, policy, baseline, curves)
    while run.step():
        pass
    return run.result()
