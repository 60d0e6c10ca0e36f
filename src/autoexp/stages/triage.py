"""triage: what to do with how a training ended. A success goes on; a failure may get another attempt."""

from __future__ import annotations

from autoexp.brief.prompts import triage_prompt
from autoexp.errors import AgentError, PreconditionError, RepositoryError
from autoexp.runs.events import Event, Triaged
from autoexp.runs.records import Outcome
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.answers import TriageAnswer
from autoexp.spec.asking import ask_for
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.files import tail
from autoexp.workspace.paths import LOG_FILE

MAX_RERUNS = 10
"""Reruns of a training that was lost or killed through no fault of its own."""
MAX_REEVALUATIONS = 1
"""A second failure of the same evaluation is the candidate's fault."""


@hookimpl(trylast=True)
def autoexp_triage(state: RunState, context: Context) -> Event | None:
    """Lost and killed trainings run again; a failed evaluation is done again from the checkpoint; code is repaired
    by an agent, if an agent wrote it; everything else is given up.
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
    if iteration.again is not None:  # the program has trained before: nothing of it is to be repaired
        return _triaged(context, "give_up", outcome.reason)
    own = [failure for failure in iteration.failures if failure.status not in ("lost", "killed")]
    reevaluations = sum(failure.checkpoint is not None for failure in own)
    can = judged or context.settings.train.can_reevaluate
    if outcome.checkpoint and can and reevaluations < MAX_REEVALUATIONS:
        return _triaged(context, "reevaluate", f"the training is done, its evaluation failed: {outcome.reason}")
    return _ask(state, iteration, outcome, context)


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
