"""Nights in which an agent does not answer: the run goes on, status says so, and nothing of a person's is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoexp.errors import AgentError, AutoexpError, PreconditionError, ProposalError
from autoexp.proposers.agent import AgentProposer
from autoexp.runs import events as ev
from autoexp.runs.journal import read
from autoexp.runs.records import Proposal
from autoexp.runs.resting import FAILURES
from autoexp.runs.state import RunState
from autoexp.session.accounts import unreachable
from autoexp.session.status import status
from autoexp.spec import asking
from autoexp.spec.ports import Answer, Ask, Usage
from autoexp.testing import Registering, Scripted, proposal, replayed, run
from autoexp.workspace import inbox
from autoexp.workspace.paths import Workspace

BUSY = Answer("", problem="429 Too Many Requests", busy=True)
USAGE = Usage(input_tokens=100, output_tokens=10, cost_usd=0.25)
WORDS = Proposal(status="ok", description="a rate of .03", change_plan="LR = 0.03", commit_description="LR")


def idea(iteration: int) -> Answer:
    fields = proposal(LR=0.08 - iteration / 1000).model_dump(mode="json")
    return Answer(json.dumps(fields), usage=USAGE)


def edit(question: Ask) -> Answer:
    """Do what the proposal in words wants."""
    train = question.cwd / "train.py"
    train.write_text(train.read_text().replace("LR = 0.08", "LR = 0.03"))
    return Answer('{"status": "applied", "summary": "done"}', usage=USAGE)


class Oracle:
    """An agent that answers as `says` has it, given the question and how often it was asked before."""

    def __init__(self, says: Callable[[Ask, int], Answer | AutoexpError]) -> None:
        self.says, self.asked = says, 0
        self.missing: str | None = None

    def available(self) -> str | None:
        return self.missing

    def ask(self, question: Ask) -> Answer:
        self.asked += 1
        said = self.says(question, self.asked)
        if isinstance(said, AutoexpError):
            raise said
        return said


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BACK_OFF_SECONDS", 0.01)
    monkeypatch.setattr(asking, "BETWEEN_TRIES_SECONDS", 0.0)


@pytest.fixture
def patient(workspace: Workspace) -> Workspace:
    with workspace.settings.open("a") as file:
        file.write('\n[agent]\nname = "oracle"\npatience_seconds = 0.4\n[run]\nfallback = "second"\n')
    return workspace


SECOND = Scripted(*[proposal(DEPTH=d) for d in (5, 7, 8, 9, 10, 11, 12, 3, 2, 1)])


def night(workspace: Workspace, loops: int | None, oracle: Oracle, proposer: str = "oracle", **more: Any) -> RunState:
    known = {"oracle": AgentProposer("oracle"), "second": SECOND, **more.pop("proposers", {})}
    parts = Registering(agents={"oracle": oracle}, proposers=known)
    return run(workspace, loops, proposer, plugins={"night": parts}, **more)


def calls(workspace: Workspace) -> list[ev.AgentCalled]:
    return [event for event in read(workspace.run("test").journal) if isinstance(event, ev.AgentCalled)]


def who(state: RunState) -> list[str]:
    return [trial.proposer for trial in state.trials[1:]]


# -- proposing ----------------------------------------------------------------------------------------------------


def test_an_outage_is_waited_for_once_and_then_probed_until_it_is_over(patient: Workspace) -> None:
    """Down in iterations 2 to 4: the second waits, the third and the fourth ask once, the fifth has it back."""

    def says(question: Ask, asked: int) -> Answer:
        number = len(replayed(patient.run("test")).trials)
        return BUSY if 2 <= number <= 4 else idea(number)

    state = night(patient, 6, Oracle(says))
    assert who(state) == ["oracle", "second", "second", "second", "oracle", "oracle"]
    asked = [sum(call.iteration == number for call in calls(patient)) for number in range(1, 7)]
    assert asked[1] > 1 and asked[:1] + asked[2:] == [1, 1, 1, 1, 1]
    report = status(patient.run("test"))
    assert report.unreachable == []
    assert (report.spent.calls, report.spent.cost_usd, report.spent.unpriced) == (sum(asked), 0.75, asked[1] + 2)
    assert report.spent.agents["oracle"].input_tokens == 300
    notes = [note.text for note in state.notes if "oracle" in note.text]
    assert len(notes) == 2, "one when it went down, one that it still is"


def test_status_says_who_is_down_since_when_and_who_goes_on(patient: Workspace) -> None:
    state = night(patient, 2, Oracle(lambda question, asked: idea(1) if asked == 1 else BUSY))
    (down,) = unreachable(state, "second")
    assert down.words.startswith("oracle is not reachable since ")
    assert down.words.endswith(" (429 Too Many Requests): second has the ideas meanwhile")
    (down,) = status(patient.run("test")).unreachable  # of a run that has ended, nobody has ideas meanwhile
    assert (down.agent, down.outage, down.problem) == ("oracle", True, "429 Too Many Requests")
    assert down.words.startswith("oracle was not reachable since ")
    assert down.words.endswith(" (429 Too Many Requests)")
    assert down.since == calls(patient)[1].at


def test_a_killed_session_knows_that_the_agent_is_down(patient: Workspace) -> None:
    night(patient, 1, Oracle(lambda question, asked: BUSY))
    before = len(calls(patient))
    night(patient, 1, Oracle(lambda question, asked: BUSY))
    assert len(calls(patient)) == before + 1


def test_an_agent_that_fails_is_asked_more_and_more_rarely(patient: Workspace) -> None:
    oracle = Oracle(lambda question, asked: AgentError("exit code 1: no such model"))
    state = night(patient, 9, oracle)
    assert who(state) == ["second"] * 9
    asked = [sum(call.iteration == number for call in calls(patient)) for number in range(1, 10)]
    assert asked == [2, 2, 1, 0, 1, 0, 0, 0, 1], f"{FAILURES} failures, then rests of 1, 2 and 4"
    (down,) = status(patient.run("test")).unreachable
    assert not down.outage
    assert "oracle gave no usable answer since" in down.words and "no such model" in down.words


def test_when_nobody_else_has_an_idea_the_agent_is_waited_for_after_all(patient: Workspace) -> None:
    def says(question: Ask, asked: int) -> Answer:
        number = len(replayed(patient.run("test")).trials)
        return idea(number) if number == 1 or (number == 3 and asked > before["asked"] + 3) else BUSY

    before = {"asked": 10**9}
    empty = {"second": Scripted(SECOND.proposals[0], SECOND.proposals[1])}
    oracle = Oracle(says)
    night(patient, 2, oracle, proposers=empty)
    before["asked"] = oracle.asked
    state = night(patient, 1, oracle, proposers=empty)
    assert who(state) == ["oracle", "second", "oracle"]
    with pytest.raises(AgentError, match=r"oracle could not be reached for 0\.4 s: 429"):
        night(patient, 1, Oracle(lambda question, asked: BUSY), proposers=empty)
    assert status(patient.run("test")).stop_reason == "error"


def test_when_nobody_else_has_an_idea_a_bad_answer_is_not_the_end(patient: Workspace) -> None:
    oracle = Oracle(lambda question, asked: Answer("I would not know.") if asked in (2, 3) else idea(asked))
    state = night(patient, 3, oracle, proposers={"second": Scripted()})
    assert who(state) == ["oracle"] * 3
    assert [call.iteration for call in calls(patient) if call.problem] == [2, 2]
    dumb = Oracle(lambda question, asked: Answer("I would not know."))
    with pytest.raises(AgentError, match="no usable answer in 2 calls"):
        night(patient, 1, dumb, proposers={"second": Scripted()})
    assert dumb.asked == FAILURES, "then it is out of order"


def asking_back(text: str) -> Answer:
    fields = {**proposal(LR=0.01).model_dump(mode="json"), "status": "need_input", "description": text, "edits": []}
    return Answer(json.dumps(fields), usage=USAGE)


def test_a_question_of_one_that_was_down_is_kept_and_ends_the_outage(patient: Workspace) -> None:
    """In iteration 2 it is asked once, and asks back: the next idea is the fallback's, and it is not down any more."""

    def says(question: Ask, asked: int) -> Answer:
        number = len(replayed(patient.run("test")).trials)
        return {1: BUSY, 2: asking_back("which GPU?")}.get(number) or idea(number)

    state = night(patient, 3, Oracle(says))
    assert who(state) == ["second", "second", "oracle"]
    assert [(each.by, each.text) for each in state.unanswered] == [("oracle", "which GPU?")]
    assert [call.problem for call in calls(patient) if call.iteration == 2] == [""]


