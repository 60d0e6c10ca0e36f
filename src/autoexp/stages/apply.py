"""apply: make the proposal's edits in the iteration's worktree, or have an agent do it, and check what changed."""

from __future__ import annotations

import os
from pathlib import Path

from autoexp.brief.build import sources
from autoexp.brief.prompts import apply_prompt
from autoexp.errors import AgentError, PreconditionError, ProposalError, RepositoryError, UnreachableError
from autoexp.runs.events import Applied, Event
from autoexp.runs.resting import manner
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.answers import ApplyAnswer, untrusted
from autoexp.spec.asking import ask_for
from autoexp.spec.context import Context
from autoexp.spec.making import make
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import edits_files
from autoexp.workspace.candidate import allowed, described
from autoexp.workspace.files import tail, write_atomic
from autoexp.workspace.inbox import PEOPLE, give_back, take_again
from autoexp.workspace.paths import LOG_FILE, OF_A_TRAINING, PATCH_FILE, stale
from autoexp.workspace.repository import matches, tree_ref


@hookimpl(trylast=True)
def autoexp_apply(state: RunState, context: Context) -> Event | None:
    """Begin from the base (a repair: from the failed candidate), edit, and store the result as a git tree.

    A change of anything that is not editable is named and not trained: of an agent's changes it is undone, a proposal
    with such edits is refused. No change at all is not trained either. When an agent made a program that was trained
    before, it is asked for another change, `agent.tries` times in all.
    """
    iteration = state.open[context.iteration]
    worktree = context.paths.worktree(iteration.slot)
    repair = context.attempt > 1 and bool(iteration.commit)
    # without files.link: what is linked is the user's own data, and an editor has no business in it
    context.repository.checkout(worktree, iteration.commit if repair else iteration.base)
    if iteration.proposal is None:
        return _applied(context, "failed", "there is no proposal to apply", "nobody")
    by = "agent" if repair or not iteration.proposal.edits else "edits"
    if iteration.proposer in PEOPLE:
        take_again(context.paths, context.iteration)  # given back just before a crash
    try:
        if by == "edits":
            summary = make(iteration.proposal.edits, worktree, context.repository, context.settings.files)
        else:
            summary = _ask(state, iteration, worktree, context)
        _put_aside(context)
        event = _inspect(state, iteration, worktree, context, summary, by)
    except UnreachableError as error:
        # what a person proposed must not be lost by an outage
        back = not repair and iteration.proposer in PEOPLE and give_back(context.paths, context.iteration)
        waits = "; the proposal waits in the queue again" if back else ""
        return _applied(context, "failed", f"could not be applied: {error}{waits}", by)
    except (ProposalError, RepositoryError, AgentError, PreconditionError) as error:
        event = _applied(context, "failed", f"could not be applied: {error}", by)
        if by == "agent" and (touched := _refused(state, iteration, worktree, context)) is not None:
            event = touched
    if event.status in ("failed", "empty", "refused") and by == "agent" and not repair and iteration.proposer in PEOPLE:
        file = context.paths.consumed(context.iteration)
        text = (
            f"iteration {context.iteration}: what you proposed was not tried ({event.summary[:300]}); "
            f"to try it again: autoexp propose --file {file}"
        )
        context.note(text, f"not-tried-{context.iteration}")
    return event


def _ask(state: RunState, iteration: Iteration, worktree: Path, context: Context) -> str:
    name = context.agent(iteration.proposer)
    proposal, files = iteration.proposal, context.settings.files
    assert proposal is not None
    if name is None:
        raise ProposalError("the proposal has no edits, and there is no agent to make them", "autoexp doctor")
    problem = ""
    if iteration.failures:
        last = context.paths.attempt(context.iteration, context.attempt - 1)
        reason, log = untrusted(iteration.failures[-1].reason, 500), untrusted(tail(last / LOG_FILE, 16384))
        problem = f"The candidate failed. The reason that was found:\n{reason}\n\nThe end of its log:\n{log}"
    edits_itself = edits_files(context.agents[name])
    conversation = state.talk(context.iteration, name)
    begin = iteration.commit if context.attempt > 1 and iteration.commit else iteration.base
    program = sources(begin, context.settings, context.repository, 1.0)
    guidance = [f"{each.number}. {each.text}" for each in state.steering]
    full = apply_prompt(proposal, context.settings, problem, program, guidance, edits_itself)
    # exact edits need the exact text, also of a program that changed since it was shown
    shown = None if edits_itself else program
    short = apply_prompt(proposal, context.settings, problem, shown, (), edits_itself)
    asked = full if conversation is None else short

    def made(answer: ApplyAnswer) -> str | None:
        """Make the edits of an answer that has some, from where this attempt began; why they cannot be made."""
        if not answer.edits or (edits_itself and context.repository.changes(worktree, begin)[1]):
            return None  # an agent that edited the files has said the same twice
        context.repository.checkout(worktree, begin)
        try:
            make(answer.edits, worktree, context.repository, files)
        except (ProposalError, RepositoryError) as error:
            context.repository.checkout(worktree, begin)
            return f"its edits cannot be made: {error}"
        return None

    once = manner(state.agents.get(name), context.iteration) == "once"
    left = 0 if once else context.settings.agent.tries - 1

    def useful(answer: ApplyAnswer) -> str | None:
        """Why the answer is of no use; of one that changed nothing only while the agent may be asked again."""
        nonlocal left
        wrong = made(answer)
        if wrong is None and answer.status == "applied" and left > 0:
            wrong = _in_vain(context, worktree, begin)
        left -= 1
        return wrong

    answer = ask_for(
        name,
        asked.text,
        ApplyAnswer,
        context=context,
        stage="apply",
        cwd=worktree,
        transcript=context.paths.attempt(context.iteration, context.attempt) / "apply",
        may_edit=edits_itself,
        conversation=conversation,
        brief=asked.data,
        anew=full,
        check=useful,
        standing=state.agents.get(name),
    )
    if answer.status == "failed":
        raise AgentError(f"the agent says it failed: {answer.summary}")
    return answer.summary


