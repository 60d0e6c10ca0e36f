"""Asking an agent until it answers: bad answers, outages, what is recorded of each call."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoexp.errors import AgentError, AutoexpError, Interrupted, PreconditionError
from autoexp.runs.events import AgentCalled
from autoexp.runs.records import AgentRecord, Proposal
from autoexp.runs.resting import judged
from autoexp.spec import asking
from autoexp.spec.answers import ApplyAnswer, TriageAnswer
from autoexp.spec.asking import Prompt, ask_for
from autoexp.spec.ports import Answer, Ask, Usage
from autoexp.workspace.paths import RunPaths
from autoexp.workspace.settings import Agent, Settings

GOOD = '{"status": "applied", "summary": "done"}'
BUSY = Answer("", problem="429 Too Many Requests", busy=True)


class Scripted:
    """An agent that says what is in the script, or raises it."""

    def __init__(self, *script: str | Answer | Exception) -> None:
        self.script = list(script)
        self.prompts: list[str] = []
        self.questions: list[Ask] = []
        self.calls: list[AgentCalled] = []

    def available(self) -> str | None:
        return None

    def ask(self, question: Ask) -> Answer:
        self.questions.append(question)
        self.prompts.append(question.prompt)
        said = self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Answer) else Answer(said)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BACK_OFF_SECONDS", 0.01)
    monkeypatch.setattr(asking, "BETWEEN_TRIES_SECONDS", 0.0)


class Surroundings(SimpleNamespace):
    """What `ask_for` needs of a context; `calls` are those that were recorded."""

    def __init__(self, agent: Scripted, tries: int, patience_seconds: float, **more: Any) -> None:
        self.calls: list[AgentCalled] = []
        settings = Settings(agent=Agent(tries=tries, patience_seconds=patience_seconds))
        fields = {
            "iteration": 3,
            "attempt": 1,
            "settings": settings,
            "agents": {"a": agent},
            "called": self.calls.append,
            "asked": lambda event: None,
        }
        paths = RunPaths(Path("/run"))
        super().__init__(**{**fields, "paths": paths, "log": lambda text: None, "stop": lambda: False, **more})


def ask(
    agent: Scripted, answer: Any = ApplyAnswer, tries: int = 3, check: Any = None, going: Any = None, **more: Any
) -> Any:
    """`going` is more of `ask_for`, `more` is of its context."""
    context: Any = Surroundings(agent, tries, **{"patience_seconds": 5.0, **more})
    place: dict[str, Any] = {"cwd": Path(), "transcript": Path(), "may_edit": False, **(going or {})}
    found = ask_for("a", "Do it.", answer, context=context, stage="apply", check=check, **place)
    agent.calls = context.calls
    return found


def test_a_good_answer_takes_one_call() -> None:
    agent = Scripted(f"Sure. {GOOD}")
    assert ask(agent) == ApplyAnswer(status="applied", summary="done")
    assert agent.prompts == ["Do it."]


def test_a_bad_answer_is_asked_for_again_with_the_reason() -> None:
    agent = Scripted("I did it!", '{"status": "maybe"}', '{"status": "applied",}', GOOD)
    logged: list[str] = []
    assert ask(agent, tries=4, log=logged.append).status == "applied"
    assert agent.prompts[0] == "Do it."
    assert all(prompt.startswith("Do it.\n\nYour previous answer could not be used: ") for prompt in agent.prompts[1:])
    assert "no valid JSON object" in agent.prompts[1]
    assert "status: Input should be 'applied' or 'failed'" in agent.prompts[2]
    assert "property name" in agent.prompts[3]
    assert len(logged) == 3


def test_in_a_conversation_only_the_complaint_is_sent() -> None:
    agent = Scripted(Answer("I did it!", conversation="c"), GOOD)
    assert ask(agent).status == "applied"
    assert agent.prompts[1].startswith("Your previous answer could not be used: ") and "Do it." not in agent.prompts[1]


def test_the_last_problem_is_in_the_error() -> None:
    agent = Scripted("no", '{"status": 5}')
    with pytest.raises(AgentError, match=r"in 2 calls; the last problem: .*status: Input should be"):
        ask(agent, tries=2)


def test_a_failing_agent_is_asked_again_the_same() -> None:
    agent = Scripted(AgentError("model overloaded"), GOOD)
    assert ask(agent).status == "applied"
    assert agent.prompts == ["Do it.", "Do it."]


@pytest.mark.parametrize("error", [PreconditionError("not installed"), Interrupted("stopped")])
def test_what_asking_again_cannot_mend_passes_at_once(error: AutoexpError) -> None:
    agent = Scripted(error, GOOD)
    with pytest.raises(type(error)):
        ask(agent)
    assert len(agent.prompts) == 1


def test_a_call_that_is_stopped_is_recorded_as_of_unknown_cost_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "apply" / "001").mkdir(parents=True)
    calls: list[AgentCalled] = []
    with pytest.raises(Interrupted):
        ask(
            Scripted(Interrupted("stopped")),
            called=calls.append,
            paths=RunPaths(tmp_path),
            going={"transcript": tmp_path / "apply"},
        )
    (call,) = calls
    assert (call.stopped, call.busy, call.cost_usd, call.transcript) == (True, False, None, "apply/001")
    before = AgentRecord(problem="429", busy=True, failures=2)
    assert judged(before, call) == before


@pytest.mark.parametrize("error", [IndexError("list index out of range"), RecursionError(), ValueError("\ud800")])
def test_an_agent_of_a_third_party_that_fails_as_it_should_not_is_asked_again(error: Exception) -> None:
    """Some servers answer with what nobody has thought of."""
    agent = Scripted(error, GOOD)
    assert ask(agent).status == "applied"
    assert type(error).__name__ in agent.calls[0].problem


def test_what_an_agent_says_it_took_is_no_reason_to_stop() -> None:
    usage: Any = Usage(input_tokens=-5, output_tokens="many", cost_usd=float("nan"))  # type: ignore[arg-type]
    odd: Any = {"conversation": 5, "retry_after_seconds": "soon", "transcript": "nowhere"}
    agent = Scripted(Answer("", problem="busy", busy=True, usage=usage, **odd), Answer(GOOD, usage=usage, **odd))
    assert ask(agent).status == "applied"
    for call in agent.calls:
        assert (call.input_tokens, call.output_tokens, call.cost_usd) == (None, None, None)
        assert (call.conversation, call.transcript) == (None, "")


def test_a_server_that_asks_to_wait_for_nothing_is_not_asked_at_once_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(asking, "BACK_OFF_SECONDS", 2.0)
    monkeypatch.setattr(asking, "_pause", lambda seconds, stop: waits.append(seconds))
    now = Answer("", problem="429", busy=True, retry_after_seconds=0.0)
    ask(Scripted(*[now] * 6, GOOD), patience_seconds=1000.0)
    assert waits[-1] > 10.0 and waits[0] >= 1.0


def test_a_server_is_given_all_the_time_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(asking, "_pause", lambda seconds, stop: waits.append(seconds))
    later = Answer("", problem="429", busy=True, retry_after_seconds=600.0)
    ask(Scripted(later, GOOD), patience_seconds=900.0)
    assert 600.0 < waits[0] < 602.0


def test_what_ends_a_run_says_what_to_type_next() -> None:
    for script in ([BUSY] * 9, ["no"] * 9):
        with pytest.raises(AgentError) as caught:
            ask(Scripted(*script), patience_seconds=0.0)
        assert "autoexp" in caught.value.hint


def test_stopping_between_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BETWEEN_TRIES_SECONDS", 600.0)
    with pytest.raises(Interrupted):
        ask(Scripted("no", GOOD), stop=lambda: True)


def test_a_check_may_refuse_with_a_reason() -> None:
    agent = Scripted('{"status": "failed"}', GOOD)
    assert ask(agent, check=lambda a: "that is no success" if a.status == "failed" else None).status == "applied"
    assert "that is no success" in agent.prompts[1]


def test_an_object_that_fits_goes_before_a_later_one_that_does_not() -> None:
    assert ask(Scripted(f'{GOOD}\nTokens used: {{"total": 5}}')).status == "applied"


PROPOSAL = {"status": "ok", "description": "d", "change_plan": "p", "commit_description": "c"}


def test_keys_that_nobody_asked_for_are_dropped() -> None:
    said = json.dumps({**PROPOSAL, "confidence": 0.9, "edits": None})
    assert ask(Scripted(said), Proposal) == Proposal(**PROPOSAL)
    said = json.dumps({"action": "fix_and_rerun", "reason": None, "more": 1})
    assert ask(Scripted(said), TriageAnswer) == TriageAnswer(action="fix_and_rerun")


def test_a_proposal_that_is_broken_around_a_whole_edit_is_told_so() -> None:
    agent = Scripted('{"status": "ok", "edits": [{"op": "set", "name": "LR", "value": 1},]}', json.dumps(PROPOSAL))
    assert ask(agent, Proposal).description == "d"
    assert "is not valid: Expecting value near" in agent.prompts[1] or "Illegal trailing comma" in agent.prompts[1]


def test_what_a_proposal_refuses_is_told() -> None:
    agent = Scripted(json.dumps({**PROPOSAL, "description": " "}), json.dumps(PROPOSAL))
    assert ask(agent, Proposal).description == "d"
    assert "description: Value error, must not be blank" in agent.prompts[1]


def test_an_outage_is_waited_for_and_is_no_try() -> None:
    agent = Scripted(BUSY, BUSY, BUSY, "bad", GOOD)
    assert ask(agent, tries=2).status == "applied"
    assert [call.busy for call in agent.calls] == [True, True, True, False, False]


def test_patience_ends() -> None:
    agent = Scripted(*[BUSY] * 1000)
    with pytest.raises(AgentError, match=r"could not be reached for 0\.05 s: 429"):
        ask(agent, patience_seconds=0.05)
    assert len(agent.prompts) < 100


def test_a_server_that_says_how_long_is_believed_within_the_patience() -> None:
    agent = Scripted(Answer("", problem="429", busy=True, retry_after_seconds=3600.0), GOOD)
    with pytest.raises(AgentError, match="could not be reached"):
        ask(agent)
    assert len(agent.prompts) == 1


def test_each_call_is_recorded_with_what_it_took_and_what_was_wrong() -> None:
    usage = Usage(input_tokens=100, output_tokens=5, cost_usd=0.25)
    said = Answer("nothing", conversation="c1", usage=usage, transcript=Path("/run/iterations/0003/apply/001"))
    agent = Scripted(said, GOOD)
    ask(agent)
    first, second = agent.calls
    assert (first.input_tokens, first.output_tokens, first.cost_usd) == (100, 5, 0.25)
    assert (first.iteration, first.stage, first.agent) == (3, "apply", "a")
    assert first.transcript == "iterations/0003/apply/001"
    assert "no valid JSON" in first.problem
    assert (second.problem, second.input_tokens, second.cost_usd) == ("", None, None)


def test_a_conversation_is_gone_on_with() -> None:
    agent = Scripted(Answer("hm", conversation="c1"), GOOD)
    ask(agent)
    assert [question.conversation for question in agent.questions] == [None, "c1"]


def test_a_prompt_that_counts_on_a_conversation_is_complete_without_it() -> None:
    """A conversation is dropped after a problem; what is then sent, and what an agent has that lost it, says all."""
    agent = Scripted(Answer("hm", conversation="c1"), Answer("", problem="too long"), "hm", GOOD)
    full = Prompt("Do this and that.", {"all": 1})
    ask(agent, tries=4, going={"conversation": "c1", "anew": full, "brief": {"some": 1}})
    assert [question.conversation for question in agent.questions] == ["c1", "c1", None, None]
    assert agent.prompts[0] == "Do it." and agent.prompts[1].startswith("Your previous answer")
    for prompt in agent.prompts[2:]:
        assert prompt.startswith("Do this and that.\n\nYour previous answer could not be used: ")
    assert [question.brief for question in agent.questions] == [{"some": 1}] * 2 + [{"all": 1}] * 2
    first, second, *rest = [question.anew for question in agent.questions]
    assert first == "Do this and that." and second.startswith("Do this and that.\n\nYour previous answer")
    assert rest == ["", ""]


def test_a_complaint_is_not_sent_alone_to_an_agent_that_lost_the_question() -> None:
    agent = Scripted(Answer("hm", conversation="c1"), Answer("", problem="broken off"), GOOD)
    ask(agent)
    assert agent.questions[2].conversation is None
    assert agent.prompts[2].startswith("Do it.\n\nYour previous answer could not be used: ")
