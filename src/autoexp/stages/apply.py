"""apply: make the proposal's edits in the iteration's worktree, or have an agent do it, and check what changed."""

from __future__ import annotations

from pathlib import Path

from autoexp.brief.build import sources
from autoexp.brief.prompts import apply_prompt
from autoexp.errors import AgentError, ProposalError, RepositoryError
from autoexp.runs.events import Applied, Event
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.answers import ApplyAnswer, untrusted
from autoexp.spec.asking import ask_for
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.candidate import described
from autoexp.workspace.files import tail, write_atomic
from autoexp.workspace.making import make
from autoexp.workspace.paths import LOG_FILE, PATCH_FILE
from autoexp.workspace.repository import REGULAR, matches, tree_ref

PEOPLE = ("proposal_file", "next_proposal", "queue")
"""Sources that may train the same program twice: a person who asks for it wants to see the noise."""


@hookimpl(trylast=True)
def autoexp_apply(state: RunState, context: Context) -> Event | None:
    """Begin from the base (a repair: from the failed candidate), edit, and store the result as a git tree.

    A change of anything that is not editable is refused, named, and not trained. So is no change at all. When an agent
    made a program that was trained before, it is asked for another change, `agent.tries` times in all.
    """
    iteration = state.open[context.iteration]
    worktree = context.paths.worktree(iteration.slot)
    repair = context.attempt > 1 and bool(iteration.commit)
    # without files.link: what is linked is the user's own data, and an editor has no business in it
    context.repository.checkout(worktree, iteration.commit if repair else iteration.base)
    if iteration.proposal is None:
        return _applied(context, "failed", "there is no proposal to apply", "nobody")
    by = "agent" if repair or not iteration.proposal.edits else "edits"
    try:
        edits = by == "edits"
        summary = (
            make(iteration.proposal.edits, worktree, context.repository, context.settings.files)
            if edits
            else _ask(state, iteration, worktree, context)
        )
        return _inspect(state, iteration, worktree, context, summary, by)
    except (ProposalError, RepositoryError, AgentError) as error:
        return _applied(context, "failed", f"could not be applied: {error}", by)


def _ask(state: RunState, iteration: Iteration, worktree: Path, context: Context) -> str:
    agent = context.agent(iteration.proposer)
    assert iteration.proposal is not None
    if agent is None:
        raise ProposalError("the proposal has no edits, and there is no agent to make them", "autoexp doctor")
    problem = ""
    if iteration.failures:
        last = context.paths.attempt(context.iteration, context.attempt - 1)
        problem = f"The candidate failed: {iteration.failures[-1].reason}\n{untrusted(tail(last / LOG_FILE, 16384))}"
    conversation = state.talk(context.iteration, agent)
    commit = iteration.commit or iteration.base
    program = None if conversation else sources(commit, context.settings, context.repository, 1.0)
    guidance = [] if conversation else [f"{each.number}. {each.text}" for each in state.steering]
    asked = apply_prompt(iteration.proposal, context.settings, problem, program, guidance)
    answer = ask_for(
        agent,
        asked.text,
        ApplyAnswer,
        context=context,
        stage="apply",
        cwd=worktree,
        transcript=context.paths.attempt(context.iteration, context.attempt) / "apply",
        may_edit=True,
        conversation=conversation,
        brief=asked.data,
    )
    if answer.status == "failed":
        raise AgentError(f"the agent says it failed: {answer.summary}")
    return answer.summary


def _inspect(state: RunState, iteration: Iteration, worktree: Path, context: Context, summary: str, by: str) -> Applied:
    """Compare the worktree with the base: claims and exit codes prove nothing, the difference does."""
    files = context.settings.files
    tree, changes = context.repository.changes(worktree, iteration.base)
    if not changes:
        return _applied(context, "empty", "nothing was changed", by)
    # until it is a commit nothing else holds it, and a `git gc` of the user's would take it away
    context.repository.hold(tree_ref(state.run_id, context.iteration, context.attempt), tree)
    folder = context.paths.attempt(context.iteration, context.attempt)
    write_atomic(folder / PATCH_FILE, context.repository.diff(iteration.base, tree) + "\n")
    refused = [c.path for c in changes if not matches(c.path, files.editable) or matches(c.path, files.frozen)]
    if refused:
        said = f"refused: it changed {', '.join(refused[:5])}, which is not editable"
        return _applied(context, "refused", said, by, refused=_named(refused))
    broken = [c.path for c in changes if c.mode not in REGULAR]
    if broken:
        said = f"refused: {', '.join(broken[:5])} is deleted, or no regular file any more"
        return _applied(context, "refused", said, by, refused=_named(broken))
    source, constants = described(context.repository, tree, files.editable, files.frozen)
    same = state.trained(source)
    if same is not None and iteration.proposer not in PEOPLE:
        # an agent's own edits were looked at when it proposed them (proposers/agent.py), and it insisted
        more = len(iteration.repeated) + 1 < context.settings.agent.tries
        again = by == "agent" and context.attempt == 1 and iteration.proposer in context.agents and more
        came = f", which came to {same.metric:.6f}" if again and same.metric is not None else ""
        said = f"the same program as iteration {same.iteration}{came}"
        return _applied(context, "repeated", said, by, again=again)
    changed = _named([change.path for change in changes])
    return _applied(context, "applied", summary, by, tree=tree, source=source, changed=changed, constants=constants)


def _named(paths: list[str]) -> tuple[str, ...]:
    """The first of them, fit for the journal: a file name may be any bytes."""
    return tuple(path.encode(errors="surrogateescape").decode(errors="replace") for path in paths[:50])


def _applied(context: Context, status: str, summary: str, by: str, **more: object) -> Applied:
    fields = {"iteration": context.iteration, "attempt": context.attempt, "status": status, "by": by}
    said = "".join(char if char.isprintable() else " " for char in summary[:2000])  # an agent's words, or git's
    return Applied.model_validate({**fields, "summary": said, **more})
