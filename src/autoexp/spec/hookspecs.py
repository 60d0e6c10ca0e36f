"""Every hook. An implementation may leave out arguments it does not need; it may not invent any.

Stages are `firstresult`: the built-in is tried last, and an answer of None falls through to it. Wrap a stage
(`@hookimpl(wrapper=True)`) to act before and after it. A stage returns the event it brought about, or None for
"not yet": it is called again soon. It writes neither the journal nor the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autoexp.spec.markers import hookspec

if TYPE_CHECKING:
    import typer

    from autoexp.runs.events import Event
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context
    from autoexp.spec.ports import Agent, Executor, Proposer, Rule, Tracker


@hookspec(firstresult=True)
def autoexp_setup(state: RunState, context: Context) -> Event | None:
    """Once a run, and after it the baseline: check what is needed, prepare data. Returns SetupDone. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_baseline(state: RunState, context: Context) -> Event | None:
    """Open iteration 0, the unchanged program. Returns BaselineOpened. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_propose(state: RunState, context: Context) -> Event | None:
    """Open an iteration with one change to try. Returns Proposed. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_apply(state: RunState, context: Context) -> Event | None:
    """Make the edits in a worktree and check what they touched. Returns Applied. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_commit(state: RunState, context: Context) -> Event | None:
    """Commit the candidate under a ref of its own. Returns Committed. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_train(state: RunState, context: Context) -> Event | None:
    """Start the training (TrainingStarted), then tell how it ended (TrainingEnded); None in between. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_triage(state: RunState, context: Context) -> Event | None:
    """Go on with the outcome, or open another attempt. Returns Triaged. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_record(state: RunState, context: Context) -> Event | None:
    """Make the trial: proposal, candidate and outcome in one. Returns Recorded. Since 0.1."""


@hookspec(firstresult=True)
def autoexp_decide(state: RunState, context: Context) -> Event | None:
    """Keep or drop the trial. Called in iteration order. Returns Decided; LookAgain for another training first; or
    NoiseCarried, to be called again. Since 0.1.
    """


@hookspec
def autoexp_register_proposers(register: Callable[[str, Proposer], None], options: dict[str, dict[str, Any]]) -> None:
    """Call `register(name, proposer)`. `options` holds the settings' [proposers.<name>] tables. Since 0.1."""


@hookspec
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    """Call `register(name, agent)`. `options` holds the settings' [agents.<name>] tables. Since 0.1."""


@hookspec
def autoexp_register_executors(register: Callable[[str, Executor], None], options: dict[str, dict[str, Any]]) -> None:
    """Call `register(name, executor)`. `options` holds the settings' [executors.<name>] tables. Since 0.1."""


@hookspec
def autoexp_register_decision_rules(register: Callable[[str, Rule], None], options: dict[str, dict[str, Any]]) -> None:
    """Call `register(name, rule)`. `options` holds the settings' [rules.<name>] tables. Since 0.1."""


@hookspec
def autoexp_register_trackers(register: Callable[[str, Tracker], None], options: dict[str, dict[str, Any]]) -> None:
    """Call `register(name, tracker)`. `options` holds the settings' [trackers.<name>] tables. Since 0.1."""


@hookspec
def autoexp_register_commands(app: typer.Typer) -> None:
    """Add commands to the command line. Called at every start: import heavy things inside the command. Since 0.1."""