def test_who_only_asks_does_not_keep_a_fallback_that_is_down_from_being_waited_for(patient: Workspace) -> None:
    text = patient.settings.read_text()
    patient.settings.write_text(text.replace('fallback = "second"', 'fallback = "spare"'))
    spare = Oracle(lambda question, asked: BUSY)
    parts = Registering(
        agents={"oracle": Oracle(lambda question, asked: asking_back("which GPU?")), "spare": spare},
        proposers={"oracle": AgentProposer("oracle"), "spare": AgentProposer("spare")},
    )
    with pytest.raises(ProposalError, match=r"which GPU\? \(and nobody else has an idea\)"):
        run(patient, 1, "oracle", plugins={"night": parts})
    tried = spare.asked
    spare.says = lambda question, asked: idea(1) if asked > tried + 1 else BUSY
    state = run(patient, 1, "oracle", plugins={"night": parts})
    assert who(state) == ["spare"]
    assert [(each.by, each.text) for each in state.unanswered] == [("oracle", "which GPU?")]


def test_nothing_to_propose_has_a_word_of_its_own(patient: Workspace) -> None:
    with pytest.raises(PreconditionError, match="nothing to propose"):
        night(patient, 5, Oracle(lambda question, asked: BUSY), "second", proposers={"second": Scripted()})
    report = status(patient.run("test"))
    assert report.stop_reason == "nothing_to_propose"
    assert report.ended is not None and report.ended.startswith("nothing_to_propose: nothing to propose that was not")


