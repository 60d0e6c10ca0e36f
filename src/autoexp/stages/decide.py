"""decide: keep, discard, or crash. The branch and the tables are views of it, brought up to date by the session."""

from __future__ import annotations

from autoexp.runs.events import Decided, Event
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl


@hookimpl(trylast=True)
def autoexp_decide(state: RunState, context: Context) -> Event | None:
    """A trial without a number is a crash; an unchanged program is never an improvement; the rule decides the rest."""
    trial = state.open[context.iteration].trial
    assert trial is not None  # record comes before decide
    if trial.metric is None:
        return Decided(iteration=trial.iteration, decision="crash", why=trial.reason or trial.status)
    if trial.iteration and trial.commit == trial.base and state.best is not None:
        why = f"the program is unchanged ({state.metric.name} {trial.metric:.6f})"
        return Decided(iteration=trial.iteration, decision="discard", why=why)
    decision, why = context.rule().decide(trial, state.best, state.trials, state.metric)
    return Decided(iteration=trial.iteration, decision=decision, why=why)
