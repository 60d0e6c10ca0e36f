"""A case of the product as the arrays that the pure modules take: one run where the benchmark has hundreds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoexp.decisions.beliefs import Belief, Effects, Numbers, after_keep
from autoexp.decisions.curves import foretold
from autoexp.decisions.learning import learned_effects, noise_variance
from autoexp.decisions.lookahead import Known, Worth
from autoexp.decisions.options import ConfirmOptions
from autoexp.decisions.policy import Policy, choose, hopeless
from autoexp.decisions.weighing import by_seed, mean, sign, values
from autoexp.runs.records import Evidence
from autoexp.spec.ports import Case

WINDOW = 0.15
"""The last part of a loss curve, as progress, whose mean counts."""
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Reckoned:
    """What is known in a case. Arrays have one entry."""

    case: Case
    effects: Effects
    noise: Numbers
    best: Numbers
    """Estimate of the best's true metric, turned so that less is better."""
    best_variance: Numbers
    penalty: float

    @property
    def _best_count(self) -> int:
        return max(1, len(by_seed(self.case.incumbent)))

    def _known(self) -> Known:
        mine = values(self.case.candidate, self.case.metric)
        if not mine:
            assert self.case.trial.metric is not None
            mine = [sign(self.case.metric) * self.case.trial.metric]
        difference = np.array([mean(mine) + self.penalty]) - self.best
        return Known(difference, np.array([float(len(mine))]), self.best_variance, self.noise)

    def choose(self, options: ConfirmOptions, may_look: bool) -> tuple[int, Worth]:
        """The answer of the policy, and what it was weighed by."""
        policy = _policy(options) if may_look else _policy(options, looks=0, best_looks=0)
        answer, worth = choose(self._known(), np.array([float(self._best_count)]), self.effects, policy)
        return int(answer[0]), worth

    def evidence(self, belief: Belief, case: Case) -> Evidence:
        """The numbers of a decision, as the journal keeps them."""
        known = self._known()
        mine, theirs = list(by_seed(case.candidate).values()), by_seed(case.incumbent)
        first = mine[0] if mine else None
        rival = theirs.get(first.seed) if first is not None else None
        lead = leads(first.curve, rival.curve) if first is not None and rival is not None else ()
        return self._evidence(known.difference, known.variance, belief.better, len(mine) or 1, lead)

    def _evidence(
        self, difference: Numbers, variance: Numbers, better: Numbers, count: int, lead: Curve = ()
    ) -> Evidence:
        return Evidence(
            difference=float(difference[0]),
            error=float(np.sqrt(variance[0])),
            candidate=count,
            best=self._best_count,
            better=float(better[0]),
            noise=float(np.sqrt(self.noise[0])),
            estimate=sign(self.case.metric) * float(self.best[0]),
            estimate_error=float(np.sqrt(self.best_variance[0])),
            lead=tuple(lead),
        )

    def foretold(self, lead: Curve, progress: float, options: ConfirmOptions) -> Evidence | None:
        """The numbers by which a training with such a lead in loss is hopeless; None when it is not."""
        now = _at(lead, progress)
        finished = [
            (at, trial.evidence.difference)
            for trial in self.case.trials
            if trial.evidence is not None and trial.status == "success"
            if (at := _at(trial.evidence.lead, progress)) is not None
        ]
        if now is None or not finished:
            return None
        before, differences = (np.array([column]) for column in zip(*finished, strict=True))
        variance = self.noise + self.best_variance
        middle, spread = foretold(np.array([now]), before, differences, np.ones_like(before), variance)
        stop, better = hopeless(middle + self.penalty, spread, self.effects, _policy(options))
        return self._evidence(middle + self.penalty, spread, better, 1, lead) if bool(stop[0]) else None


def reckon(case: Case, penalty: float) -> Reckoned:
    """Noise, spread of the effects and estimate of the best, from all that the run has measured."""
    assert case.best is not None
    turn = sign(case.metric)
    theirs = values(case.incumbent, case.metric) or [turn * case.best.metric]
    noise = noise_variance(np.array([case.noise.squares]), np.array([float(case.noise.freedom)]), case.best.metric)
    past = [trial.evidence for trial in case.trials if trial.evidence is not None and trial.evidence.error > 0.0]
    differences = np.array([[each.difference for each in past]])
    variances = np.array([[each.error**2 for each in past]])
    effects = learned_effects(differences, variances, np.ones_like(differences), noise)
    value, own = np.array([mean(theirs)]), noise / len(theirs)
    before = case.best_trial.evidence if case.best_trial is not None else None
    if before is None or before.estimate is None or before.estimate_error is None:
        return Reckoned(case, effects, noise, value, own, penalty)
    old, old_variance = np.array([turn * before.estimate]), np.array([max(before.estimate_error**2, 1e-300)])
    best, best_variance = after_keep(old, old_variance, value, own, effects)
    return Reckoned(case, effects, noise, best, best_variance, penalty)


def leads(curve: Curve, rival: Curve) -> tuple[tuple[float, float], ...]:
    """(progress, loss less the rival's) where both have a point."""
    others = {round(progress, 3): loss for progress, loss in rival}
    found = ((round(progress, 3), loss) for progress, loss in curve)
    return tuple((progress, round(loss - others[progress], 6)) for progress, loss in found if progress in others)


def _at(lead: Curve, progress: float) -> float | None:
    """The mean lead in the stretch that ends there; None when it is not all there."""
    part = [loss for at, loss in lead if progress - WINDOW + 1e-6 < at <= progress + 1e-6]
    reached = bool(lead) and lead[-1][0] >= progress - 1e-6
    return sum(part) / len(part) if part and reached else None


def _policy(options: ConfirmOptions, **changes: float) -> Policy:
    fields = {name: getattr(options, name) for name in Policy.__dataclass_fields__}
    return Policy(**{**fields, **changes})
