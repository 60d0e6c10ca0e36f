"""What an ablation found: the share of each change, and a simpler best where changes carry nothing."""

from __future__ import annotations

from statistics import fmean

from autoexp.runs import events as ev
from autoexp.runs.auditing import audit_of_best
from autoexp.runs.checked import Checked, Comparison, Offer, Verdict
from autoexp.runs.checks import Check
from autoexp.runs.comparing import compared
from autoexp.runs.records import Best, Trial
from autoexp.runs.state import RunState
from autoexp.session.reverted import kept_changes, removals
from autoexp.session.verdicts import failed, limits, test_comparisons, with_ends
from autoexp.spec.context import Context
from autoexp.workspace.repository import refs

NOTHING = 0.1
"""A change that carries less than this part of the gain, and is not shown to carry any, carries nothing."""
SIMPLIFIED = "simplified"


def ablated(state: RunState, check: Check, context: Context) -> ev.Event:
    """One more program when several changes carry nothing; the simpler best, if it is to be kept; then the verdict."""
    shares, total = _shares(state, check), _total(state, check)
    idle = [one for one in shares if total is not None and total.gain > 0 and carries_nothing(one, total.gain)]
    numbers = sorted(n for one in idle for n in _removed(check, one.against))
    simpler = check.program(SIMPLIFIED) if len(numbers) > 1 else None
    problem = ""
    if len(numbers) > 1 and simpler is None:
        trials = [trial for trial in kept_changes(state) if trial.iteration in numbers]
        made, why_not = removals(context.repository, context.settings, state, check.key, [trials], SIMPLIFIED)
        if made:
            return ev.CheckGrown(key=check.key, program=made[0])
        problem = f"they cannot all be taken out together: {why_not[0][1]}"
    elif len(numbers) == 1:
        simpler = check.program(idle[0].against)
    offer = _offer(state, check, simpler, total)
    if offer is not None and all(event.key != check.key for event in state.simplified):
        why = _why_kept(state, check, offer, context)
        if why:
            return _simplified(check, offer, why)
    return ev.CheckClosed(key=check.key, verdict=_verdict(state, check, shares, total, offer, problem))


def carries_nothing(one: Comparison, total: float) -> bool:
    """Whether the best is not shown to be better than it is without a change, nor by a part that matters."""
    return (one.low is None or one.low <= 0) and one.gain <= NOTHING * total


def _shares(state: RunState, check: Check) -> list[Comparison]:
    best = check.values("best")
    names = [program.name for program in check.programs if program.name.startswith("without-")]
    found = [compared("best", best, name, check.values(name), state.metric) for name in names]
    return [one for one in found if one is not None]


def _total(state: RunState, check: Check) -> Comparison | None:
    """What the best is better than the baseline by: measured here, or in its audit."""
    own = compared("best", check.values("best"), "baseline", check.values("baseline"), state.metric)
    audit = audit_of_best(state)
    if own is None and audit is not None and audit.verdict is not None:
        return next((c for c in audit.verdict.comparisons if c.metric == state.metric.name), None)
    return own


def _removed(check: Check, name: str) -> tuple[int, ...]:
    program = check.program(name)
    return program.removed if program is not None else ()


def _offer(state: RunState, check: Check, simpler: Checked | None, total: Comparison | None) -> Offer | None:
    if simpler is None or total is None or state.best is None:
        return None
    best = check.program("best")
    one = compared("best", check.values("best"), simpler.name, check.values(simpler.name), state.metric)
    if one is None or best is None or not carries_nothing(one, total.gain):
        return None
    return Offer(
        commit=simpler.commit,
        ref=f"{refs(state.run_id)}/{check.key}/{simpler.name}",
        of=best.commit,
        removed=simpler.removed,
        metric=fmean(one.others),
        before=fmean(one.values),
    )


def _why_kept(state: RunState, check: Check, offer: Offer, context: Context) -> str:
    """Why the simpler best becomes the run's; '' when it is only offered."""
    if check.keep:
        return "a person asked for it (--keep-simplified)"
    assert state.best is not None
    trial = Trial(
        iteration=state.best.iteration,
        description="the best without changes that carry nothing",
        proposer="check",
        base=offer.of,
        commit=offer.commit,
        ref=offer.ref,
        source="",
        status="success",
        metric=offer.metric,
    )
    best = Best(iteration=state.best.iteration, commit=offer.of, metric=offer.before)
    decision, why = context.rule().decide(trial, best, state.trials, state.metric)
    return why if decision == "keep" else ""


def _simplified(check: Check, offer: Offer, why: str) -> ev.BestSimplified:
    return ev.BestSimplified(
        key=check.key, commit=offer.commit, of=offer.of, removed=offer.removed, metric=offer.metric, why=why
    )


def _verdict(
    state: RunState,
    check: Check,
    shares: list[Comparison],
    total: Comparison | None,
    offer: Offer | None,
    problem: str,
) -> Verdict:
    if not shares or total is None:
        return failed(check)
    words = [f"the best is better than the baseline by {with_ends(total)}"]
    for one in sorted(shares, key=lambda each: -each.gain):
        numbers = ", ".join(map(str, _removed(check, one.against)))
        part = f"{one.gain / total.gain:.0%} of it" if total.gain > 0 else "no gain to share"
        words.append(f"the change of {numbers} carries {with_ends(one)}, {part}")
    if offer is not None:
        numbers = ", ".join(map(str, offer.removed))
        taken = any(event.key == check.key for event in state.simplified)
        words.append(
            f"without {numbers} it comes to {offer.metric:.6f} instead of {offer.before:.6f}: "
            + ("kept as the run's best" if taken else f"offered as {offer.ref}")
        )
    gains = sum(one.gain for one in shares)
    notes = [*limits(check), *([problem] if problem else [])]
    if total.gain > 0 and len(shares) > 1 and abs(gains - total.gain) > 0.25 * total.gain:
        notes.append(f"the shares add up to {gains / total.gain:.0%}: changes work together, or against each other")
    everything = (*shares, total, *test_comparisons(state, check))
    return Verdict(
        finding="measured",
        words="; ".join(words),
        comparisons=everything,
        claimed=total.gain,
        notes=tuple(notes),
        offer=offer,
    )
