"""What is told at once, and not in the middle of the night: an agent that is not there, a limit that cannot hold."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from autoexp.errors import PreconditionError, UsageError
from autoexp.runs import budget
from autoexp.runs.records import Plan
from autoexp.runs.state import RunState
from autoexp.spec.ports import Agent, mended
from autoexp.workspace.settings import Settings

OF_AGENTS = ("max_cost", "max_tokens")
"""The limits of which only agents use something up."""


def may_propose(state: RunState) -> bool:
    """Whether the plan has iterations left that somebody is asked for an idea for."""
    plan = state.plan
    more = plan.target is None or plan.target > state.completed
    return more and "loop" in plan.stages and "propose" in plan.loop


def refuse_missing(state: RunState, agents: Mapping[str, Agent]) -> None:
    """Raise PreconditionError when an agent that is to have ideas cannot be called, and never was in this run.

    One that was there before may be gone for a while: the fallback proposer goes on without it.
    """
    plan = state.plan
    if not plan.stochastic or not may_propose(state):
        return
    for name in plan.proposers:
        if name in agents and name not in state.agents and (missing := agents[name].available()):
            command = "resume" if state.trials else "start"
            raise PreconditionError(missing, mended(agents[name], f"autoexp {command} --proposer search"))


def refuse_endless(plan: Plan, agents: Collection[str], command: str = "") -> None:
    """Raise UsageError for a plan that only dollars or tokens are to end, of which its proposers take none.

    `command` is what goes on with it; left out, the one that was typed begins it.
    """
    named = {name: limit for name in budget.LIMITS if (limit := getattr(plan.budget, name)) is not None}
    if plan.target is not None or "loop" not in plan.stages or set(named) - set(OF_AGENTS) or _asks(plan, agents):
        return
    given = " and ".join(f"--{name.replace('_', '-')} {limit:g}" for name, limit in named.items())
    who = f"{plan.proposer} asks no agent" if plan.stochastic else "--no-stochastic asks no agent"
    raise UsageError(
        f"{given or 'no limit'} would never end the run: {who}, and nothing else limits it",
        f"{command or 'autoexp start ' + given.replace(' and ', ' ')} --max-hours 8",
    )


def _asks(plan: Plan, agents: Collection[str]) -> bool:
    """Whether any of the proposers is an agent that may be asked."""
    return plan.stochastic and any(name in agents for name in plan.proposers)


def strangers(settings: Settings, parts: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """(text, key) of tables of options that are of no part there is: misspelt, or of a plugin that is not installed.

    `parts` has the names that are registered, by kind as the settings call it: agents, proposers, ...
    """
    found = []
    for kind, known in parts.items():
        for name in sorted(set(getattr(settings, kind)) - set(known)):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            said = f": did you mean [{kind}.{near[0]}]?" if near else f" (there are: {', '.join(sorted(known))})"
            found.append((f"[{kind}.{name}] has no effect, nothing is called so{said}", f"table-{kind}-{name}"))
    return found


def doubts(state: RunState, agents: Mapping[str, Agent]) -> list[tuple[str, str]]:
    """(text, key) of what is to be noted of limits in dollars or tokens that may not end the run."""
    plan, found = state.plan, []
    asked = _asks(plan, agents)
    for name in OF_AGENTS:
        if getattr(plan.budget, name) is None:
            continue
        if not asked:
            found.append((f"{name} will hardly end this run: {plan.proposer} asks no agent", f"{name}-no-agent"))
        elif (doubt := budget.doubt(state, name)).startswith(budget.CANNOT_HOLD):
            found.append((f"{name}: {doubt}", f"{name}-unknown"))
    return found
