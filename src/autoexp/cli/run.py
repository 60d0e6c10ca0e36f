"""start, resume, status, watch, stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.workspace.paths import RunPaths, Workspace

RunId = Annotated[str | None, typer.Option("--run-id", help="The run; by default the newest (start: <branch>-rNNN).")]
Loops = Annotated[int | None, typer.Option("--loops", min=0, help="How many iterations to do, after the baseline.")]
Only = Annotated[str | None, typer.Option("--only", help="Stages to do: setup,baseline,loop or stages of the loop.")]
LoopOnly = Annotated[
    str | None, typer.Option("--loop-only", help="Stages of the loop: propose,apply,commit,train,triage,record,decide.")
]
FromStage = Annotated[str | None, typer.Option("--from-stage", help="First of setup, baseline, loop.")]
ToStage = Annotated[str | None, typer.Option("--to-stage", help="Last of setup, baseline, loop.")]
ProposalFile = Annotated[Path | None, typer.Option("--proposal-file", help="JSON file with the next proposal.")]
Stochastic = Annotated[
    bool | None, typer.Option("--no-stochastic/--stochastic", help="Ask no agent: the fallback proposer has the ideas.")
]
AutoPrepare = Annotated[
    bool | None, typer.Option("--auto-prepare/--no-auto-prepare", help="Prepare missing data in setup (default: yes).")
]
Background = Annotated[
    bool,
    typer.Option(
        "--background-train/--no-background-train", help="Work detached (default), or in this process until it is done."
    ),
]
ProposerName = Annotated[str | None, typer.Option("--proposer", help="Who has the ideas; see: autoexp plugins.")]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="Where trainings run.")]
RuleName = Annotated[str | None, typer.Option("--rule", help="What decides.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Trainings at the same time, one a device.")]
MaxHours = Annotated[str | None, typer.Option("--max-hours", help="Open no iteration after so many hours of work.")]
MaxTrials = Annotated[str | None, typer.Option("--max-trials", help="... after so many trainings, of whatever kind.")]
MaxCost = Annotated[str | None, typer.Option("--max-cost", help="... after so many US dollars, as agents report them.")]
MaxTokens = Annotated[str | None, typer.Option("--max-tokens", help="... after so many tokens, as agents report them.")]
Until = Annotated[str | None, typer.Option("--until", help="... once the best metric is as good as this.")]
Plateau = Annotated[str | None, typer.Option("--plateau", help="... after so many iterations in a row without a keep.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(start)
    app.command()(resume)
    app.command()(status)
    app.command()(watch)
    app.command()(stop)


def start(
    loops: Loops = None,
    run_id: RunId = None,
    branch: Annotated[str | None, typer.Option("--branch", help="The run's branch (autoresearch/<mmmdd>).")] = None,
    only: Only = None,
    loop_only: LoopOnly = None,
    from_stage: FromStage = None,
    to_stage: ToStage = None,
    proposal_file: ProposalFile = None,
    no_stochastic: Stochastic = None,
    auto_prepare: AutoPrepare = None,
    background_train: Background = True,
    proposer: ProposerName = None,
    executor: ExecutorName = None,
    rule: RuleName = None,
    workers: Workers = None,
    max_hours: MaxHours = None,
    max_trials: MaxTrials = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    until: Until = None,
    plateau: Plateau = None,
    json: AsJson = False,
) -> None:
    """Begin a run: set-up, baseline, then --loops iterations, or as many as a budget allows."""
    from autoexp.runs.plan import select
    from autoexp.session.create import create_run
    from autoexp.session.planning import first_plan
    from autoexp.workspace.paths import find_workspace
    from autoexp.workspace.settings import load

    workspace = find_workspace()
    settings = load(workspace)
    stages = select(only, loop_only, from_stage, to_stage)
    changes = _changes(no_stochastic, auto_prepare, proposer, executor, rule, workers)
    changes |= _budget(max_hours, max_trials, max_cost, max_tokens, until, plateau)
    plan = first_plan(settings, stages, loops, changes)
    proposal = _proposal(proposal_file)
    paths = create_run(workspace, settings, plan, run_id, branch)
    _queue(paths, proposal)
    _work(workspace, paths, background_train, json)


def resume(
    loops: Loops = None,
    run_id: RunId = None,
    only: Only = None,
    loop_only: LoopOnly = None,
    from_stage: FromStage = None,
    to_stage: ToStage = None,
    proposal_file: ProposalFile = None,
    no_stochastic: Stochastic = None,
    auto_prepare: AutoPrepare = None,
    background_train: Background = True,
    proposer: ProposerName = None,
    executor: ExecutorName = None,
    rule: RuleName = None,
    workers: Workers = None,
    max_hours: MaxHours = None,
    max_trials: MaxTrials = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    until: Until = None,
    plateau: Plateau = None,
    json: AsJson = False,
) -> None:
    """Go on with a run: finish what is under way, then do --loops more (left out: what was asked for before).

    Hours, trainings, dollars and tokens are that many more, from now; 0 or none lifts a limit.
    """
    from autoexp.runs.journal import check
    from autoexp.session.background import submit
    from autoexp.session.planning import checked, stage_changes
    from autoexp.session.requests import Request
    from autoexp.workspace.paths import find_workspace
    from autoexp.workspace.settings import load

    workspace = find_workspace()
    paths = workspace.existing(run_id)
    check(paths.journal)  # a journal of a newer release is refused here, before anything is written
    changes = _changes(no_stochastic, auto_prepare, proposer, executor, rule, workers)
    changes |= _budget(max_hours, max_trials, max_cost, max_tokens, until, plateau)
    changes |= stage_changes(only, loop_only, from_stage, to_stage)
    checked(load(workspace), changes)
    _queue(paths, _proposal(proposal_file))
    taken = submit(paths, Request(kind="resume", loops=loops, changes=changes))
    if taken == "idle":
        _work(workspace, paths, background_train, json)
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
    from autoexp.session.stopping import stop_run
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    paths = workspace.existing(run_id)
    tell(paths, json, stop_run(workspace, paths, now))


def _changes(
    no_stochastic: bool | None,
    auto_prepare: bool | None,
    proposer: str | None,
    executor: str | None,
    rule: str | None,
    workers: int | None,
) -> dict[str, Any]:
    """The fields of the plan that the flags set."""
    stochastic = None if no_stochastic is None else not no_stochastic
    named = {"proposer": proposer, "executor": executor, "rule": rule, "workers": workers}
    named |= {"stochastic": stochastic, "auto_prepare": auto_prepare}
    return {name: value for name, value in named.items() if value is not None}


def _budget(
    max_hours: str | None,
    max_trials: str | None,
    max_cost: str | None,
    max_tokens: str | None,
    until: str | None,
    plateau: str | None,
) -> dict[str, Any]:
    """The limits of the plan that the flags set or lift. Raises UsageError."""
    from autoexp.session.planning import limits

    named = {"max_hours": max_hours, "max_trials": max_trials, "max_cost": max_cost, "max_tokens": max_tokens}
    found = limits({**named, "until": until, "plateau": plateau})
    return {"budget": found} if found else {}


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
    """Work on the run here, or have it worked on; then tell how it stands."""
    from autoexp.session import background as detached

    if not background:
        from autoexp.session.loop import Session, printer

        Session(workspace, paths, say=(lambda line: None) if as_json else printer()).run()
        if as_json:
            tell(paths, True)
        return
    detached.spawn(paths)
    detached.raise_if_failed(paths)
    if sys.stdout.isatty() and not as_json:
        from autoexp.cli.live import watch as attach

        attach(paths)
    else:
        tell(paths, True)


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
