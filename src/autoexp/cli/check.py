"""audit, reproduce, ablate: does what the run says hold? verify: is what it says what it did?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from autoexp.cli.flags import Background
from autoexp.cli.run import AsJson
from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.session.standing import CheckShown
    from autoexp.workspace.paths import RunPaths, Workspace

Run = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; by default the newest.")]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Trainings of each program ([audit] seeds).")]


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(audit)
    app.command()(reproduce)
    app.command()(ablate)
    app.command()(verify)


def audit(run: Run = None, seeds: Seeds = None, background_train: Background = True, json: AsJson = False) -> None:
    """Train baseline and best again, with fresh seeds: does the claimed gain hold, also on text nobody has seen?"""
    from autoexp.session.opening import ask_audit
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    paths = workspace.existing(run)
    key = ask_audit(workspace, paths, seeds)
    _work(workspace, paths, key, background_train, json)


def reproduce(
    number: Annotated[int, typer.Argument(metavar="N", help="The trial; 0 is the baseline.")],
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Trainings: with its own seed, then with fresh ones (as needed).")
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="The run; by default the newest.")] = None,
    background_train: Background = True,
    json: AsJson = False,
) -> None:
    """Train a trial again from its commit, and compare. Exit code 0 when it comes to what was recorded, else 1."""
    from autoexp.session.opening import ask_reproduction
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    paths = workspace.existing(run_id)
    key = ask_reproduction(workspace, paths, number, seeds)
    shown = _work(workspace, paths, key, background_train, json, wait=True)
    if shown is None or shown.finding != "reproduced":
        raise typer.Exit(1)


def ablate(
    run: Run = None,
    seeds: Seeds = None,
    keep_simplified: Annotated[
        bool,
        typer.Option("--keep-simplified", help="Take the best without changes that carry nothing as the run's best."),
    ] = False,
    background_train: Background = True,
    json: AsJson = False,
) -> None:
    """Take each kept change out of the best and train the rest again: which of them carry the gain?"""
    from autoexp.session.opening import ask_ablation
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    paths = workspace.existing(run)
    key = ask_ablation(workspace, paths, seeds, keep_simplified)
    _work(workspace, paths, key, background_train, json)


def verify(run: Run = None, json: AsJson = False) -> None:
    """Recompute what the run has written down: journal, commits, reports, views, data. Changes nothing."""
    from autoexp.cli import render
    from autoexp.session.verifying import verified
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    found = verified(workspace, workspace.existing(run))
    if json:
        render.show_json(found.model_dump(mode="json"))
    else:
        for check in found.checks:
            mark, style = {"holds": ("✓", "green"), "note": ("·", "yellow"), "fails": ("✗", "red")}[check.result]
            render.say(f"{render.paint(mark, style)} {check.name:<10} {render.clean(check.words)}")
        render.say("everything holds" if found.holds else f"does not hold: {render.clean(found.first)}")
    if not found.holds:
        raise typer.Exit(1)


def _work(
    workspace: Workspace, paths: RunPaths, key: str, background: bool, as_json: bool, wait: bool = False
) -> CheckShown | None:
    """Have the check made, here or detached, and show what it found; None where it goes on without us."""
    from autoexp.session import background as detached

    if not background:
        from autoexp.session.loop import Session, printer

        Session(workspace, paths, say=(lambda line: None) if as_json else printer()).run()
        return _show(paths, key, as_json)
    detached.spawn(paths)
    detached.raise_if_failed(paths)
    if sys.stdout.isatty() and not as_json:
        from autoexp.cli.live import watch as attach

        attach(paths)
        return _show(paths, key, as_json)
    if wait:
        detached.wait_for_end(paths)
        detached.raise_if_failed(paths)
        return _show(paths, key, as_json)
    from autoexp.cli.run import tell

    tell(paths, True)
    return None


def _show(paths: RunPaths, key: str, as_json: bool) -> CheckShown:
    from autoexp.cli import render
    from autoexp.session.snapshot import load
    from autoexp.session.standing import check_shown

    state = load(paths)
    shown = check_shown(state, next(check for check in state.checks if check.key == key))
    if as_json:
        print(shown.model_dump_json(indent=2))
    else:
        render.show_check(shown)
    return shown
