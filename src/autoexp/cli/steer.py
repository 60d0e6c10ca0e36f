"""propose: what a person wants tried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoexp.cli.run import AsJson, RunId
from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.session.steering import Placed, Waiting


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(propose)


def propose(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The idea in words; an agent makes the edits.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Give a constant another value; repeatable.")
    ] = None,
    patch: Annotated[Path | None, typer.Option("--patch", help="A unified diff; - is standard input.")] = None,
    from_diff: Annotated[
        bool, typer.Option("--from-diff", help="My uncommitted edit of the editable files, which stays as it is.")
    ] = False,
    file: Annotated[Path | None, typer.Option("--file", help="A whole proposal in JSON; see --schema.")] = None,
    run_id: RunId = None,
    show: Annotated[bool, typer.Option("--list", help="Show what waits, in the order of its use.")] = False,
    remove: Annotated[int | None, typer.Option("--remove", metavar="N", help="Take number N of --list out.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a proposal.")] = False,
    json: AsJson = False,
) -> None:
    """Queue a change for a run to try next. It is checked now, on the run's best program so far."""
    from autoexp.session import steering
    from autoexp.workspace.paths import find_workspace

    if schema:
        print(steering.schema(), end="")
        return
    workspace = find_workspace()
    paths = workspace.existing(run_id)
    if remove is not None:
        _show_removed(steering.remove(paths, remove), json)
    elif show:
        _show_waiting(steering.waiting(paths), json)
    else:
        _show_placed(steering.propose(workspace, paths, text, sets or (), patch, from_diff, file), json)


def _show_placed(placed: Placed, as_json: bool) -> None:
    from autoexp.cli.render import clean, say

    if as_json:
        print(placed.model_dump_json(indent=2))
        return
    say(f"queued for {placed.run_id}: {clean(placed.proposal.description)}")
    say(f"  place {placed.place} of {placed.waiting}; it is used {placed.when}")
    if placed.not_included:
        say(f"  not included, for not editable: {clean(', '.join(placed.not_included))}")
    if placed.hint:
        say(f"  next: {placed.hint}")


def _show_waiting(queue: list[Waiting], as_json: bool) -> None:
    from autoexp.cli.render import clean, say, show_json

    if as_json:
        show_json([item.model_dump(mode="json") for item in queue])
        return
    for item in queue:
        said = f"cannot be used: {item.problem}" if item.problem else item.description
        said = f"{item.description}  [{said}]" if item.problem and item.description else said
        say(f"{item.number or '-':>3}  {item.source:13}  {clean(said)}")
    if not queue:
        say("nothing is queued")


def _show_removed(removed: Waiting, as_json: bool) -> None:
    from autoexp.cli.render import clean, say

    if as_json:
        print(removed.model_dump_json(indent=2))
    else:
        say(f"removed {removed.number}: {clean(removed.description)}")
