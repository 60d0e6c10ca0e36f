"""start, resume, status, watch, stop."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoexp.cli.flags import Flags, flagged
from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.workspace.paths import RunPaths, Workspace

RunId = Annotated[str | None, typer.Option("--run-id", help="The run; by default the newest (start: <branch>-rNNN).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(start)
    app.command()(resume)
    app.command()(status)
    app.command()(watch)
    app.command()(stop)


@flagged
def start(
    flags: Flags,
    run_id: RunId = None,
    branch: Annotated[str | None, typer.Option("--branch", help="The run's branch (autoresearch/<mmmdd>).")] = None,
    json: AsJson = False,
) -> None:
    """Begin a run: set-up, baseline, then --loops iterations, or as many as a budget allows."""
    from autoexp.runs.plan import select
    from autoexp.session.background import beginning
    from autoexp.session.create import create_run
    from autoexp.session.planning import auditing, first_plan
    from autoexp.workspace.paths import find_workspace
    from autoexp.workspace.settings import load

    workspace = find_workspace()
    settings = load(workspace)
    stages = select(flags.only, flags.loop_only, flags.from_stage, flags.to_stage)
    plan = first_plan(settings, stages, flags.loops, flags.changes() | auditing(settings, flags.audit))
    proposal = _proposal(flags.proposal_file)
    with beginning(workspace) if run_id is None else nullcontext():
        paths = create_run(workspace, settings, plan, run_id, branch)
        _queue(paths, proposal)
        _work(workspace, paths, flags.background_train, json)
    _tell_work(paths, flags.background_train, json)


@flagged
def resume(flags: Flags, run_id: RunId = None, json: AsJson = False) -> None:
    """Go on with a run: finish what is under way, then do --loops more (left out: what was asked for before).

    Hours, trainings, dollars and tokens are that many more, from now; 0 or none lifts a limit.
    """
    from autoexp.runs.journal import check
    from autoexp.session.background import submit
    from autoexp.session.planning import auditing, checked, stage_changes
    from autoexp.session.requests import Request
    from autoexp.workspace.paths import find_workspace
    from autoexp.workspace.settings import load

    workspace = find_workspace()
    paths = workspace.existing(run_id)
    check(paths.journal)  # a journal of a newer release is refused here, before anything is written
    changes = flags.changes() | stage_changes(flags.only, flags.loop_only, flags.from_stage, flags.to_stage)
    settings = load(workspace)
    checked(settings, changes)
    changes |= auditing(settings, flags.audit)
    _queue(paths, _proposal(flags.proposal_file))
    taken = submit(paths, Request(kind="resume", loops=flags.loops, changes=changes))
    if taken == "idle":
        _work(workspace, paths, flags.background_train, json)
        _tell_work(paths, flags.background_train, json)
    else:
        said = "the run is live and takes it in" if taken == "taken" else "the run is busy and will take it in"
        tell(paths, json or not sys.stdout.isatty(), said)


def status(run_id: RunId = None, json: AsJson = False) -> None:
    """Show what a run is doing. Changes nothing."""
    from autoexp.workspace.paths import find_workspace

    tell(find_workspace().existing(run_id), json)


def watch(run_id: RunId = None) -> None:
    """Attach the live view to a run. Ctrl-C detaches it; the run goes on."""
    from autoexp.cli.live import watch as attach
    from autoexp.workspace.paths import find_workspace

    attach(find_workspace().existing(run_id))


def stop(
    run_id: RunId = None,
    now: Annotated[bool, typer.Option("--now", help="End the trainings too; resume trains them again.")] = False,
    json: AsJson = False,
) -> None:
    """Stop a run at a safe point: iterations under way are finished first, unless --now."""
    from autoexp.session.stopping import stop_run, to_stop
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    paths = to_stop(workspace, run_id)
    tell(paths, json, stop_run(workspace, paths, now))


def _proposal(file: Path | None) -> Any:
    """Read --proposal-file before anything is made, so that a bad one costs nothing."""
    if file is None:
        return None
    from autoexp.session.steering import from_file

    return from_file(file)


def _queue(paths: RunPaths, proposal: Any) -> None:
    if proposal is not None:
        from autoexp.workspace.inbox import FILE, add

        add(paths, proposal, FILE)


def _work(workspace: Workspace, paths: RunPaths, background: bool, as_json: bool) -> None:
    """Work on the run here until it is done, or have it worked on."""
    if background:
        from autoexp.session.background import spawn

        spawn(paths)
    else:
        from autoexp.session.loop import Session, printer

        Session(workspace, paths, say=(lambda line: None) if as_json else printer()).run()


def _tell_work(paths: RunPaths, background: bool, as_json: bool) -> None:
    """What came of that; on a terminal, what comes of it."""
    from autoexp.session.background import raise_if_failed

    if background:
        raise_if_failed(paths)
    if as_json or (background and not sys.stdout.isatty()):
        tell(paths, True)
        return
    from autoexp.cli.live import Watched, summarise, watch

    if background:
        watch(paths)
    else:
        summarise(Watched(paths))


def tell(paths: RunPaths, as_json: bool, first: str = "") -> None:
    """How the run stands, for a person or as JSON."""
    from autoexp.session.status import status as look

    report = look(paths)
    if as_json:
        print(report.model_dump_json(indent=2))
        return
    from autoexp.cli.render import show_status

    if first:
        print(first)
    show_status(report)
