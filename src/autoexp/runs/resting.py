"""Agents that do not answer: when one is asked with patience, when once, and when not at all. Pure.

A rate limit or an outage is waited for once; while it lasts each iteration asks once more, without waiting. An agent
that fails otherwise FAILURES calls in a row is not waited for either, and since each of its failures may take a whole
timeout, it is asked more and more rarely. The first good call ends both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoexp.runs.records import AgentRecord

if TYPE_CHECKING:
    from autoexp.runs.events import AgentCalled

FAILURES = 4
"""Calls in a row without a usable answer, outages not counted, after which an agent is taken to be out of order."""
LONGEST_REST = 64
"""Iterations that it is left alone at most; the first rests are 1, 2, 4, ... iterations long."""

OUTAGE_REST = 4
"""Iterations until a person's proposal in words is tried again that an outage kept from being applied."""


def manner(agent: AgentRecord | None, iteration: int) -> Literal["patiently", "once", "not"]:
    """How an agent is to be asked about an iteration; None is one that was never called."""
    if agent is None or not down(agent):
        return "patiently"
    return "not" if not agent.busy and iteration < agent.rests_until else "once"


def down(agent: AgentRecord) -> bool:
    """Whether its last call ended in an outage, or too many did in a failure."""
    return agent.busy or agent.failures >= FAILURES


def judged(agent: AgentRecord, event: AgentCalled) -> AgentRecord:
    """The agent after a call."""
    if event.stopped:
        return agent
    if not event.problem:
        return AgentRecord(spent=agent.spent)
    failures = agent.failures + (not event.busy)
    rest = OUTAGE_REST if event.busy else 0
    if not event.busy and failures >= FAILURES:
        rest = int(min(2 ** min(failures - FAILURES, 30), LONGEST_REST))
    return AgentRecord(
        spent=agent.spent,
        since=agent.since if agent.since is not None else event.at,
        problem=event.problem,
        busy=event.busy,
        failures=failures,
        rests_until=event.iteration + rest if rest else 0,
    )


def rested(agent: AgentRecord) -> AgentRecord:
    """The agent when a session opens: a person may have mended it."""
    return agent.model_copy(update={"rests_until": 0})