def _refused(state: RunState, iteration: Iteration, worktree: Path, context: Context) -> Applied | None:
    """What an agent that failed in the end had touched and may not change; None when there is nothing to name."""
    try:
        event = _inspect(state, iteration, worktree, context, "", "agent")
    except (ProposalError, RepositoryError):
        return None
    return event if event.status == "refused" else None


def _in_vain(context: Context, worktree: Path, begin: str) -> str | None:
    """Why nothing of what was done can be trained; None when something can, or that is told later."""
    try:
        _, changes = context.repository.changes(worktree, begin)
    except RepositoryError:
        return None
    globs = ", ".join(context.settings.files.editable)
    if not changes:
        return f"nothing was changed in the files that may change ({globs})"
    if any(allowed(change, context.settings.files) for change in changes):
        return None
    names = ", ".join(_named([change.path for change in changes][:5]))
    return f"all that was changed is {names}, which may not change (only {globs} may, and must stay a file)"


def _put_aside(context: Context) -> None:
    """Move what only a training of this attempt, or a later one, could have left into a folder beside: there was none.

    An agent made it, or it is from before the journal was put back from an older copy.
    """
    for folder in sorted(context.paths.iteration(context.iteration).glob("attempt-*")):
        number = folder.name.removeprefix("attempt-")
        if not number.isdecimal() or int(number) < context.attempt:
            continue
        strange = [folder / name for name in OF_A_TRAINING if os.path.lexists(folder / name)]
        if strange:
            aside = stale(folder)
            aside.mkdir()
            for path in strange:
                path.rename(aside / path.name)
            names = ", ".join(path.name for path in strange)
            text = f"{folder.name} had {names} before it was trained; they are in {aside.name}, and count for nothing"
            context.note(text, f"stale-{context.iteration}-{aside.name}")


def _inspect(state: RunState, iteration: Iteration, worktree: Path, context: Context, summary: str, by: str) -> Applied:
    """Compare the worktree with the base: claims and exit codes prove nothing, the difference does.

    The stored patch is of everything that was changed, undone or not.
    """
    files = context.settings.files
    tree, changes = context.repository.changes(worktree, iteration.base)
    if not changes:
        return _applied(context, "empty", "nothing was changed", by)
    # until it is a commit nothing else holds it, and a `git gc` of the user's would take it away
    context.repository.hold(tree_ref(state.run_id, context.iteration, context.attempt), tree)
    folder = context.paths.attempt(context.iteration, context.attempt)
    write_atomic(folder / PATCH_FILE, context.repository.diff(iteration.base, tree) + "\n")
    good = [c for c in changes if allowed(c, files)]
    bad = [change.path for change in changes if change not in good]
    if bad and (by != "agent" or not good):
        gone = all(matches(path, files.editable) and not matches(path, files.frozen) for path in bad)
        why = "is deleted, or no regular file any more" if gone else "is not editable"
        said = f"refused: it changed {', '.join(bad[:5])}, which {why}"
        return _applied(context, "refused", said, by, refused=_named(bad))
    if bad:  # a part of what an agent did: the rest is what it was asked for
        tree = context.repository.with_only(iteration.base, tree, [change.path for change in good])
        context.repository.hold(tree_ref(state.run_id, context.iteration, context.attempt), tree)
        summary = f"{summary} (undone, since not editable: {', '.join(bad[:5])})".strip()
        changes = good
    source, constants = described(context.repository, tree, files.editable, files.frozen)
    same = state.trained(source)
    if same is not None and iteration.proposer not in PEOPLE:  # a person who asks for it again wants to see the noise
        # an agent's own edits were looked at when it proposed them (proposers/agent.py), and it insisted
        more = len(iteration.repeated) + 1 < context.settings.agent.tries
        again = by == "agent" and context.attempt == 1 and iteration.proposer in context.agents and more
        came = f", which came to {same.metric:.6f}" if again and same.metric is not None else ""
        said = f"the same program as iteration {same.iteration}{came}"
        return _applied(context, "repeated", said, by, again=again)
    facts = {"tree": tree, "source": source, "constants": constants, "refused": _named(bad)}
    return _applied(context, "applied", summary, by, changed=_named([c.path for c in changes]), **facts)


def _named(paths: list[str]) -> tuple[str, ...]:
    """The first of them, fit for the journal: a file name may be any bytes."""
    return tuple(path.encode(errors="surrogateescape").decode(errors="replace") for path in paths[:50])


def _applied(context: Context, status: str, summary: str, by: str, **more: object) -> Applied:
    fields = {"iteration": context.iteration, "attempt": context.attempt, "status": status, "by": by}
    said = "".join(char if char.isprintable() else " " for char in summary[:2000])  # an agent's words, or git's
    return Applied.model_validate({**fields, "summary": said, **more})
