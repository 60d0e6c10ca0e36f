"""When a run audits itself at its end, what that costs, and the seeds of checks. Pure."""

from __future__ import annotations

import hashlib
from statistics import median

from autoexp.runs.checks import Check
from autoexp.runs.records import Plan, Trial
from autoexp.runs.state import RunState

LARGEST_SEED = 2**31 - 1
LATELY = 20
"""Trials whose median says how long a training takes."""


def claim(state: RunState) -> tuple[Trial, float] | None:
    """(the baseline, the gain over it that the run claims); None where nothing was kept that could be compared."""
    baseline = state.trials[0] if state.trials and state.trials[0].iteration == 0 else None
    if baseline is None or baseline.metric is None or state.best is None or state.best.commit == baseline.commit:
        return None
    gain = state.best.metric - baseline.metric
    return baseline, -gain if state.metric.direction == "min" else gain


def audit_of_best(state: RunState) -> Check | None:
    """The last audit of what is the best now that came to its end; None: what the run has is a claim."""
    if state.best is None:
        return None
    for check in reversed(state.checks):
        if check.kind == "audit" and check.verdict is not None and check.verdict.finding != "failed":
            program = check.program("best")
            if program is not None and program.commit == state.best.commit:
                return check
    return None


def seconds_of(state: RunState, plan: Plan, trainings: int) -> float | None:
    """How long so many trainings take, by those of late; None before any."""
    lately = [trial.seconds for trial in state.trials[-LATELY:] if trial.seconds]
    return median(lately) * -(-trainings // plan.workers) if lately else None


def reserved_hours(state: RunState, plan: Plan, limit: float) -> float:
    """How much of max_hours is kept back for the audit: nothing, when that would be more than its share."""
    if not plan.audit_seeds or claim(state) is None or audit_of_best(state) is not None:
        return 0.0
    seconds = seconds_of(state, plan, 2 * plan.audit_seeds) or 0.0
    return seconds / 3600.0 if seconds <= plan.audit_share * limit * 3600.0 else 0.0


def affordable(state: RunState, plan: Plan) -> bool:
    """Whether an audit costs no more than its share of the run, and what is left of the run's hours."""
    seconds = seconds_of(state, plan, 2 * plan.audit_seeds)
    one = seconds_of(state, plan, 1)
    if seconds is None or one is None or seconds > plan.audit_share * state.worked_seconds:
        return False
    limit = plan.budget.max_hours
    # the last iteration may have taken as much more as it takes
    return limit is None or state.worked_seconds + seconds <= limit * 3600.0 + one


def audit_due(state: RunState, plan: Plan) -> bool:
    """Whether a run that has nothing left to do audits what it claims, by itself."""
    if not plan.audit_seeds or state.stopping or state.open or state.check is not None:
        return False
    found = claim(state)
    if found is None or found[1] <= 0 or audit_of_best(state) is not None:
        return False
    tried = any(c.kind == "audit" and c.program("best") == _best(state, c) for c in state.checks)
    return not tried and affordable(state, plan)


def _best(state: RunState, check: Check) -> object:
    program = check.program("best")
    return program if program is not None and state.best is not None and program.commit == state.best.commit else ""


def fresh_seeds(state: RunState, count: int) -> tuple[int, ...]:
    """Seeds that no decision and no check of this run has used. The same ones again, until some are used."""
    used = {state.seed, *(seed for check in state.checks for seed in check.seeds)}
    used |= {getattr(measurement, "seed", state.seed) for measurement in getattr(state, "measurements", ())}
    found: list[int] = []
    number = 0
    while len(found) < count:
        digest = hashlib.sha256(f"{state.run_id}\0{state.seed}\0check\0{number}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") % LARGEST_SEED + 1
        number += 1
        if seed not in used:
            found.append(seed)
            used.add(seed)
    return tuple(found)
