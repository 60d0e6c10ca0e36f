"""apply: make the proposal's edits in the iteration's worktree, or have an agent do it, and check what changed."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

from autoexp.errors import AgentError, ProposalError, RepositoryError
from autoexp.runs.events import Applied, Event
from autoexp.runs.records import Patch, Proposal, Replace, SetConstant
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.answers import ApplyAnswer, untrusted
from autoexp.spec.asking import ask_for
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.spec.prompts import apply_prompt
from autoexp.workspace.candidate import described
from autoexp.workspace.constants import declared, replaced
from autoexp.workspace.edits import replaced_text
from autoexp.workspace.files import tail, write_atomic
from autoexp.workspace.paths import (
    CHECKPOINT_FILE,
    EXIT_FILE,
    JOB_FILE,
    LOG_FILE,
    METRICS_FILE,
    PATCH_FILE,
    REPORT_FILE,
)
from autoexp.workspace.repository import REGULAR, matches, tree_ref

PEOPLE = ("proposal_file", "next_proposal", "queue")
"""Sources that may train the same program twice: a person who asks for it wants to see the noise."""


@hookimpl(trylast=True)
def autoexp_apply(state: RunState, context: Context) -> Event | None:
    """Begin from the base (a repair: from the failed candidate), edit, and store the result as a git tree.

    A change of anything that is not editable is refused, named, and not trained. So is no change at all.
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
        summary = make(iteration.proposal, worktree, context) if edits else _ask(state, iteration, worktree, context)
        return _inspect(state, iteration, worktree, context, summary, by)
    except (ProposalError, RepositoryError, AgentError) as error:
        return _applied(context, "failed", f"could not be applied: {error}", by)


def make(proposal: Proposal, worktree: Path, context: Context) -> str:
    """Make the proposal's own edits. Returns what was done, in words; raises ProposalError or RepositoryError."""
    done = []
    for edit in proposal.edits:
        if isinstance(edit, Patch):
            context.repository.apply_patch(worktree, edit.diff)
            done.append("patched")
            continue
        path = _path_of(edit, worktree, context)
        text, encoding = _decoded(path.read_bytes())  # read_text would turn CRLF into LF
        if isinstance(edit, SetConstant):
            path.write_bytes(replaced(text, edit.name, edit.value).encode(encoding))
            done.append(f"{edit.name} = {edit.value!r}")
        else:
            try:
                changed = replaced_text(text, edit.old, edit.new)
            except ProposalError as error:
                raise ProposalError(f"{edit.path}: {error}", error.hint) from error
            path.write_bytes(changed.encode(encoding))
            done.append(f"replaced text in {edit.path}")
    return ", ".join(done)


def _decoded(data: bytes) -> tuple[str, str]:
    """The text of a source, and its encoding: the one it declares. Raises ProposalError when it is none."""
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        return data.decode(encoding), encoding
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise ProposalError(f"the file is no text: {error}", "autoexp propose --patch FILE") from error


def _path_of(edit: SetConstant | Replace, worktree: Path, context: Context) -> Path:
    files = context.settings.files
    editable = _existing(worktree, files.editable, files.frozen)
    if edit.path is not None:
        if worktree / edit.path not in editable:
            raise ProposalError(
                f"{edit.path} is not editable (files.editable: {', '.join(files.editable)})", "autoexp doctor"
            )
        return worktree / edit.path
    assert isinstance(edit, SetConstant)
    for path in editable:
        if path.suffix == ".py" and edit.name in declared(path.read_text(errors="replace")):
            return path
    raise ProposalError(f"no editable file has a constant {edit.name}", "autoexp propose --help")


def _existing(worktree: Path, editable: tuple[str, ...], frozen: tuple[str, ...]) -> list[Path]:
    names = sorted(str(p.relative_to(worktree)) for p in worktree.rglob("*") if p.is_file() and not p.is_symlink())
    return [worktree / name for name in names if matches(name, editable) and not matches(name, frozen)]


def _ask(state: RunState, iteration: Iteration, worktree: Path, context: Context) -> str:
    agent = context.agent(iteration.proposer)
    assert iteration.proposal is not None
    if agent is None:
        raise ProposalError("the proposal has no edits, and there is no agent to make them", "autoexp doctor")
    problem = ""
    if iteration.failures:
        last = context.paths.attempt(context.iteration, context.attempt - 1)
        problem = f"The candidate failed: {iteration.failures[-1].reason}\n{untrusted(tail(last / LOG_FILE, 16384))}"
    answer = ask_for(
        agent,
        apply_prompt(iteration.proposal, context.settings, problem),
        ApplyAnswer,
        context=context,
        stage="apply",
        cwd=worktree,
        transcript=context.paths.attempt(context.iteration, context.attempt) / "apply",
        may_edit=True,
        conversation=state.talk(context.iteration, agent),
    )
    _clear(context)
    if answer.status == "failed":
        raise AgentError(f"the agent says it failed: {answer.summary}")
    return answer.summary


def _clear(context: Context) -> None:
    """Remove what only a training of this attempt, or a later one, could have left: there was none so far."""
    for folder in context.paths.iteration(context.iteration).glob("attempt-*"):
        number = folder.name.removeprefix("attempt-")
        if number.isdecimal() and int(number) >= context.attempt:
            for name in (JOB_FILE, EXIT_FILE, REPORT_FILE, METRICS_FILE, LOG_FILE, CHECKPOINT_FILE):
                (folder / name).unlink(missing_ok=True)


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
    same = next((t.iteration for t in state.trials if t.source == source and t.status == "success"), None)
    if same is not None and iteration.proposer not in PEOPLE:
        return _applied(context, "repeated", f"the same program as iteration {same}", by)
    changed = _named([change.path for change in changes])
    return _applied(context, "applied", summary, by, tree=tree, source=source, changed=changed, constants=constants)


def _named(paths: list[str]) -> tuple[str, ...]:
    """The first of them, fit for the journal: a file name may be any bytes."""
    return tuple(path.encode(errors="surrogateescape").decode(errors="replace") for path in paths[:50])


def _applied(context: Context, status: str, summary: str, by: str, **more: object) -> Applied:
    fields = {"iteration": context.iteration, "attempt": context.attempt, "status": status, "by": by}
    said = "".join(char if char.isprintable() else " " for char in summary[:2000])  # an agent's words, or git's
    return Applied.model_validate({**fields, "summary": said, **more})
