"""Ideas from an agent: it reads the program, the instructions and the trials so far, and names the next change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexp.errors import PreconditionError, ProposalError, RepositoryError
from autoexp.runs.records import Patch, Proposal
from autoexp.spec.asking import ask_for
from autoexp.spec.context import pick
from autoexp.spec.making import make
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Proposer, edits_files
from autoexp.spec.prompts import propose_prompt
from autoexp.workspace.repository import REGULAR, matches

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context

NAMES = ("opencode", "claude", "codex", "openai", "command")
AT_ONCE = (
    "Make the change now, in the files of the current folder, and then answer. Edit only the files that may change, "
    "make no new ones, use no git commands, install nothing and do not run the training."
)


class AgentProposer:
    """Asks the agent registered as `name`. A question of its own (`need_input`) is returned like any proposal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        """With `agent.edits_at_once` the agent edits too; its difference becomes a patch of the proposal."""
        agent = pick(context.agents, self.name, "agent")
        if missing := agent.available():
            raise PreconditionError(missing, "install it, or: autoexp start --proposer search")
        worktree = context.paths.worktree(state.free_slot)
        context.repository.checkout(worktree, state.tip)
        at_once = context.settings.agent.edits_at_once and edits_files(agent)
        proposal = ask_for(
            self.name,
            propose_prompt(state, context, AT_ONCE) if at_once else propose_prompt(state, context),
            Proposal,
            context=context,
            stage="propose",
            cwd=worktree,
            transcript=context.paths.iteration(context.iteration) / "propose",
            may_edit=at_once,
            conversation=state.talk(context.iteration, self.name),
            check=lambda answer: _refusal(answer, worktree, state.tip, at_once, context),
        )
        if at_once and (edited := _edits(worktree, state.tip, context)):
            return proposal.model_copy(update={"edits": (edited,)})
        return proposal


def _refusal(proposal: Proposal, worktree: Path, tip: str, at_once: bool, context: Context) -> str | None:
    """Why the edits of a proposal cannot be made, if it has some; told to the agent, which can still correct them."""
    if not proposal.edits or (at_once and context.repository.changes(worktree, tip)[1]):
        return None
    context.repository.checkout(worktree, tip)
    try:
        make(proposal.edits, worktree, context.repository, context.settings.files)
    except (ProposalError, RepositoryError) as error:
        return f"its edits cannot be made: {error}"
    finally:
        context.repository.checkout(worktree, tip)
    return None


def _edits(worktree: Path, tip: str, context: Context) -> Patch | None:
    """What the agent changed in editable files, as a patch; whatever else it touched is named and left out."""
    files = context.settings.files
    tree, changes = context.repository.changes(worktree, tip)
    good = [
        change.path
        for change in changes
        if matches(change.path, files.editable) and not matches(change.path, files.frozen) and change.mode in REGULAR
    ]
    bad = [change.path.encode(errors="replace").decode() for change in changes if change.path not in good]
    if bad:
        context.note(f"undone, since not editable: {', '.join(bad[:5])}", f"undone-{context.iteration}-{bad[0]}")
    if not good:
        return None
    diff = context.repository.diff(tip, context.repository.with_only(tip, tree, good)) + "\n"
    return Patch(op="patch", diff=diff.encode(errors="replace").decode())


@hookimpl
def autoexp_register_proposers(register: Callable[[str, Proposer], None], options: dict[str, dict[str, Any]]) -> None:
    for name in NAMES:
        register(name, AgentProposer(name))