# -- agents that are not there ------------------------------------------------------------------------------------


def test_an_agent_that_was_never_there_is_missed_before_anything_is_trained(patient: Workspace) -> None:
    oracle = Oracle(lambda question, asked: idea(1))
    oracle.missing = "oracle is not on PATH"
    with pytest.raises(PreconditionError, match="oracle is not on PATH") as caught:
        night(patient, 1, oracle)
    assert caught.value.exit_code == 3
    assert caught.value.hint == "install it, or: autoexp start --proposer search"
    assert replayed(patient.run("test")).trials == ()
    assert night(patient, 0, oracle).completed == 0, "a baseline needs no agent"
    assert who(night(patient, 1, oracle, stochastic=False)) == ["second"]


def test_a_person_with_an_idea_needs_no_proposer(patient: Workspace) -> None:
    oracle = Oracle(lambda question, asked: idea(1))
    night(patient, 0, oracle)
    inbox.add(patient.run("test"), proposal(LR=0.03))
    oracle.missing = "oracle is not on PATH"
    assert who(night(patient, 1, oracle)) == ["queue"]


def test_an_agent_that_goes_away_in_the_night_does_not_end_it(patient: Workspace) -> None:
    oracle = Oracle(lambda question, asked: idea(1))

    def says(question: Ask, asked: int) -> Answer:
        oracle.missing = "oracle is not on PATH"
        return idea(1)

    oracle.says = says
    state = night(patient, 3, oracle)
    assert who(state) == ["oracle", "second", "second"]
    assert any(note.text == "the proposer oracle failed: oracle is not on PATH" for note in state.notes)
    assert who(night(patient, 1, oracle))[-1] == "second", "also after a resume"


# -- applying and triage ------------------------------------------------------------------------------------------


def test_a_proposal_in_words_goes_back_to_the_queue_in_an_outage_and_is_tried_again(patient: Workspace) -> None:
    paths = patient.run("test")
    night(patient, 0, Oracle(lambda question, asked: BUSY), "second")
    inbox.add(paths, WORDS)
    down = Oracle(lambda question, asked: BUSY)
    state = night(patient, 3, down, "second")
    assert who(state) == ["queue", "second", "second"], "it does not hold up the others"
    assert state.trials[1].status == "untrained"
    assert "oracle could not be reached for 0.4 s: 429" in state.trials[1].reason
    assert "the proposal waits in the queue again" in state.trials[1].reason
    assert [item.proposal for item in inbox.queued(paths)] == [WORDS]
    assert status(paths).unreachable[0].words.endswith("): proposals in words wait for it")

    state = night(patient, 1, Oracle(lambda question, asked: edit(question)), "second")
    assert (who(state)[-1], state.trials[-1].status, inbox.queued(paths)) == ("queue", "success", [])
    assert state.trials[-1].constants["LR"] == 0.03


