"""Ideas from an agent: it is sent the brief, and names the next change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autoexp.brief.build import propose_brief
from autoexp.errors import PreconditionError, ProposalError, RepositoryError
from autoexp.runs.events import IdeaHad, IdeaTried, LessonLearned, QuestionAsked
from autoexp.runs.records import Edit, Patch, Proposal
from autoexp.runs.resting import manner
from autoexp.runs.state import same_words, slot_of
from autoexp.spec.answers import ProposeAnswer
from autoexp.spec.asking import Prompt, ask_for
from autoexp.spec.context import pick
from autoexp.spec.making import make
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Proposer, edits_files, mended
from autoexp.workspace.candidate import allowed, described

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context

NAMES = ("opencode", "claude", "codex", "openai", "command")


class AgentProposer:
    """Asks the agent registered as `name`. When it only has questions, the last one is returned (`need_input`)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        """With `agent.edits_at_once` the agent edits too; its difference becomes a patch of the proposal."""
        agent = pick(context.agents, self.name, "agent")
        if missing := agent.available():
            raise PreconditionError(missing, mended(agent, "autoexp start --proposer search"))
        worktree = context.paths.worktree(slot_of(state, context.iteration))
        context.repository.checkout(worktree, state.tip)
        at_once = context.settings.agent.edits_at_once and edits_files(agent)
        conversation = state.talk(context.iteration, self.name)
        place = (context.settings, context.workspace, context.paths, context.repository)
        full = propose_brief(state, context.iteration, *place, at_once=at_once)
        asked = full if conversation is None else propose_brief(state, context.iteration, *place, True, at_once)
        check = _Check(self.name, state, context, worktree, at_once)
        answer = ask_for(
            self.name,
            asked.text,
            ProposeAnswer,
            context=context,
            stage="propose",
            cwd=worktree,
            transcript=context.paths.iteration(context.iteration) / "propose",
            may_edit=at_once,
            conversation=conversation,
            brief=asked.data,
            anew=Prompt(full.text, full.data),
            check=check,
            standing=state.agents.get(self.name),
        )
        if check.stray:
            names = ", ".join(check.stray[:5])
            context.note(f"undone, since not editable: {names}", f"undone-{context.iteration}-{check.stray[0]}")
        if answer.status != "ok":
            return answer.proposal
        _remember(answer, self.name, state, context)
        return answer.proposal.model_copy(update={"edits": check.edits}) if check.edits else answer.proposal


class _Check:
    """Tells an agent, as long as it may be asked again, why its answer is of no use now."""

    def __init__(self, name: str, state: RunState, context: Context, worktree: Path, at_once: bool) -> None:
        self.name, self.state, self.context, self.worktree = name, state, context, worktree
        self.at_once = at_once
        once = manner(state.agents.get(name), context.iteration) == "once"
        self.left = 0 if once else context.settings.agent.tries - 1
        self.edits: tuple[Edit, ...] = ()
        """What the agent changed in editable files of the worktree while it proposed, where it may."""
        self.stray: list[str] = []
        """What else it changed there."""

    def __call__(self, answer: ProposeAnswer) -> str | None:
        wrong = self._asks(answer.description) if answer.status == "need_input" else self._edits(answer)
        self.left -= 1
        return wrong if self.left >= 0 else None  # it insists: what becomes of that is decided where it is applied

    def _asks(self, question: str) -> str:
        for known in self.state.questions:
            if known.answer and same_words(known.text, question):
                return f"the person has answered that already: {known.answer[:2000]}"
        self.context.remember(QuestionAsked(iteration=self.context.iteration, by=self.name, text=question[:2000]))
        return (
            "the question is with the person now (need_input), who may answer it later. Nobody waits for that: propose "
            "another change, one that does not need the answer"
        )

    def _edits(self, answer: ProposeAnswer) -> str | None:
        """Whether the edits can be made, and lead to a program that was not trained yet."""
        repository, files, tip = self.context.repository, self.context.settings.files, self.state.tip
        try:
            made = self._made() if self.at_once else None
            if made is None:
                if not answer.edits:
                    return None
                repository.checkout(self.worktree, tip)
                try:
                    make(answer.edits, self.worktree, repository, files)
                    made, _ = repository.changes(self.worktree, tip)
                finally:
                    repository.checkout(self.worktree, tip)
            source, _ = described(repository, made, files.editable, files.frozen)
        except (ProposalError, RepositoryError) as error:
            return f"its edits cannot be made: {error}"
        same = self.state.trained(source)
        if same is None:
            return None
        came = f", which came to {same.metric:.6f}" if same.metric is not None else ""
        return f"its edits lead to the same program as iteration {same.iteration}{came}: propose another change"

    def _made(self) -> str | None:
        """The tree with what the agent itself changed in editable files; None when that is nothing."""
        repository, tip = self.context.repository, self.state.tip
        self.edits = ()
        tree, changes = repository.changes(self.worktree, tip)
        good = [change.path for change in changes if allowed(change, self.context.settings.files)]
        self.stray = [c.path.encode(errors="replace").decode() for c in changes if c.path not in good]
        if not good:
            return None
        if self.stray:
            tree = repository.with_only(tip, tree, good)
        try:
            self.edits = (Patch(op="patch", diff=repository.diff(tip, tree) + "\n"),)
        except ValidationError as error:
            raise ProposalError("a file is not text in UTF-8 any more", "autoexp doctor") from error
        return tree


def _remember(answer: ProposeAnswer, name: str, state: RunState, context: Context) -> None:
    number = context.iteration
    if answer.idea is not None and any(idea.number == answer.idea for idea in state.backlog):
        context.remember(IdeaTried(iteration=number, number=answer.idea))
    for idea in answer.ideas:
        context.remember(IdeaHad(iteration=number, by=name, text=idea[:500]))
    if answer.lesson:
        context.remember(LessonLearned(iteration=number, by=name, text=answer.lesson[:500]))


@hookimpl
def autoexp_register_proposers(register: Callable[[str, Proposer], None], options: dict[str, dict[str, Any]]) -> None:
    for name in NAMES:
        register(name, AgentProposer(name))
