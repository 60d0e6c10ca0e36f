"""A new run: its folder appears whole, in one rename, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoexp.errors import RunError, UsageError
from autoexp.plugins.manager import plugin_manager, versions
from autoexp.runs import journal
from autoexp.runs.events import Event, PlanMade, RunCreated
from autoexp.runs.records import Plan
from autoexp.runs.state import replay
from autoexp.session.views import write_state
from autoexp.workspace.files import explained
from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import CREATE_LOCK, RunPaths, Workspace, default_branch
from autoexp.workspace.repository import Repository, refs
from autoexp.workspace.settings import Settings

PATIENCE_SECONDS = 10.0
"""How long a start waits for another to make its run."""


def create_run(
    workspace: Workspace, settings: Settings, plan: Plan, run_id: str | None, branch: str | None
) -> RunPaths:
    """Make a run from what is checked out, or from `branch` where that exists already.

    Nothing but the run's folder is made; the branch and the worktrees come with its session.
    Raises RunError when the run exists, here or in the repository, UsageError for a bad name, PreconditionError
    without git or a commit.
    """
    repository = Repository(workspace)
    head = repository.head()
    if branch is not None and not repository.valid_branch(branch):
        raise UsageError(f"{branch!r} is no branch name", "autoexp start --branch autoresearch/my-idea")
    name = branch or _free_branch(repository)
    base = repository.resolve(f"refs/heads/{name}") or head
    if run_id is not None:
        workspace.run(run_id)  # a bad one is refused before anything is made
    with _alone(workspace):
        taken = repository.run_ids()
        paths = workspace.run(run_id or workspace.next_run_id(name, taken))
        if paths.journal.exists():
            raise _exists(paths)
        if paths.run_id in taken:
            raise RunError(
                f"run {paths.run_id!r} has candidates in this repository already ({refs(paths.run_id)}/): "
                "another worktree's, or a run's whose folder was deleted",
                "autoexp start with another --run-id",
            )
        return _made(workspace, paths, settings, plan, name, base)


def _made(workspace: Workspace, paths: RunPaths, settings: Settings, plan: Plan, branch: str, base: str) -> RunPaths:
    created = RunCreated(
        run_id=paths.run_id,
        branch=branch,
        base=base,
        seed=settings.run.seed,
        metric=settings.metric,
        settings=settings.model_dump(mode="json"),
        plugins=versions(plugin_manager()),
    )
    events: list[Event] = [created, PlanMade(plan=plan)]
    try:
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


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One start at a time: its number, its sweep and its rename would hit those of another. Raises RunError."""
    lock = Lock(workspace.runs / CREATE_LOCK)
    try:
        mine = lock.acquire(wait_seconds=PATIENCE_SECONDS)
    except OSError as error:
        raise explained(error, workspace.runs) from error
    if not mine:
        raise RunError(f"another start works in {workspace.runs}", "try again in a moment: autoexp start")
    try:
        yield
    finally:
        lock.release()


def _exists(paths: RunPaths) -> RunError:
    return RunError(
        f"run {paths.run_id!r} exists already", f"autoexp resume --run-id {paths.run_id}, or another --run-id"
    )


def _sweep(runs: Path) -> None:
    """Remove what a killed start left behind. A living one would hold the lock."""
    for folder in runs.glob(".new-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _move(temporary: Path, folder: Path) -> None:
    """Rename into place; into a folder that a person made in advance (with a next_proposal.json, say) file by file."""
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():
            raise
        if RunPaths(folder).journal.exists():
            shutil.rmtree(temporary, ignore_errors=True)
            raise _exists(RunPaths(folder)) from error
        for name in ("state.json", "history.jsonl"):  # the journal last: with it the run exists
            os.replace(temporary / name, folder / name)
        shutil.rmtree(temporary, ignore_errors=True)
