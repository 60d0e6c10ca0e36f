"""Ideas from an agent: it reads the program, the instructions and the trials so far, and names the next change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autoexp.errors import PreconditionError
from autoexp.runs.records import Proposal
from autoexp.spec.asking import ask_for
from autoexp.spec.context import pick
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Proposer
from autoexp.spec.prompts import propose_prompt

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context


class AgentProposer:
    """Asks the agent registered as `name`. A question of its own (`need_input`) is returned like any proposal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        agent = pick(context.agents, self.name, "agent")
        if missing := agent.available():
            raise PreconditionError(missing, "install it, or: autoexp start --proposer search")
        worktree = context.paths.worktree(state.free_slot)
        context.repository.checkout(worktree, state.tip)
        return ask_for(
            self.name,
            propose_prompt(state, context),
            Proposal,
            context=context,
            stage="propose",
            cwd=worktree,
            transcript=context.paths.iteration(context.iteration) / "propose",
            may_edit=False,
            conversation=state.talk(context.iteration, self.name),
            standing=state.agents.get(self.name),
        )


@hookimpl
def autoexp_register_proposers(register: Callable[[str, Proposer], None], options: dict[str, dict[str, Any]]) -> None:
    for name in ("opencode", "command"):
        register(name, AgentProposer(name))
