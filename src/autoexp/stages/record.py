"""record: proposal, candidate and outcome become a trial."""

from __future__ import annotations

from autoexp.runs.events import Event, Recorded
from autoexp.runs.measuring import mean
from autoexp.runs.records import Outcome, Trial
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.candidate import described


@hookimpl(trylast=True)
def autoexp_record(state: RunState, context: Context) -> Event | None:
    """The row of the table. Only a success has a metric: the mean over the candidate's trainings."""
    iteration = state.open[context.iteration]
    outcome = iteration.outcome or Outcome(status="untrained", reason="it was not trained")
    if iteration.again is not None and iteration.trial is not None:
        return Recorded(trial=_again(state, iteration, iteration.trial, outcome))
    source, constants = (iteration.applied.source, iteration.applied.constants) if iteration.applied else ("", {})
    if not iteration.applied:
        files = context.settings.files
        source, constants = described(
            context.repository, iteration.commit or iteration.base, files.editable, files.frozen
        )
    description = iteration.proposal.description if iteration.proposal else "the program as it is"
    return Recorded(
        trial=Trial(
            iteration=iteration.number,
            description=description if iteration.number else "baseline",
            proposer=iteration.proposer,
            base=iteration.base,
            commit=iteration.commit or iteration.base,
            ref=iteration.ref,
            source=source,
            constants=constants,
            status=outcome.status,
            reason=outcome.reason,
            metric=outcome.metric if outcome.status == "success" else None,
            memory_gb=outcome.memory_gb if outcome.status == "success" else 0.0,
            seconds=outcome.wall_seconds,
            attempts=iteration.attempt,
        )
    )


def _again(state: RunState, iteration: Iteration, trial: Trial, outcome: Outcome) -> Trial:
    """The trial after another training of it, or of the best."""
    seconds = (trial.seconds or 0.0) + (outcome.wall_seconds or 0.0)
    trial = trial.model_copy(update={"attempts": iteration.attempt, "seconds": seconds or None})
    if iteration.again is None or iteration.again.of == "incumbent":
        return trial  # what became of the best's training says nothing about the candidate
    if outcome.status != "success":
        reason = f"with seed {iteration.again.seed}: {outcome.reason or outcome.status}"
        return trial.model_copy(update={"status": outcome.status, "reason": reason, "metric": None})
    value = mean(state.measured(trial.source, trial.commit) or state.measurements[-1:])
    return trial.model_copy(update={"metric": value, "memory_gb": max(trial.memory_gb, outcome.memory_gb)})
