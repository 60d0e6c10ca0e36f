"""What audits and reproductions found, in words and numbers."""

from __future__ import annotations

import math
from statistics import fmean

from autoexp.runs.auditing import claim
from autoexp.runs.checked import Comparison, Finding, Verdict
from autoexp.runs.checks import Check, test_metric
from autoexp.runs.comparing import compared, pooled, student_t
from autoexp.runs.state import RunState


def audited(state: RunState, check: Check) -> Verdict:
    """Whether what the run claims holds with fresh seeds, on validation and on the test split."""
    notes = limits(check)
    own = compared("best", check.values("best"), "baseline", check.values("baseline"), state.metric)
    if own is None:
        return failed(check)
    tests = test_comparisons(state, check)
    claimed = _claimed(state, check)
    held = _holds(own) and all(map(_holds, tests))
    finding: Finding = "confirmed" if held else "unclear"
    if own.high is not None and own.high < 0:
        finding = "refuted"
    words = f"{own.metric} {_better(own)} over {len(own.values)} v {len(own.others)} trainings"
    if claimed is not None and claimed > 0:
        words += f"; the run claimed {claimed:.6f}, of which {max(0.0, own.gain) / claimed:.0%} holds"
    for test in tests:
        words += f"; {test.metric} {_better(test)}"
    if not tests:
        notes.append(no_test(state))
    sizes = f"{len(own.values)} v {len(own.others)}"
    words += f"; rank test p = {own.p:.2g} (the least that {sizes} can give: {own.least_p:.2g})"
    return Verdict(finding=finding, words=words, comparisons=(own, *tests), claimed=claimed, notes=tuple(notes))


def failed(check: Check) -> Verdict:
    """Too few trainings came to a number."""
    notes = limits(check)
    said = f": {notes[-1]}" if notes else ""
    return Verdict(finding="failed", words=f"too few trainings came to a number{said}", notes=tuple(notes))


def reproduced(state: RunState, check: Check) -> Verdict:
    """Whether a trial comes to what was recorded of it."""
    program, notes = check.programs[0], limits(check)
    values, recorded = check.values(program.name), program.recorded
    if not values or recorded is None:
        return failed(check)
    name, first = state.metric.name, check.trainings[0].outcome
    same_seed = first.metric if first is not None else None
    if same_seed == recorded:
        words = f"{name} {recorded:.6f} again, to the last digit, with the same seed"
        return Verdict(finding="reproduced", words=words, claimed=recorded, notes=tuple(notes))
    mean = fmean(values)
    words = f"{name} {mean:.6f}" + (f", the mean of {len(values)} trainings," if len(values) > 1 else "")
    words += f" for the {recorded:.6f} that was recorded ({mean - recorded:+.6f})"
    spread = noise(state)
    if spread is None:
        notes.append("the noise of this run is unknown: more seeds measure it")
        return Verdict(finding="unclear", words=words, claimed=recorded, notes=tuple(notes))
    deviation, degrees = spread
    width = student_t(0.975, degrees) * deviation * math.sqrt(1 + 1 / len(values))
    within = abs(mean - recorded) <= width
    words += f", {'within' if within else 'more than'} the {width:.6f} that noise explains"
    if not within:
        better = state.metric.better(recorded, mean)
        words += f": what was recorded is {'better' if better else 'worse'} than what it comes to"
    finding: Finding = "reproduced" if within else "different"
    return Verdict(finding=finding, words=words, claimed=recorded, notes=tuple(notes))


def noise(state: RunState) -> tuple[float, int] | None:
    """(standard deviation, degrees of freedom) of trainings of one program; None when none was trained twice."""
    samples: dict[str, list[float]] = {}
    for measurement in getattr(state, "measurements", ()):
        samples.setdefault(measurement.program, []).append(measurement.value)
    if not samples:
        for trial in state.trials:
            if trial.metric is not None:
                samples.setdefault(trial.source, []).append(trial.metric)
    for other in state.checks:
        for program in other.programs:
            # within a check the seeds differ; a training with the recorded seed is one of them
            samples[f"{other.key}/{program.name}"] = other.values(program.name)
    return pooled(list(samples.values()))


def test_comparisons(state: RunState, check: Check) -> list[Comparison]:
    """The best against the baseline, or against each program without a change, on the test split."""
    name = test_metric(state.metric)
    others = [program.name for program in check.programs if program.name != "best"]
    found = [compared("best", check.values("best", name), o, check.values(o, name), state.metric, name) for o in others]
    return [one for one in found if one is not None]


def no_test(state: RunState) -> str:
    return (
        f"the trainer reports no {test_metric(state.metric)}: there is no test split, so validation rows that the "
        "decisions saw are all it rests on"
    )


def limits(check: Check) -> list[str]:
    """What limits a check: failed trainings, seeds that change nothing, seeds that nobody confirms."""
    found = list(check.notes)
    values = [check.values(program.name) for program in check.programs]
    several = len(check.seeds) > 1 and any(len(each) > 1 for each in values)
    if several and all(len(set(each)) <= 1 for each in values):
        found.append("seeds change nothing: the trainer does not use AUTOEXP_SEED, or has no chance in it")
    outcomes = [(t.seed, t.outcome) for t in check.trainings if t.outcome is not None]
    said = {(seed, outcome.metrics.get("seed")) for seed, outcome in outcomes if outcome.metric is not None}
    if any(own is not None and own != seed for seed, own in said):
        found.append("the trainer trained with other seeds than it was given")
    if any(outcome.evaluated_by == "trainer" for _, outcome in outcomes):
        found.append("evaluated by the trainer itself, in the process that runs the candidate's code")
    for training in check.failed:
        reason = training.outcome.reason or training.outcome.status if training.outcome is not None else ""
        found.append(f"{training.program} with seed {training.seed} failed: {reason[:300]}")
    return found


def with_ends(one: Comparison) -> str:
    """'0.0205 [0.0171, 0.0240]'."""
    ends = f" [{one.low:.6f}, {one.high:.6f}]" if one.low is not None and one.high is not None else ""
    return f"{one.gain:.6f}{ends}"


def _better(one: Comparison) -> str:
    if one.gain >= 0:
        return f"better by {with_ends(one)}"
    turned = one.model_copy(
        update={
            "gain": -one.gain,
            "low": -one.high if one.high is not None else None,
            "high": -one.low if one.low is not None else None,
        }
    )
    return f"worse by {with_ends(turned)}"


def _holds(one: Comparison) -> bool:
    return one.low is not None and one.low > 0


def _claimed(state: RunState, check: Check) -> float | None:
    """The gain that the run claimed when the audit began: the difference of what it had recorded of the two."""
    baseline, best = check.program("baseline"), check.program("best")
    if baseline is None or best is None or baseline.recorded is None or best.recorded is None:
        found = claim(state)
        return found[1] if found is not None else None
    gain = best.recorded - baseline.recorded
    return -gain if state.metric.direction == "min" else gain
