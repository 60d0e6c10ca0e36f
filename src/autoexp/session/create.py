"""A new run: its folder appears whole, in one rename, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from autoexp.errors import RunError, UsageError
from autoexp.plugins.manager import plugin_manager, versions
from autoexp.runs import journal
from autoexp.runs.events import Event, PlanMade, RunCreated
from autoexp.runs.records import Plan
from autoexp.runs.state import replay
from autoexp.session.views import write_state
from autoexp.workspace.files import explained
from autoexp.workspace.paths import RunPaths, Workspace, default_branch
from autoexp.workspace.repository import Repository
from autoexp.workspace.settings import Settings


def create_run(
    workspace: Workspace, settings: Settings, plan: Plan, run_id: str | None, branch: str | None
) -> RunPaths:
    """Make a run from what is checked out, or from `branch` where that exists already.

    Nothing but the run's folder is made; the branch and the worktrees come with its session.
    Raises RunError when the run exists, UsageError for a bad name, PreconditionError without git or a commit.
    """
    repository = Repository(workspace)
    head = repository.head()
    if branch is not None and not repository.valid_branch(branch):
        raise UsageError(f"{branch!r} is no branch name", "autoexp start --branch autoresearch/my-idea")
    name = branch or _free_branch(repository)
    base = repository.resolve(f"refs/heads/{name}") or head
    paths = workspace.run(run_id or workspace.next_run_id(name))
    if paths.journal.exists():
        raise RunError(
            f"run {paths.run_id!r} exists already", f"autoexp resume --run-id {paths.run_id}, or another --run-id"
        )
    created = RunCreated(
        run_id=paths.run_id,
        branch=name,
        base=base,
        seed=settings.run.seed,
        metric=settings.metric,
        settings=settings.model_dump(mode="json"),
        plugins=versions(plugin_manager()),
    )
    events: list[Event] = [created, PlanMade(plan=plan)]
    try:
        workspace.runs.mkdir(parents=True, exist_ok=True)
        _sweep(workspace.runs)
        temporary = RunPaths(Path(tempfile.mkdtemp(prefix=".new-", dir=workspace.runs)))
        temporary.folder.chmod(0o755)
        journal.create(temporary.journal, events)
        write_state(temporary, replay(events), temporary.journal.stat().st_size)
        _move(temporary.folder, paths.folder)
    except OSError as error:
        raise explained(error, paths.folder) from error
    return paths


def _free_branch(repository: Repository) -> str:
    first = name = default_branch()
    number = 1
    while repository.resolve(f"refs/heads/{name}") is not None:
        number += 1
        name = f"{first}-{number}"
    return name


def _sweep(runs: Path) -> None:
    """Remove what a killed start left behind."""
    for folder in runs.glob(".new-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _move(temporary: Path, folder: Path) -> None:
    """Rename into place; into a folder that a person made in advance (with a next_proposal.json, say) file by file."""
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():
            raise
        for name in ("state.json", "history.jsonl"):  # the journal last: with it the run exists
            if name == "history.jsonl" and (folder / name).exists():
                raise RunError(
                    f"run {folder.name!r} exists already", f"autoexp resume --run-id {folder.name}"
                ) from error
            os.replace(temporary / name, folder / name)
        shutil.rmtree(temporary, ignore_errors=True)
