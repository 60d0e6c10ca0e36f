"""init, prepare, doctor."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoexp.errors import UsageError
from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.session.readiness import Readiness
    from autoexp.workspace.scaffold import Made

MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(init)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(prepare)
    app.command()(doctor)


def init(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder; it is made if need be.")],
    profile: Annotated[str, typer.Option("--profile", help="The machine: auto, cpu or h100.")] = "auto",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="bundled, climbmix, or a file or folder of text (the profile's).")
    ] = None,
) -> None:
    """Make a workspace: a repository with a program, its policy and its settings. Overwrites nothing."""
    from autoexp.workspace.scaffold import init as make

    if not folder.strip():
        raise UsageError(
            "the folder has no name", "autoexp init my-research, or for the current folder: autoexp init ."
        )
    _show_made(make(Path(folder), profile, dataset), Path(folder))


def prepare(
    context: typer.Context,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="bundled, climbmix, or a file or folder of text (the settings').")
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="auto, cpu or h100 (the settings').")] = None,
) -> None:
    """Make the data ready. Does nothing where it is; other options go on to the prepare command."""
    from autoexp.session.preparing import prepare as make_ready

    for line in make_ready(dataset, profile, context.args):
        print(line)


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False) -> None:
    """Show what is ready and what is not, with the command that mends it. Changes nothing."""
    from autoexp.session.readiness import examine

    report = examine()
    if json:
        print(report.model_dump_json(indent=2))
    else:
        _show_readiness(report)
    if not report.ready:
        raise typer.Exit(3)


def _show_made(made: Made, folder: Path) -> None:
    for name in made.made:
        print(f"made  {name}")
    for name in made.kept:
        print(f"kept  {name}  (it was there and is as it was)")
    if not made.made and not made.kept:
        print("everything is there already")
    if made.profile is not None:
        data = f" on the data set {made.dataset}" if made.dataset else ""
        print(f"profile {made.profile}: trials of {made.budget_seconds:g} s{data}")
    if made.commit is not None:
        print(f"first commit: {made.commit[:7]}")
    lines = [] if folder.absolute() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    if made.to_commit:
        lines.append(f"git add {' '.join(made.to_commit)} && git commit -m 'Add autoexp'")
    lines += [] if made.data_ready else ["autoexp prepare"]
    print("next:")
    for line in [*lines, "autoexp start --loops 5"]:
        print(f"  {line}")


def _show_readiness(report: Readiness) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        mark, colour = MARKS[check.mark]
        console.print(Text(mark, style=colour), Text(f"{check.name:{width}}  {check.found}"))
        if check.mend:
            console.print(Text(f"  {'':{width}}  → {check.mend}", style="bold" if check.mark == "missing" else "dim"))
    missing = [check.name for check in report.checks if check.mark == "missing"]
    live = any(check.name == "runs" for check in report.checks)
    ready = "ready, and a run is at work: autoexp status" if live else "ready: autoexp start --loops 5"
    print(ready if report.ready else f"not ready: {', '.join(missing)}")
