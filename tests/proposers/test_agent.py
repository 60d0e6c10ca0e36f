"""An agent as proposer, in whole runs: what it is sent, told back, and what is kept of its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from autoexp.brief.build import FIRST
from autoexp.errors import PreconditionError, UsageError
from autoexp.proposers.agent import AgentProposer, autoexp_register_proposers
from autoexp.runs import events as ev
from autoexp.runs.journal import read
from autoexp.runs.state import RunState
from autoexp.session import memory
from autoexp.session.briefing import next_brief
from autoexp.spec.ports import Answer, Ask
from autoexp.testing import Registering, Scripted, plugged, proposal, replayed, run
from autoexp.workspace.paths import Workspace


def answer(lr: float | None = None, **more: Any) -> dict[str, Any]:
    words = f"LR = {lr}" if lr is not None else "in words"
    edits = [{"op": "set", "name": "LR", "value": lr}] if lr is not None else []
    fields = {"status": "ok", "description": words, "change_plan": words, "commit_description": words, "edits": edits}
    return {**fields, **more}


QUESTION = answer(status="need_input", description="which GPU?")


class Fake:
    """Answers from a script, for each question by its own; the last answer is repeated."""

    def __init__(self, propose: list[Any], apply: Sequence[Any] = (), conversation: str | None = None) -> None:
        self.scripts = {FIRST: list(propose), "Apply": list(apply)}
        self.asked: list[Ask] = []
        self.missing: str | None = None
        self.conversation = conversation

    def available(self) -> str | None:
        return self.missing

    def ask(self, question: Ask) -> Answer:
        self.asked.append(question)
        script = self.scripts["Apply" if question.may_edit else FIRST]
        said = script.pop(0) if len(script) > 1 else script[0]
        if callable(said):
            said = said(question)
        return Answer(json.dumps(said), conversation=self.conversation)


def work(workspace: Workspace, agent: Fake, loops: int = 1, **plan: Any) -> RunState:
    agents = Registering(agents={"fake": agent}, proposers={"fake": AgentProposer("fake"), "spare": SPARE})
    return run(workspace, loops, "fake", plugins={"fake": agents}, **plan)


SPARE = Scripted(*[proposal(DEPTH=depth) for depth in (5, 6, 7, 8)])


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    with workspace.settings.open("a") as file:
        file.write('\n[run]\nfallback = "spare"\n\n[agent]\nname = "fake"\ntries = 3\n')
    return workspace


def events(workspace: Workspace, kind: type) -> list[Any]:
    return [event for event in read(workspace.run("test").journal) if isinstance(event, kind)]


def test_it_is_sent_what_the_brief_shows_in_the_worktree_and_edits_nothing(workspace: Workspace) -> None:
    agent = Fake([answer(0.04)])
    run(workspace, 0, Scripted(), plugins={"spare": Registering(proposers={"spare": SPARE})})
    shown = next_brief(workspace, workspace.run("test"))
    state = work(workspace, agent)
    (question,) = agent.asked
    assert question.prompt == shown.text
    assert question.brief == shown.data and json.loads(json.dumps(shown.data)) == shown.data
    assert question.prompt.splitlines()[0] == FIRST
    assert question.cwd == workspace.run("test").worktree(0)
    assert question.transcript == workspace.run("test").iteration(1) / "propose"
    assert not question.may_edit
    assert [trial.decision for trial in state.trials] == ["keep", "keep"]


def test_a_program_that_was_trained_is_told_back_and_another_asked_for(workspace: Workspace) -> None:
    agent = Fake([answer(0.04), answer(0.04), answer(0.08), answer(0.03)])
    state = work(workspace, agent, 2)
    assert [(trial.constants["LR"], trial.decision) for trial in state.trials] == [
        (0.08, "keep"), (0.04, "keep"), (0.03, "keep"),
    ]  # fmt: skip
    problems = [event.problem for event in events(workspace, ev.AgentCalled)]
    assert problems[0] == problems[3] == ""
    assert "changes nothing" in problems[1] or "iteration 1" in problems[1]
    assert "the same program as iteration 0" in problems[2]
    assert problems[2] in agent.asked[3].prompt


def test_one_that_insists_is_recorded_and_not_trained(workspace: Workspace) -> None:
    agent = Fake([answer(0.04), answer(0.08)])
    state = work(workspace, agent, 2)
    assert [trial.decision for trial in state.trials] == ["keep", "keep", "crash"]
    assert state.trials[2].status == "untrained" and "the same program as iteration 0" in state.trials[2].reason
    assert len(agent.asked) == 4


def test_edits_that_cannot_be_made_are_told_back(workspace: Workspace) -> None:
    bad = answer(edits=[{"op": "set", "name": "NO_SUCH", "value": 1}])
    frozen = answer(edits=[{"op": "replace", "path": "evaluate.py", "old": "import math", "new": ""}])
    agent = Fake([bad, frozen, answer(0.04)])
    state = work(workspace, agent)
    assert state.trials[1].decision == "keep"
    problems = [event.problem for event in events(workspace, ev.AgentCalled)]
    assert "no editable file has a constant NO_SUCH" in problems[0] and "evaluate.py is not editable" in problems[1]


def test_words_that_come_to_a_trained_program_are_proposed_anew_in_the_same_iteration(workspace: Workspace) -> None:
    def edit(value: str) -> Any:
        def made(question: Ask) -> dict[str, str]:
            file = question.cwd / "train.py"
            file.write_text(file.read_text().replace("LR = 0.08", f"LR = {value}"))
            return {"status": "applied", "summary": f"LR = {value}"}

        return made

    first, second, third = answer(description="four"), answer(description="four again"), answer(description="three")
    agent = Fake([first, second, third], [edit("0.4"), edit("0.4"), edit("0.03")])
    state = work(workspace, agent, 2)
    assert [trial.description for trial in state.trials] == ["baseline", "four", "three"]
    assert [trial.status for trial in state.trials] == ["success"] * 3
    repeated = [event for event in events(workspace, ev.Applied) if event.status == "repeated"]
    assert [(event.iteration, event.again) for event in repeated] == [(2, True)]
    asked = [question.prompt for question in agent.asked if not question.may_edit]
    assert len(asked) == 3 and "four again: the same program as iteration 1, which came to" in asked[2]


def test_it_is_asked_so_often_and_then_it_ends_as_repeated(workspace: Workspace) -> None:
    def nothing_new(question: Ask) -> dict[str, str]:
        file = question.cwd / "train.py"
        file.write_text(file.read_text().replace("LR = 0.08", "LR = 0.4"))
        return {"status": "applied", "summary": "LR"}

    agent = Fake([answer()], [nothing_new], conversation="c1")
    state = work(workspace, agent, 2)
    assert [trial.decision for trial in state.trials] == ["keep", "discard", "crash"]
    repeated = [event.again for event in events(workspace, ev.Applied) if event.status == "repeated"]
    assert repeated == [True, True, False]
    again = [question for question in agent.asked if not question.may_edit and "You have the brief" in question.prompt]
    assert len(again) == 2 and all(question.conversation == "c1" for question in again)
    assert all("train.py" not in question.prompt for question in again), "what it has had is not sent again"


def test_an_agent_that_edits_while_it_proposes_is_asked_once(workspace: Workspace) -> None:
    text = workspace.settings.read_text()
    workspace.settings.write_text(text.replace("tries = 3", "tries = 3\nedits_at_once = true"))

    def edits(value: str, file: str = "train.py", old: str = "LR = 0.08") -> Any:
        def made(question: Ask) -> dict[str, Any]:
            assert question.may_edit and "Make the change now" in question.prompt
            path = question.cwd / file
            path.write_text(path.read_text().replace(old, value))
            return answer(description=value)

        return made

    cheat = edits("return 0.0 *", "evaluate.py", "return 1.0 +")
    lower = edits("LR = 0.02", old="LR = 0.04")
    both = lambda question: (cheat(question), lower(question))[1]  # noqa: E731
    back = edits("LR = 0.08", old="LR = 0.02")
    anew = edits("LR = 0.03", old="LR = 0.08")
    agent = Fake([edits("LR = 0.04")], [edits("LR = 0.04"), both, back, anew])
    state = work(workspace, agent, 3)
    assert [(trial.decision, trial.proposer) for trial in state.trials[1:3]] == [("keep", "fake")] * 2
    assert [trial.constants["LR"] for trial in state.trials] == [0.08, 0.04, 0.02, 0.03]
    assert [note.text for note in state.notes] == ["undone, since not editable: evaluate.py"]
    problems = [event.problem for event in events(workspace, ev.AgentCalled)]
    assert problems[0] == problems[1] == problems[3] == ""
    assert "the same program as iteration 0" in problems[2]
    assert {event.stage for event in events(workspace, ev.AgentCalled)} == {"propose"}


def test_a_question_is_kept_and_another_idea_asked_for(workspace: Workspace) -> None:
    agent = Fake([QUESTION, answer(0.04)])
    state = work(workspace, agent)
    assert state.trials[1].proposer == "fake" and state.trials[1].decision == "keep"
    assert [(q.number, q.by, q.text) for q in state.unanswered] == [(1, "fake", "which GPU?")]
    assert "the question is with the person now" in agent.asked[1].prompt


def test_a_question_that_was_answered_is_not_opened_again(workspace: Workspace) -> None:
    agent = Fake([QUESTION, answer(0.04), QUESTION, answer(0.03)])
    work(workspace, agent)
    memory.answer(workspace.run("test"), 1, "the big one")
    state = work(workspace, agent)
    assert [question.answer for question in state.questions] == ["the big one"]
    assert "the person has answered that already: the big one" in agent.asked[3].prompt
    assert "steering: question 1 is answered: the big one" in workspace.run("test").log.read_text()


def test_when_it_only_asks_the_fallback_has_the_next_idea(workspace: Workspace) -> None:
    agent = Fake([QUESTION])
    state = work(workspace, agent, 2)
    assert [trial.proposer for trial in state.trials[1:]] == ["spare", "spare"]
    assert len(state.questions) == 1 and len(agent.asked) == 6
    assert "do not ask it again: which GPU?" in agent.asked[3].prompt


def test_the_brief_is_for_whose_turn_it_is(workspace: Workspace) -> None:
    """One of a mix edits while it proposes, the other cannot: they are asked in other words."""
    text = workspace.settings.read_text()
    workspace.settings.write_text(text.replace("tries = 3", "tries = 3\nedits_at_once = true").replace("fake", "hands"))
    hands, mouth = (Fake([answer(lr) for lr in values]) for values in ([0.04, 0.03, 0.02], [0.05, 0.06, 0.07]))
    hands.scripts["Apply"] = hands.scripts[FIRST]
    mouth.edits_files = False  # type: ignore[attr-defined]
    proposers = {name: AgentProposer(name) for name in ("hands", "mouth")} | {"spare": SPARE}
    parts = {"fake": Registering(agents={"hands": hands, "mouth": mouth}, proposers=proposers)}  # type: ignore[dict-item]
    run(workspace, 0, "hands=0.5,mouth=0.5", plugins=parts)
    asked: list[str] = []
    for _ in range(5):
        with plugged(parts):
            shown = next_brief(workspace, workspace.run("test"))
        before = len(hands.asked), len(mouth.asked)
        run(workspace, 1, "hands=0.5,mouth=0.5", plugins=parts)
        new = [*hands.asked[before[0] :], *mouth.asked[before[1] :]]
        assert new[0].prompt == shown.text
        asked.append("hands" if len(hands.asked) > before[0] else "mouth")
    assert set(asked) == {"hands", "mouth"}


def test_ideas_and_lessons_are_kept_once_and_taken_up(workspace: Workspace) -> None:
    first = answer(0.04, ideas=["Wider", " wider. ", 7, "", "deeper\n\nand slower"], lesson="LR matters")
    agent = Fake([first, answer(0.03, idea=1, lesson="lr  matters"), answer(0.02, ideas="alone", idea=99, lesson=None)])
    state = work(workspace, agent, 3)
    assert [(idea.text, idea.tried) for idea in state.ideas] == [
        ("Wider", 2), ("deeper and slower", None), ("alone", None),
    ]  # fmt: skip
    assert [lesson.text for lesson in state.lessons] == ["LR matters"]
    assert "- LR matters (trial 1)" in agent.asked[1].prompt
    assert [idea.number for idea in state.backlog] == [2, 3]


def test_ideas_are_offered_when_the_trials_get_stuck(workspace: Workspace) -> None:
    worse = [answer(lr, ideas=["label smoothing"]) for lr in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    agent = Fake(worse)
    work(workspace, agent, 6)
    assert "label smoothing" not in agent.asked[4].prompt
    assert "1 are kept for when the trials get stuck" in agent.asked[4].prompt
    assert "None of the last 5 trials was kept" in agent.asked[5].prompt
    assert "1. label smoothing" in agent.asked[5].prompt


@pytest.mark.parametrize("wanted", [True, False])
def test_lessons_outlive_the_run_when_asked(workspace: Workspace, wanted: bool) -> None:
    text = workspace.settings.read_text()
    workspace.settings.write_text(text.replace("tries = 3", f"tries = 3\nlessons = {str(wanted).lower()}"))
    work(workspace, Fake([answer(0.04, lesson="LR matters")]))
    agent = Fake([answer(0.03)])
    parts = Registering(agents={"fake": agent}, proposers={"fake": AgentProposer("fake"), "spare": SPARE})
    run(workspace, 1, "fake", run_id="later", plugins={"fake": parts})
    assert workspace.lessons.exists() == wanted
    assert ("LR matters (run test, iteration 1)" in agent.asked[0].prompt) == wanted


def test_an_agent_that_is_not_there(workspace: Workspace) -> None:
    agent = Fake([answer(0.04)])
    agent.missing = "fake is not on PATH"
    with pytest.raises(PreconditionError, match="fake is not on PATH") as caught:
        work(workspace, agent)
    assert caught.value.hint == "install it, or: autoexp start --proposer search"
    with pytest.raises(UsageError):
        parts = Registering(proposers={"odd": AgentProposer("nobody")})
        run(workspace, 1, "odd", run_id="odd", plugins={"odd": parts})
    assert replayed(workspace.run("test")).completed == 0


def test_registration() -> None:
    found: dict[str, Any] = {}
    autoexp_register_proposers(register=found.__setitem__, options={})
    assert {name: proposer.name for name, proposer in found.items()} == {
        name: name for name in ("opencode", "claude", "codex", "openai", "command")
    }
