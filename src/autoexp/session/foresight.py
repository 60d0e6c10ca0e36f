"""What is told at once, and not in the middle of the night: an agent that is not there, a limit that cannot hold."""

from __future__ import annotations

from collections.abc import Mapping

from autoexp.errors import PreconditionError
from autoexp.runs import budget
from autoexp.runs.state import RunState
from autoexp.spec.ports import Agent


def refuse_missing(state: RunState, agents: Mapping[str, Agent]) -> None:
    """Raise PreconditionError when an agent that is to have ideas cannot be called, and never was in this run.

    One that was there before may be gone for a while: the fallback proposer goes on without it.
    """
    plan = state.plan
    more = plan.target is None or plan.target > state.completed
    if not more or not plan.stochastic or "loop" not in plan.stages or "propose" not in plan.loop:
        return
    for name in plan.proposers:
        if name in agents and name not in state.agents and (missing := agents[name].available()):
            command = "resume" if state.trials else "start"
            raise PreconditionError(missing, f"install it, or: autoexp {command} --proposer search")


def doubts(state: RunState, agents: Mapping[str, Agent]) -> list[tuple[str, str]]:
    """(text, key) of what is to be noted of limits in dollars or tokens that may not end the run."""
    plan, found = state.plan, []
    asked = plan.stochastic and any(name in agents for name in plan.proposers)
    for name in ("max_cost", "max_tokens"):
        if getattr(plan.budget, name) is None:
            continue
        if not asked:
            found.append((f"{name} will hardly end this run: {plan.proposer} asks no agent", f"{name}-no-agent"))
        elif (doubt := budget.doubt(state, name)).startswith(budget.CANNOT_HOLD):
            found.append((f"{name}: {doubt}", f"{name}-unknown"))
    return found
