"""commit: the candidate becomes a commit, a child of its base, held by a ref of its own for ever."""

from __future__ import annotations

from autoexp.runs.events import Committed, Event
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.workspace.repository import candidate_ref, tree_ref


@hookimpl(trylast=True)
def autoexp_commit(state: RunState, context: Context) -> Event | None:
    """Commit the tree that apply stored. Where apply was skipped the candidate is the base itself."""
    iteration = state.open[context.iteration]
    ref = candidate_ref(state.run_id, context.iteration, context.attempt)
    if iteration.applied is None:
        context.repository.hold(ref, iteration.base)
        commit = iteration.base
    else:
        message = iteration.proposal.commit_description if iteration.proposal else f"iteration {context.iteration}"
        commit = context.repository.commit(iteration.applied.tree, [iteration.base], message, ref)
        context.repository.run("update-ref", "-d", tree_ref(state.run_id, context.iteration, context.attempt))
    return Committed(iteration=context.iteration, attempt=context.attempt, commit=commit, ref=ref)
