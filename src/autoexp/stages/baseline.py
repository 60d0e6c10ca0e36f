"""baseline: iteration 0 is the unchanged program, through the same train, triage, record and decide."""

from __future__ import annotations

from autoexp.runs.events import BaselineOpened, Event
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.candidate import described
from autoexp.workspace.repository import candidate_ref


@hookimpl(trylast=True)
def autoexp_baseline(state: RunState, context: Context) -> Event | None:
    """Hold the base commit under a ref and open iteration 0."""
    ref = candidate_ref(state.run_id, 0, 1)
    context.repository.hold(ref, state.base)
    files = context.settings.files
    source, constants = described(context.repository, state.base, files.editable, files.frozen)
    return BaselineOpened(commit=state.base, ref=ref, source=source, constants=constants)
