"""What a run has spent, how much of its budget is left, and which of its agents do not answer: for status and watch."""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict

from autoexp.runs import budget
from autoexp.runs.records import Plan, Spent
from autoexp.runs.resting import down
from autoexp.runs.state import RunState

NOBODY = ("", "baseline", "probe", "nobody", "proposal_file", "next_proposal", "queue")
"""Sources of proposals that are no proposers."""
NO_ANSWER, NO_ANSWER_THEN = "gives no usable answer", "gave no usable answer"


class Limit(BaseModel):
    """A limit of the budget."""

    model_config = ConfigDict(extra="forbid")
    name: str
    """max_hours, max_trials, max_cost, max_tokens, until or plateau."""
    limit: float
    """Of the whole run."""
    used: float | None
    """So far, over all sessions; of `until` the best metric, null when there is none yet."""
    doubt: str
    """Why it may let more pass, or cannot hold at all: calls of unknown cost; '' when it holds."""


class Spending(Spent):
    """What the agents took, as they report it."""

    agents: dict[str, Spent] = {}
    """The same for each of them."""


class Down(BaseModel):
    """An agent that does not answer."""

    model_config = ConfigDict(extra="forbid")
    agent: str
    """Its name."""
    since: float
    """Seconds since the epoch: the first of its failed calls in a row."""
    outage: bool
    """A rate limit or an outage; else its calls fail in another way, and it is asked more and more rarely."""
    problem: str
    """What was wrong with the last call."""
    words: str
    """All that in a sentence, with who has the ideas meanwhile."""


class Asked(BaseModel):
    """A call of an agent that is under way."""

    model_config = ConfigDict(extra="forbid")
    agent: str
    """Its name."""
    iteration: int
    """What it is asked about."""
    stage: str
    """What for: propose, apply or triage."""
    since: float
    """Seconds since the epoch: when it was asked."""
    number: int
    """Which try it is, counted from 1."""
    tries: int
    """How many there are at most."""
    ends: float
    """Seconds since the epoch: when the call is ended, whatever became of it."""
    words: str
    """All that in a sentence."""


def asked(state: RunState, now: float) -> list[Asked]:
    """The calls under way; `now` is in seconds since the epoch."""
    for_what = {"propose": "for an idea", "apply": "to make the edits", "triage": "about the failure"}
    found = []
    for number, event in sorted(state.asking.items()):
        words = (
            f"{event.agent}, {for_what[event.stage]} (iteration {number}): {_minutes(now - event.at)} ago, "
            f"try {event.number} of {event.tries}, ends at {_minutes(event.timeout_seconds)} at the latest"
        )
        known = event.model_dump(include={"agent", "iteration", "stage", "number", "tries"})
        found.append(Asked(**known, since=event.at, ends=event.at + event.timeout_seconds, words=words))
    return found


def _minutes(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def limits(state: RunState, now: float | None = None) -> list[Limit]:
    """The limits of the run. `now` counts a live session up to the present, not only up to its last event."""
    used: dict[str, float | None] = dict(budget.used(state))
    if now is not None and state.session is not None and state.closed is None:
        used["max_hours"] = (state.earlier_seconds + max(0.0, now - state.session.at)) / 3600.0
    used["until"] = state.best.metric if state.best is not None else None
    found = []
    for name in budget.LIMITS:
        limit = getattr(state.plan.budget, name)
        if limit is not None:
            found.append(Limit(name=name, limit=limit, used=used[name], doubt=budget.doubt(state, name)))
    return found


def seconds_left(state: RunState, found: list[Limit], typical: float | None, missing: float) -> float | None:
    """Until the run ends as planned, as far as that can be told: `missing` is the number of iterations to its target.

    `typical` is how long an iteration takes, in seconds.
    """
    plan = state.plan
    ends: list[float] = []
    if typical is not None and plan.target is not None:
        ends.append(missing * typical / plan.workers)
    for limit in found:
        left = limit.limit - (limit.used or 0)
        if limit.name == "max_hours":
            ends.append(max(0.0, left * 3600.0))
        if limit.name == "max_trials" and typical is not None:
            ends.append(max(0.0, left * typical / plan.workers))
    return min(ends) if ends else None


def spending(state: RunState) -> Spending:
    return Spending(**state.spent.model_dump(), agents={name: agent.spent for name, agent in state.agents.items()})


def unreachable(state: RunState, latest: str, alive: bool = True) -> list[Down]:
    """The agents that are down, or were when the run ended. `latest` proposed last."""
    found = []
    for name, agent in state.agents.items():
        if not down(agent) or agent.since is None:
            continue
        now, then = ("is not reachable", "was not reachable") if agent.busy else (NO_ANSWER, NO_ANSWER_THEN)
        words = f"{name} {now if alive else then} since {_clock(agent.since)} ({agent.problem})"
        if name in state.plan.proposers and state.plan.stochastic:
            who = latest if latest not in (*NOBODY, name) else "the fallback proposer"
            words += f": {who} has the ideas meanwhile" if alive else ""
        else:
            words += ": proposals in words wait for it"
        found.append(Down(agent=name, since=agent.since, outage=agent.busy, problem=agent.problem, words=words))
    return found


def _clock(at: float) -> str:
    then, today = time.localtime(at), time.localtime()
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def more(reason: str, plan: Plan) -> str:
    """The options with which a resume goes on after this reason; '' when it needs none."""
    words = {
        "done": " --loops 5",
        "max_hours": " --max-hours 2",
        "max_trials": " --max-trials 10",
        "max_cost": " --max-cost 1",
        "max_tokens": " --max-tokens 1000000",
        "until": " --until none" + (" --loops 5" if plan.target is None else ""),
    }
    return words.get(reason, "")
