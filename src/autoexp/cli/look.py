"""log, show, plugins: look at what was done, and at what does it. They change nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from autoexp.cli.run import AsJson, RunId
from autoexp.spec.markers import hookimpl


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(log)
    app.command()(show)
    app.command()(plugins)


def log(
    last: Annotated[int | None, typer.Option("--last", min=1, help="Only the newest N trials.")] = None,
    run_id: RunId = None,
    json: AsJson = False,
) -> None:
    """Show the table of all trials."""
    from autoexp.cli import render
    from autoexp.session import looking
    from autoexp.session.snapshot import load
    from autoexp.workspace.paths import find_workspace

    state = load(find_workspace().existing(run_id))
    rows = looking.rows(state)[-last if last else 0 :]
    if json:
        render.show_json([row.trial.model_dump(mode="json") for row in rows])
    else:
        render.show_log(state, rows)


def show(
    number: Annotated[int, typer.Argument(metavar="N", help="The iteration; 0 is the baseline.")],
    tail: Annotated[int, typer.Option("--tail", min=0, help="How many lines of the training's log.")] = 20,
    run_id: RunId = None,
    json: AsJson = False,
) -> None:
    """Show one iteration: its proposal, diff, numbers, attempts, decision and files."""
    from autoexp.cli import render
    from autoexp.session.looking import shown
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    found = shown(workspace, workspace.existing(run_id), number, tail)
    if json:
        render.show_json(found.model_dump(mode="json"))
    else:
        render.show_iteration(found)


def plugins(json: AsJson = False) -> None:
    """Show who implements each hook, and every proposer, agent, executor, rule and tracker."""
    from autoexp.cli import app, render
    from autoexp.session import looking

    found = looking.plugins(f"autoexp.cli.{name}" for name in app.BUILTINS)
    if json:
        render.show_json(found.model_dump(mode="json"))
    else:
        render.show_plugins(found)
