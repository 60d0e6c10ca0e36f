"""runs, log, show, plugins: look at what was done, and at what does it. They change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autoexp.cli.run import AsJson, RunId
from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.workspace.paths import RunPaths


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(runs)
    app.command()(log)
    app.command()(show)
    app.command()(plugins)


def runs(json: AsJson = False) -> None:
    """List all runs of the workspace, the oldest first."""
    from autoexp.cli import render
    from autoexp.session.listing import listed
    from autoexp.workspace.paths import find_workspace

    found = listed(find_workspace())
    if json:
        render.show_json([each.model_dump(mode="json") for each in found])
    else:
        render.show_runs(found)


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
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Instead, all that agents were asked and said, call by call.")
    ] = False,
    run_id: RunId = None,
    json: AsJson = False,
) -> None:
    """Show one iteration: its proposal, diff, numbers, attempts, decision and files."""
    from autoexp.cli import render
    from autoexp.session.looking import shown
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    if transcript:
        _transcript(workspace.existing(run_id), number, json)
        return
    found = shown(workspace, workspace.existing(run_id), number, tail)
    if json:
        render.show_json(found.model_dump(mode="json"))
    else:
        render.show_iteration(found)


def _transcript(paths: RunPaths, number: int, json: bool) -> None:
    from autoexp.cli import render
    from autoexp.cli.transcript import show_calls
    from autoexp.session.transcripts import calls

    found = calls(paths, number)
    if json:
        render.show_json([call.model_dump(mode="json") for call in found])
    else:
        show_calls(found)


def plugins(json: AsJson = False) -> None:
    """Show who implements each hook, and every proposer, agent, executor, rule and tracker."""
    from autoexp.cli import app, render
    from autoexp.session import looking

    found = looking.plugins(f"autoexp.cli.{name}" for name in app.BUILTINS)
    if json:
        render.show_json(found.model_dump(mode="json"))
    else:
        render.show_plugins(found)
