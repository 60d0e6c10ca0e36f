"""Budgets: what of each limit of a plan is used up, and which one says that no more iterations are opened. Pure.

Time comes from the journal's own events, so a replay decides what the session decided.
"""

from __future__ import annotations

from autoexp.runs.auditing import reserved_hours
from autoexp.runs.records import Plan
from autoexp.runs.state import RunState

AMOUNTS = ("max_hours", "max_trials", "max_cost", "max_tokens")
"""The limits that are used up bit by bit."""
LIMITS = (*AMOUNTS, "until", "plateau")

CANNOT_HOLD = "it cannot hold"


def limited(plan: Plan) -> bool:
    """Whether there is any limit."""
    return any(getattr(plan.budget, name) is not None for name in LIMITS)


def used(state: RunState) -> dict[str, float]:
    """What is used up of each amount, and of the plateau."""
    spent = state.spent
    return {
        "max_hours": state.worked_seconds / 3600.0,
        "max_trials": state.trainings,
        "max_cost": spent.cost_usd,
        "max_tokens": spent.input_tokens + spent.output_tokens,
        "plateau": state.since_keep,
    }


def reached(state: RunState, plan: Plan) -> tuple[str, str] | None:
    """The first limit that is reached, and how, in words; None when another iteration may be opened."""
    budget, so_far = plan.budget, used(state)
    best = state.best.metric if state.best is not None else None
    if budget.until is not None and best is not None and not state.metric.better(budget.until, best):
        return "until", f"{state.metric.name} is {share('until', best, budget.until)}"
    if budget.plateau is not None and state.since_keep >= budget.plateau:
        return "plateau", share("plateau", state.since_keep, budget.plateau)
    for name in AMOUNTS:
        limit = getattr(budget, name)
        amount = so_far[name] + (_to_train(state) if name == "max_trials" else 0)
        if name == "max_hours" and limit is not None:
            amount += reserved_hours(state, plan, limit)
        if limit is not None and amount >= limit:
            return name, share(name, so_far[name], limit)
    return None


def _to_train(state: RunState) -> int:
    """Trainings that iterations under way are still to start: they are promised already."""
    before = ("propose", "apply", "commit", "train")
    return sum(i.stage in before and i.job is None and i.reevaluate is None for i in state.open.values())


def share(name: str, amount: float, limit: float) -> str:
    """How much of a limit is used up, in words: '3.5 of 8 hours'."""
    match name:
        case "max_cost":
            return f"${amount:.2f} of ${limit:.2f}" if limit >= 0.1 else f"${amount:.4g} of ${limit:.4g}"
        case "max_hours":
            return f"{amount:.3g} of {limit:.3g} hours"
        case "max_trials":
            return f"{amount:g} of {limit:g} trainings"
        case "max_tokens":
            return f"{int(amount):,} of {int(limit):,} tokens"
        case "plateau":
            return f"{amount:g} of {limit:g} iterations in a row without one that was kept"
        case _:
            return f"{amount:.6g}, and {limit:.6g} is enough"


def doubt(state: RunState, name: str) -> str:
    """Why a limit may let more pass than it says; '' when it holds."""
    spent = state.spent
    unknown, what = {
        "max_cost": (spent.unpriced, "what it cost"),
        "max_tokens": (spent.uncounted, "its tokens"),
    }.get(name, (0, ""))
    if not unknown:
        return ""
    calls = f"{spent.calls} call" + ("s" if spent.calls != 1 else "")
    if unknown == spent.calls:
        return f"{CANNOT_HOLD}: none of {calls} told {what}"
    return f"at least: {unknown} of {calls} did not tell {what}"
