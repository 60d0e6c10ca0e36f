"""Failures alike, in a row: is it the candidates, or has the world around them broken? Pure.

After three of them the best so far is trained once more, as an iteration of its own, the probe. When it trains, the
candidates were at fault, and twice as many failures are waited for until the next probe. When it fails too, the
failures before it are excused: what they tried counts as not tried, and the run stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autoexp.runs.records import Proposal, Trial

if TYPE_CHECKING:
    from autoexp.runs import events as ev
    from autoexp.runs.records import Plan
    from autoexp.runs.shape import RunState

ALIKE = 3
"""Failures in a row, for one and the same reason, after which the best is trained once more."""
PROBE = "probe"
"""Who proposes a probe."""
FAILED = ("crash", "timeout")
"""Endings that may be a candidate's fault. A training that was killed or lost ran again."""
_VARIES = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


def failed(trial: Trial) -> bool:
    """Whether it was trained, and did not end well."""
    return trial.status in FAILED and trial.decision == "crash"


def alike(one: Trial, other: Trial) -> bool:
    """Whether they ended for the same reason, but for numbers and addresses in its words."""
    return one.status == other.status and _VARIES.sub("#", one.reason) == _VARIES.sub("#", other.reason)


def suspects(state: RunState) -> tuple[Trial, ...]:
    """The failures alike with which the trials end, the latest first; of those before a probe that failed, if any."""
    trials = state.trials
    if probe_failed(state):
        trials = trials[:-1]
    return tuple(_run_of(trials))


def _run_of(trials: tuple[Trial, ...]) -> Iterator[Trial]:
    last: Trial | None = None
    for trial in reversed(trials):
        if trial.proposer == PROBE and trial.decision != "crash":
            continue  # the candidates around it were at fault; it is one long row all the same
        if trial.iteration == 0 or trial.proposer == PROBE or trial.excused or not failed(trial):
            return
        if last is not None and not alike(last, trial):
            return
        last = trial
        yield trial


def probe_failed(state: RunState) -> bool:
    """Whether the last trial was a probe, and the best did not train any more."""
    last = state.trials[-1] if state.trials else None
    return last is not None and last.proposer == PROBE and last.decision == "crash" and not last.excused


def probe_due(state: RunState) -> bool:
    """Whether the best is to be trained once more before anything else is tried."""
    if state.best is None or not state.trials or not failed(state.trials[-1]) or state.trials[-1].proposer == PROBE:
        return False
    row = suspects(state)
    if not row:
        return False
    between = [trial for trial in state.trials if trial.proposer == PROBE and trial.iteration > row[-1].iteration]
    before = next((t for t in reversed(state.trials) if t.iteration < row[-1].iteration), None)
    if before is not None and before.proposer == PROBE and before.decision == "crash":
        return True  # nothing was mended, it seems: one failure is enough
    return len(row) >= ALIKE << len(between)


def probing(state: RunState) -> bool:
    """Whether a probe is under way: nothing new is begun before it has ended."""
    return any(iteration.proposer == PROBE for iteration in state.open.values())


def proposal(event: ev.ProbeOpened) -> Proposal:
    """What is in the table for a probe."""
    words = "the best so far once more: does it still train?"
    return Proposal(status="ok", description=words, change_plan=event.why, commit_description=words)


def one_more(plan: Plan, count: int) -> Plan:
    """The plan with a target that is so many iterations farther: what is no idea, or was not tried, is none of it."""
    return plan if plan.target is None else plan.model_copy(update={"target": plan.target + count})


def excused(state: RunState, event: ev.Excused) -> dict[str, Any]:
    """The reducer: the trials are marked, and as many more are to be made."""
    marked = set(event.iterations)
    more = [t for t in state.trials if t.iteration in marked and not t.excused and t.proposer != PROBE]
    trials = tuple(
        trial.model_copy(update={"excused": True, "why": f"not counted: {event.why}"})
        if trial.iteration in marked
        else trial
        for trial in state.trials
    )
    since = max(0, state.since_keep - len(more))
    return {"trials": trials, "plan": one_more(state.plan, len(more)), "since_keep": since, "broken": event.why}
