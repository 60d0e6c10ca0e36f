"""What all rules that look at measurements share: the case in numbers, turned so that less is better, and its words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoexp.decisions.options import Secondary
from autoexp.runs.records import Evidence, Measurement, Metric
from autoexp.spec.ports import Case


def by_seed(measurements: Sequence[Measurement]) -> dict[int, Measurement]:
    """The first measurement with each seed: a second one with the same is no new luck."""
    found: dict[int, Measurement] = {}
    for each in measurements:
        found.setdefault(each.seed, each)
    return found


def sign(metric: Metric) -> float:
    """What turns values and differences of the metric so that less is better."""
    return 1.0 if metric.direction == "min" else -1.0


def values(measurements: Sequence[Measurement], metric: Metric) -> list[float]:
    """One for each seed, turned so that less is better."""
    return [sign(metric) * each.value for each in by_seed(measurements).values()]


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def penalty(case: Case, options: Secondary) -> float:
    """What the memory above the soft limit costs, in units of the metric."""
    over = case.memory_gb - options.memory_gb
    return over * options.memory_price if options.memory_gb and over > 0.0 else 0.0


def is_simpler_tie(case: Case, evidence: Evidence, options: Secondary) -> bool:
    """Whether the change deletes enough code to be kept, and is not seen to be worse."""
    return 0 < options.simpler <= -case.lines and evidence.difference <= evidence.error


def compared(case: Case, evidence: Evidence) -> str:
    """'val_bpb 0.997100, -0.0013 +/- 0.0006 over 3 v 3, P(better) = 0.98'."""
    value = mean([each.value for each in by_seed(case.candidate).values()] or [case.trial.metric or 0.0])
    return f"{case.metric.name} {value:.6f}, {told(evidence, case.metric)}"


def told(evidence: Evidence, metric: Metric) -> str:
    """The same without the value."""
    digits = max(4, min(6, -_magnitude(evidence.error))) if evidence.error else 6
    difference = sign(metric) * evidence.difference
    text = f"{difference:+.{digits}f} +/- {evidence.error:.{digits}f} over {evidence.candidate} v {evidence.best}"
    return text + (f", P(better) = {_chance(evidence.better)}" if evidence.better is not None else "")


def _chance(probability: float) -> str:
    """Two digits, and never a certainty that is none."""
    return f"{probability:.2f}" if 0.005 <= probability < 0.995 else f"{min(max(probability, 1e-4), 0.9999):.4f}"


def _magnitude(number: float) -> int:
    """The place of the first digit: -3 for 0.004."""
    return int(f"{number:e}".split("e")[1]) if 0.0 < number < math.inf else 0
