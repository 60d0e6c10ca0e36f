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


def test_a_proposer_that_only_asks_questions_stops_the_run_with_its_question(workspace: Workspace) -> None:
    asking = Asking()
    with pytest.raises(ProposalError, match="which data set") as caught:
        run(workspace, 1, "asking", plugins=parts(asking=asking))
    assert "program.md" in caught.value.hint
    assert asking.asked == 3
    notes = [note.text for note in replayed(workspace.run("test")).notes]
    assert len([note for note in notes if "which data set" in note]) == 1


def test_each_iteration_starts_from_the_best_so_far(workspace: Workspace) -> None:
    ideas = Scripted(proposal(LR=0.04), proposal(LR=0.5), proposal(DEPTH=5))
    trials = run(workspace, 3, ideas).trials
    assert [trial.base for trial in trials[1:]] == [trials[0].commit, trials[1].commit, trials[1].commit]
    assert trials[3].constants == {"LR": 0.04, "DEPTH": 5}
