"""propose: who is asked, in which order, and what happens when nobody has an idea."""

from __future__ import annotations

from typing import Any

import pytest

from autoexp.errors import PreconditionError, ProposalError
from autoexp.runs.records import Proposal
from autoexp.testing import Registering, Scripted, proposal, replayed, run
from autoexp.workspace.paths import Workspace


def parts(**proposers: Any) -> dict[str, Any]:
    return {"parts": Registering(proposers=proposers)}


def fallback(workspace: Workspace, name: str) -> None:
    with workspace.settings.open("a") as file:
        file.write(f'\n[run]\nfallback = "{name}"\n')


class Asking:
    def __init__(self) -> None:
        self.asked = 0

    def propose(self, state: Any, context: Any) -> Proposal:
        self.asked += 1
        return proposal(description="which data set?").model_copy(update={"status": "need_input"})


def test_the_fallback_is_asked_when_the_proposer_has_nothing_more(workspace: Workspace) -> None:
    fallback(workspace, "second")
    both = parts(first=Scripted(proposal(LR=0.04)), second=Scripted(proposal(LR=0.5), proposal(LR=0.02)))
    state = run(workspace, 2, "first", plugins=both)
    assert [trial.proposer for trial in state.trials[1:]] == ["first", "second"]


def test_no_stochastic_asks_the_fallback_only(workspace: Workspace) -> None:
    fallback(workspace, "second")
    both = parts(first=Asking(), second=Scripted(proposal(LR=0.02)))
    state = run(workspace, 1, "first", plugins=both, stochastic=False)
    assert [trial.proposer for trial in state.trials[1:]] == ["second"]


def test_when_nobody_has_an_idea_the_run_stops_with_exit_3_and_can_go_on(workspace: Workspace) -> None:
    fallback(workspace, "first")
    with pytest.raises(PreconditionError, match=r"nothing to propose that was not tried \(first\)"):
        run(workspace, 2, "first", plugins=parts(first=Scripted(proposal(LR=0.04))))
    more = parts(first=Scripted(proposal(LR=0.04), proposal(LR=0.02)))
    assert run(workspace, 1, "first", plugins=more).completed == 2


def test_a_question_stops_nothing_while_somebody_has_an_idea(workspace: Workspace) -> None:
    fallback(workspace, "second")
    asking = Asking()
    ideas = Scripted(proposal(LR=0.04), proposal(LR=0.03))
    state = run(workspace, 2, "asking", plugins=parts(asking=asking, second=ideas))
    assert [trial.proposer for trial in state.trials[1:]] == ["second", "second"]
    assert [(q.by, q.text, q.answer) for q in state.questions] == [("asking", "which data set?", "")]


def test_a_question_and_no_other_idea_stops_the_run_with_the_question(workspace: Workspace) -> None:
    fallback(workspace, "asking")
    with pytest.raises(ProposalError, match=r"need_input.*which data set") as caught:
        run(workspace, 1, "asking", plugins=parts(asking=Asking()))
    assert "autoexp answer" in caught.value.hint
    state = replayed(workspace.run("test"))
    assert [question.text for question in state.unanswered] == ["which data set?"]
    assert state.completed == 0


def test_each_iteration_starts_from_the_best_so_far(workspace: Workspace) -> None:
    ideas = Scripted(proposal(LR=0.04), proposal(LR=0.5), proposal(DEPTH=5))
    trials = run(workspace, 3, ideas).trials
    assert [trial.base for trial in trials[1:]] == [trials[0].commit, trials[1].commit, trials[1].commit]
    assert trials[3].constants == {"LR": 0.04, "DEPTH": 5}