def test_within_a_session_it_is_tried_again_after_a_few_iterations(patient: Workspace) -> None:
    paths = patient.run("test")
    night(patient, 0, Oracle(lambda question, asked: BUSY), "second")
    inbox.add(paths, WORDS)
    state = night(patient, 9, Oracle(lambda question, asked: BUSY), "second")
    assert who(state) == ["queue", *["second"] * 3, "queue", *["second"] * 3, "queue"]
    asked = [sum(call.iteration == number for call in calls(patient)) for number in (1, 5, 9)]
    assert asked[0] > 1 and asked[1:] == [1, 1]
    assert len(inbox.queued(paths)) == 1


def test_giving_back_survives_a_crash_before_it_is_told(tmp_path: Path, workspace: Workspace) -> None:
    run(workspace, 0)
    paths = workspace.run("test")
    inbox.add(paths, WORDS, inbox.FILE)
    notes: list[str] = []
    claimed = inbox.claim(paths, 7, lambda text, key: notes.append(text), "")
    assert claimed == (WORDS, "proposal_file")
    assert inbox.give_back(paths, 7)
    inbox.add(paths, WORDS.model_copy(update={"description": "another"}), inbox.FILE)
    assert [item.source for item in inbox.queued(paths)] == ["proposal_file"] * 2
    inbox.take_again(paths, 7)
    assert len(inbox.queued(paths)) == 1 and paths.consumed(7).exists()
    assert inbox.give_back(paths, 7)
    assert inbox.claim(paths, 8, lambda text, key: notes.append(text), "") == (WORDS, "proposal_file")
    assert not inbox.give_back(paths, 7), "there is nothing any more"
    assert notes == []


def test_an_answer_that_cannot_be_used_is_no_outage_and_ends_the_trial(patient: Workspace) -> None:
    paths = patient.run("test")
    night(patient, 0, Oracle(lambda question, asked: BUSY), "second")
    inbox.add(paths, WORDS)
    state = night(patient, 1, Oracle(lambda question, asked: Answer("I will not.")), "second")
    assert state.trials[1].status == "untrained" and "no usable answer in 2 calls" in state.trials[1].reason
    assert inbox.queued(paths) == []


def test_triage_gives_up_with_the_outage_as_its_reason(patient: Workspace) -> None:
    def says(question: Ask, asked: int) -> Answer:
        if question.prompt.startswith("Propose"):
            fields = proposal(LR=-1.0).model_dump(mode="json")  # no logarithm: a crash
            return Answer(json.dumps(fields))
        return BUSY

    state = night(patient, 1, Oracle(says))
    assert state.trials[1].decision == "crash"
    (told,) = [e for e in read(patient.run("test").journal) if isinstance(e, ev.Triaged) and e.iteration == 1]
    assert told.action == "give_up"
    assert "and triage: oracle could not be reached for 0.4 s: 429" in told.reason


# -- dollars ------------------------------------------------------------------------------------------------------


def test_dollars_end_a_night(patient: Workspace) -> None:
    state = night(patient, None, Oracle(lambda question, asked: idea(asked)), budget={"max_cost": 0.6})
    assert (state.completed, state.spent.cost_usd) == (3, 0.75)
    report = status(patient.run("test"))
    assert (report.stop_reason, report.ended) == ("max_cost", "max_cost: $0.75 of $0.60")
    state = night(patient, None, Oracle(lambda question, asked: idea(10 + asked)), budget={"max_cost": 0.25})
    assert state.completed == 4


def test_a_cost_that_nobody_tells_is_said_to_be_unknown(patient: Workspace) -> None:
    def says(question: Ask, asked: int) -> Answer:
        return Answer(idea(asked).text, usage=Usage(input_tokens=100, output_tokens=10))

    state = night(patient, None, Oracle(says), budget={"max_cost": 0.01, "max_tokens": 330})
    assert (state.completed, status(patient.run("test")).stop_reason) == (3, "max_tokens")
    report = status(patient.run("test"))
    assert {limit.name: limit.doubt for limit in report.limits} == {
        "max_cost": "it cannot hold: none of 3 calls told what it cost",
        "max_tokens": "",
    }
    assert [note for note in report.notes if note.startswith("max_cost: it cannot hold: none of 1 call told")]


def test_a_limit_in_dollars_without_an_agent_is_doubted_at_the_start(patient: Workspace) -> None:
    state = night(patient, 1, Oracle(lambda question, asked: BUSY), "second", budget={"max_cost": 5})
    assert [note.text for note in state.notes] == ["max_cost will hardly end this run: second asks no agent"]
