"""`margin`: keep what is better by a margin, in the metric's units or in standard errors of the difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from autoexp.decisions.options import MarginOptions, checked
from autoexp.decisions.weighing import compared, is_simpler_tie, mean, penalty, values
from autoexp.runs.records import Best, Decision, Evidence, Metric, Noise, Trial
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Case, Rule, Verdict


class Margin:
    """The rule `margin`. It sees each candidate once; only the baseline is repeated, to learn the noise."""

    def __init__(self, **options: Any) -> None:
        """Raises UsageError for an option that is not known or valid."""
        self.options = checked(MarginOptions, "margin", options)

    def decide(self, trial: Trial, best: Best | None, trials: Sequence[Trial], metric: Metric) -> tuple[Decision, str]:
        """As `judge`, without repeats: there is a margin in units of the metric, or none can be told."""
        verdict = self.judge(Case(trial, best, trials, metric, (), (), Noise(), may_look=False))
        return verdict.decision, verdict.why

    def judge(self, case: Case) -> Verdict:
        """Keep a candidate whose mean is better than the best's by more than the margin."""
        turned = 1.0 if case.metric.direction == "min" else -1.0
        assert case.trial.metric is not None
        mine = values(case.candidate, case.metric) or [turned * case.trial.metric]
        if case.best is None:
            wanted = 1 if self.options.by else self.options.baseline
            first = f"first {case.metric.name}: {turned * mean(mine):.6f}"
            again = case.noise.freedom < wanted - 1 and len(mine) < wanted
            more: Literal["candidate"] | None = "candidate" if again else None
            return Verdict("keep", f"{first}, {len(mine)} of {wanted} trainings" if wanted > 1 else first, look=more)
        theirs = values(case.incumbent, case.metric) or [turned * case.best.metric]
        noise = case.noise.deviation
        error = (noise or 0.0) * math.sqrt(1.0 / len(mine) + 1.0 / len(theirs))
        evidence = Evidence(
            difference=mean(mine) - mean(theirs) + penalty(case, self.options), error=error,
            candidate=len(mine), best=len(theirs), noise=noise,
        )  # fmt: skip
        margin = self.options.by or self.options.sigmas * error
        why = f"{compared(case, evidence)}; the margin is {margin:.6f}"
        if not self.options.by and noise is None:
            return Verdict("inconclusive", f"{why}: nothing is known of the noise", "incumbent", evidence)
        if evidence.difference < -margin:
            return Verdict("keep", why, evidence=evidence)
        if is_simpler_tie(case, evidence, self.options):
            return Verdict("keep", f"{why}; as good, and {-case.lines} lines shorter", evidence=evidence)
        return Verdict("discard", why, evidence=evidence)


@hookimpl
def autoexp_register_decision_rules(register: Callable[[str, Rule], None], options: dict[str, dict[str, Any]]) -> None:
    register("margin", Margin(**options.get("margin", {})))
