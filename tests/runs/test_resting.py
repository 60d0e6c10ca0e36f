"""Agents that do not answer: how they are asked, iteration by iteration, by what the journal says of their calls."""

from __future__ import annotations

import itertools
from typing import Any

from autoexp.runs import events as ev
from autoexp.runs.records import AgentRecord, Metric
from autoexp.runs.resting import FAILURES, LONGEST_REST, OUTAGE_REST, down, judged, manner
from autoexp.runs.state import replay


def call(iteration: int = 1, problem: str = "", busy: bool = False, at: float = 0.0) -> ev.AgentCalled:
    fields: dict[str, Any] = {"attempt": 1, "stage": "propose", "agent": "a", "seconds": 1.0}
    return ev.AgentCalled(at=at, iteration=iteration, problem=problem, busy=busy, **fields)


def after(*calls: ev.AgentCalled) -> AgentRecord:
    agent = AgentRecord()
    for each in calls:
        agent = judged(agent, each)
    return agent


def test_an_agent_that_was_never_called_or_answers_is_asked_with_patience() -> None:
    assert manner(None, 1) == manner(after(call()), 2) == "patiently"


def test_while_an_outage_lasts_each_iteration_asks_once() -> None:
    agent = after(*[call(1, "429", busy=True, at=float(n)) for n in range(10, 30)])
    assert [manner(agent, n) for n in range(1, 9)] == ["once"] * 8
    assert (agent.since, agent.problem, agent.failures) == (10.0, "429", 0)
    assert agent.rests_until == 1 + OUTAGE_REST, "for people's proposals in words"


def test_the_first_good_call_closes_the_circuit() -> None:
    agent = after(call(1, "429", busy=True), call(2))
    assert agent == AgentRecord() and not down(agent)


def test_a_few_failures_are_bad_luck_and_more_are_a_system() -> None:
    few = after(*[call(1, "exit 1")] * (FAILURES - 1))
    assert manner(few, 2) == "patiently"
    many = after(*[call(1, "exit 1")] * FAILURES)
    assert [manner(many, n) for n in (1, 2, 3)] == ["not", "once", "once"]


def test_an_agent_that_goes_on_failing_is_asked_more_and_more_rarely() -> None:
    agent, asked = after(*[call(1, "exit 1")] * FAILURES), []
    for iteration in range(2, 400):
        if manner(agent, iteration) != "not":
            asked.append(iteration)
            agent = judged(agent, call(iteration, "exit 1"))
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert gaps[:6] == [2, 4, 8, 16, 32, 64]
    assert set(gaps[6:]) == {LONGEST_REST}
    assert len(asked) < 12


def test_garbage_in_an_outage_leaves_it_an_outage_only_while_the_last_call_was_one() -> None:
    agent = after(call(1, "429", busy=True), call(2, "garbage"))
    assert not down(agent) and agent.failures == 1
    assert agent.since == 0.0, "it has not answered since"
    assert manner(after(call(1, "exit 1"), call(1, "429", busy=True)), 2) == "once"


def test_a_new_session_asks_once_whatever_the_rest_was() -> None:
    created = ev.RunCreated(run_id="r", branch="b", base="0" * 40, seed=7, metric=Metric())
    calls = [call(1, "exit 1")] * (FAILURES + 3)
    state = replay([created, *calls])
    assert manner(state.agents["a"], 2) == "not"
    state = replay([created, *calls, ev.SessionOpened(pid=1, host="h")])
    assert manner(state.agents["a"], 2) == "once"
    assert down(state.agents["a"])
