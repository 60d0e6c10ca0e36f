"""record: proposal, candidate and outcome become a trial."""

from __future__ import annotations

from autoexp.runs.events import Event, Recorded
from autoexp.runs.records import Outcome, Trial
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.candidate import described


@hookimpl(trylast=True)
def autoexp_record(state: RunState, context: Context) -> Event | None:
    """The row of the table. Only a success has a metric."""
    iteration = state.open[context.iteration]
    outcome = iteration.outcome or Outcome(status="untrained", reason="it was not trained")
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
