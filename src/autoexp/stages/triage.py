"""triage: what to do with how a training ended. A success goes on; a failure may get another attempt."""

from __future__ import annotations

import errno
import os
import shutil

from autoexp.brief.prompts import triage_prompt
from autoexp.errors import AgentError, DiskFullError, PreconditionError, RepositoryError
from autoexp.runs.events import Event, Triaged
from autoexp.runs.records import Outcome
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.answers import TriageAnswer
from autoexp.spec.asking import ask_for
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.files import tail
from autoexp.workspace.paths import EXIT_FILE, LOG_FILE

MAX_RERUNS = 10
"""Reruns of a training that was lost or killed through no fault of its own."""
MAX_REEVALUATIONS = 1
"""A second failure of the same evaluation is the candidate's fault."""
NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
LITTLE_SPACE = 4 << 30
"""Free bytes above which a training that found no space has filled a place of its own."""
NO_WORDS = 1 << 20
"""Free bytes below which a training may not even have found the space to say so."""


@hookimpl(trylast=True)
def autoexp_triage(state: RunState, context: Context) -> Event | None:
    """Lost and killed trainings run again; a failed evaluation is done again from the checkpoint; code is repaired
    by an agent, if an agent wrote it; everything else is given up. Raises DiskFullError for one that found no space.
    """
    iteration = state.open[context.iteration]
    outcome = iteration.outcome
    if outcome is None:  # train was not selected
        return _triaged(context, "give_up", "it was not trained")
    if outcome.status in ("success", "stopped"):
        return _triaged(context, "proceed", "")
    reruns = sum(failure.status in ("lost", "killed") for failure in iteration.failures)
    judged = outcome.evaluated_by == "judge"  # from the checkpoint, whatever the command can do
    if outcome.status in ("lost", "killed") and reruns < MAX_RERUNS:
        if judged and outcome.checkpoint:
            return _triaged(
                context, "reevaluate", f"the training is done, its evaluation was cut off: {outcome.reason}"
            )
        return _triaged(context, "rerun", outcome.reason)
    if _found_no_space(outcome, context):
        if not _of_before(state, context):
            raise DiskFullError(f"the disk is full: {outcome.reason}", "free some space, then: autoexp resume")
        return _triaged(context, "rerun", f"the disk was full: {outcome.reason}")
    if iteration.again is not None:  # the program has trained before: nothing of it is to be repaired
        return _triaged(context, "give_up", outcome.reason)
    own = [failure for failure in iteration.failures if failure.status not in ("lost", "killed")]
    reevaluations = sum(failure.checkpoint is not None for failure in own)
    can = judged or context.settings.train.can_reevaluate
    if outcome.checkpoint and can and reevaluations < MAX_REEVALUATIONS:
        return _triaged(context, "reevaluate", f"the training is done, its evaluation failed: {outcome.reason}")
    return _ask(state, iteration, outcome, context)


def _found_no_space(outcome: Outcome, context: Context) -> bool:
    """Whether a training failed since the disk was full: not its fault, and the next ones would fail too."""
    if outcome.status != "crash":
        return False
    said = any(words in outcome.reason for words in NO_SPACE)
    return shutil.disk_usage(context.paths.folder).free < (LITTLE_SPACE if said else NO_WORDS)


def _of_before(state: RunState, context: Context) -> bool:
    """Whether it ended before this session began: who resumes has made space."""
    ended = context.paths.attempt(context.iteration, context.attempt) / EXIT_FILE
    try:
        return state.session is not None and ended.stat().st_mtime < state.session.at
    except OSError:
        return True


def _ask(state: RunState, iteration: Iteration, outcome: Outcome, context: Context) -> Triaged:
    trained = context.attempt - sum(failure.status in ("lost", "killed") for failure in iteration.failures)
    by = iteration.applied.by if iteration.applied is not None else "nobody"
    written = by == "agent" or iteration.proposer in context.agents
    agent = context.agent(iteration.proposer) if written else None
    if agent is None or trained >= context.settings.run.max_attempts:
        return _triaged(context, "give_up", outcome.reason)
    folder = context.paths.attempt(context.iteration, context.attempt)
    conversation = state.talk(context.iteration, agent)
    log = tail(folder / LOG_FILE, 16384)
    full = triage_prompt(outcome, log, iteration.proposal, _diff(iteration, context))
    asked = full if conversation is None else triage_prompt(outcome, log)
    try:
        answer = ask_for(
            agent,
            asked.text,
            TriageAnswer,
            context=context,
            stage="triage",
            cwd=context.paths.worktree(iteration.slot),
            transcript=folder / "triage",
            may_edit=False,
            conversation=conversation,
            brief=asked.data,
            anew=full,
            standing=state.agents.get(agent),
        )
    except (AgentError, PreconditionError) as error:
        return _triaged(context, "give_up", f"{outcome.reason} (and triage: {error})")
    if answer.action == "fix_and_rerun":
        return _triaged(context, "fix_and_rerun", answer.reason or outcome.reason)
    return _triaged(context, "give_up", answer.reason or outcome.reason)


def _diff(iteration: Iteration, context: Context) -> str:
    """What was trained, against what it began from. The stored patch also has what was undone: the evaluator's, say."""
    try:
        return context.repository.diff(iteration.base, iteration.commit)
    except RepositoryError:  # told by the log alone, then
        return ""


def _triaged(context: Context, action: str, reason: str) -> Triaged:
    fields = {"iteration": context.iteration, "attempt": context.attempt, "action": action}
    return Triaged.model_validate({**fields, "reason": reason[:2000]})
