"""`improvement`: keep what is strictly better than the best so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autoexp.decisions.options import NoOptions, checked
from autoexp.runs.records import Best, Decision, Metric, Trial
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Rule


class Improvement:
    def __init__(self, **options: Any) -> None:
        """Raises UsageError for any option: there are none."""
        checked(NoOptions, "improvement", options)

    def decide(self, trial: Trial, best: Best | None, trials: Sequence[Trial], metric: Metric) -> tuple[Decision, str]:
        """Keep the first metric there is; afterwards only a strictly better one."""
        assert trial.metric is not None
        if best is None:
            return "keep", f"first {metric.name}: {trial.metric:.6f}"
        change = f"{metric.name} {trial.metric:.6f}, {trial.metric - best.metric:+.6f} against {best.metric:.6f}"
        if metric.better(trial.metric, best.metric):
            return "keep", change
        return "discard", change


@hookimpl
def autoexp_register_decision_rules(register: Callable[[str, Rule], None], options: dict[str, dict[str, Any]]) -> None:
    register("improvement", Improvement(**options.get("improvement", {})))
