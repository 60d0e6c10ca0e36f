"""`confirm`, the default: believe what all measurements say, look again where that is worth it, stop what is hopeless.

The statistics are in the pure modules beside it (beliefs, learning, lookahead, policy, curves), which
benchmarks/decision_rules.py runs too; docs/explanation/decisions.md explains them. They need numpy, which takes a tenth
of a second to import: commands that decide nothing do without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from autoexp.decisions.options import ConfirmOptions, checked
from autoexp.decisions.weighing import by_seed, compared, is_simpler_tie, mean, penalty, sign, told, values
from autoexp.runs.records import Best, Decision, Metric, Noise, Trial
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Case, Rule, Verdict

if TYPE_CHECKING:
    from autoexp.decisions.reckoning import Reckoned

EARLIEST, LATEST = 0.25, 0.9
"""Part of a training after which it may be stopped early, and from which that saves nothing."""


class Confirm:
    """The rule `confirm`."""

    def __init__(self, **options: Any) -> None:
        """Raises UsageError for an option that is not known or valid."""
        self.options = checked(ConfirmOptions, "confirm", options)

    def decide(self, trial: Trial, best: Best | None, trials: Sequence[Trial], metric: Metric) -> tuple[Decision, str]:
        """As `judge`, for who knows one number of each and nothing of the noise."""
        verdict = self.judge(Case(trial, best, trials, metric, (), (), Noise(), may_look=False))
        return verdict.decision, verdict.why

    def judge(self, case: Case) -> Verdict:
        """What all measurements say, or whom to train again first."""
        if case.best is None:
            return self._first(case)
        if not case.noise.freedom:
            return self._blind(case)
        from autoexp.decisions.policy import BEST, CANDIDATE, DISCARD, KEEP
        from autoexp.decisions.reckoning import reckon

        found = reckon(case, penalty(case, self.options))
        answer, worth = found.choose(self.options, case.may_look)
        evidence = found.evidence(worth.belief, case)
        why = compared(case, evidence)
        decision: Decision = "keep" if answer == KEEP else "discard" if answer == DISCARD else "inconclusive"
        if answer in (CANDIDATE, BEST):
            return Verdict("inconclusive", why, "candidate" if answer == CANDIDATE else "incumbent", evidence)
        if decision != "keep" and is_simpler_tie(case, evidence, self.options):
            return Verdict("keep", f"{why}; as good, and {-case.lines} lines shorter", evidence=evidence)
        return Verdict(decision, why, evidence=evidence)

    def foresee(self, case: Case, seed: int, curve: Sequence[tuple[float, float]]) -> Verdict | None:
        """A discard when the loss curve, beside the best's with the same seed, leaves next to no hope."""
        rival = by_seed(case.incumbent).get(seed)
        progress = curve[-1][0] if curve else 0.0
        if not self.options.hopeless or case.best is None or rival is None or not case.noise.freedom:
            return None
        if not EARLIEST <= progress <= LATEST:
            return None
        from autoexp.decisions.reckoning import leads, reckon

        lead = leads(curve, rival.curve)
        found: Reckoned = reckon(case, penalty(case, self.options))
        evidence = found.foretold(lead, progress, self.options)
        if evidence is None:
            return None
        where = f"stopped at {progress:.0%} of its training: its loss foretells"
        return Verdict("discard", f"{where} {told(evidence, case.metric)}", evidence=evidence)

    def _first(self, case: Case) -> Verdict:
        """The unchanged program: kept, and trained a few times, so that the noise is known from the start."""
        assert case.trial.metric is not None
        mine = values(case.candidate, case.metric) or [sign(case.metric) * case.trial.metric]
        wanted = self.options.baseline
        why = f"first {case.metric.name}: {sign(case.metric) * mean(mine):.6f}"
        if case.noise.freedom and (noise := case.noise.deviation) is not None:
            why += f", +/- {noise:.2g} from seed to seed" if noise else ", the same with every seed"
        if case.noise.freedom >= wanted - 1 or len(mine) >= wanted:
            return Verdict("keep", why)
        return Verdict("keep", f"{why}; training {len(mine) + 1} of {wanted} is to tell the noise", "candidate")

    def _blind(self, case: Case) -> Verdict:
        """Nothing was repeated yet: without the noise no difference means anything."""
        assert case.best is not None and case.trial.metric is not None
        change = case.trial.metric - case.best.metric
        words = f"{case.metric.name} {case.trial.metric:.6f}, {change:+.6f} against {case.best.metric:.6f}"
        worse = not case.metric.better(case.trial.metric, case.best.metric)
        why = f"{words}; nothing was repeated yet, so the noise is not known"
        return Verdict("discard" if worse else "inconclusive", why, "incumbent")


@hookimpl
def autoexp_register_decision_rules(register: Callable[[str, Rule], None], options: dict[str, dict[str, Any]]) -> None:
    register("confirm", Confirm(**options.get("confirm", {})))
