"""Workspaces, runs, and their names."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from autoexp.errors import PreconditionError, RunError, UsageError
from autoexp.runs import journal
from autoexp.runs.events import RunCreated
from autoexp.runs.records import Metric
from autoexp.workspace import paths as module
from autoexp.workspace.paths import Workspace, cache_dir, default_branch, find_workspace
from autoexp.workspace.repository import Repository


def create(workspace: Workspace, run_id: str, at: float) -> None:
    folder = workspace.runs / run_id
    folder.mkdir(parents=True)
    created = RunCreated(at=at, run_id=run_id, branch="b", base="0" * 40, seed=0, metric=Metric())
    journal.create(folder / "history.jsonl", [created])


def test_the_workspace_is_the_checkout_around_the_current_directory(workspace: Workspace) -> None:
    inside = workspace.root / "a" / "b"
    inside.mkdir(parents=True)
    assert find_workspace(inside) == workspace
    assert find_workspace(workspace.root) == workspace


def test_a_worktree_of_the_user_is_a_workspace_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    """There .git is a file."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".git").write_text(f"gitdir: {workspace.root}/.git/worktrees/other\n")
    assert find_workspace(tmp_path / "other") == Workspace(tmp_path / "other")


@pytest.mark.parametrize("linked", [False, True])
def test_a_worktree_of_a_run_is_no_workspace(workspace: Workspace, tmp_path: Path, linked: bool) -> None:
    """A run in there would be wiped by the next candidate of the one around it."""
    if linked:
        (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
        (workspace.root / "workflows").symlink_to(tmp_path / "elsewhere" / "deep")
    create(workspace, "r", at=1.0)
    tree = workspace.run("r").worktree(0)
    Repository(workspace).checkout(tree, "HEAD")
    (tree / "sub").mkdir()
    for inside in (tree, tree / "sub"):
        with pytest.raises(PreconditionError, match=f"the workspace is {workspace.root}$") as caught:
            find_workspace(inside)
        assert caught.value.hint == f"cd {workspace.root}"
    assert find_workspace(workspace.root) == workspace


def test_outside_of_git_the_way_in_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="not in a git repository") as caught:
        find_workspace(tmp_path)
    assert "git init" in caught.value.hint


@pytest.mark.parametrize("run_id", ["a", "A-1_b.c", "autoresearch-mar8-r001", "9" * 100])
def test_a_run_id_is_a_plain_name(workspace: Workspace, run_id: str) -> None:
    assert workspace.run(run_id).folder == workspace.runs / run_id


@pytest.mark.parametrize(
    "run_id", ["", "..", ".hidden", "a/b", "-x", "a b", "ü", "a\n", "9" * 101, "../../etc", "v1..2", "foo.lock"]
)
def test_an_id_that_leads_elsewhere_is_refused(workspace: Workspace, run_id: str) -> None:
    with pytest.raises(UsageError, match="no run id"):
        workspace.run(run_id)


def test_the_newest_run_is_the_default_by_the_time_in_its_journal(workspace: Workspace) -> None:
    create(workspace, "zebra", at=1.0)
    create(workspace, "aardvark", at=3.0)
    create(workspace, "mouse", at=2.0)
    os.utime(workspace.runs / "zebra" / "history.jsonl")
    assert workspace.run_ids() == ["zebra", "mouse", "aardvark"]
    assert workspace.existing(None).run_id == "aardvark"
    assert workspace.existing("mouse").run_id == "mouse"


def test_a_folder_without_a_journal_is_no_run(workspace: Workspace) -> None:
    create(workspace, "good", at=1.0)
    create(workspace, ".new-half", at=2.0)
    (workspace.runs / "empty").mkdir()
    (workspace.runs / "torn").mkdir()
    (workspace.runs / "torn" / "history.jsonl").write_text('{"type": "run_created", "at": 5')
    (workspace.runs / "file").write_text("")
    assert workspace.run_ids() == ["good"]


def test_a_missing_run_is_refused_and_the_known_are_named(workspace: Workspace) -> None:
    with pytest.raises(RunError, match="there is no run yet"):
        workspace.existing(None)
    create(workspace, "known", at=1.0)
    with pytest.raises(RunError, match="there is no run 'other'") as caught:
        workspace.existing("other")
    assert "known" in caught.value.hint


def test_run_ids_count_up_from_the_highest_of_their_branch(workspace: Workspace) -> None:
    assert workspace.next_run_id("autoresearch/mar8") == "autoresearch-mar8-r001"
    for name in ("autoresearch-mar8-r001", "autoresearch-mar8-r009", "autoresearch-mar8-r1000", "other-r5000"):
        (workspace.runs / name).mkdir(parents=True)
    assert workspace.next_run_id("autoresearch/mar8") == "autoresearch-mar8-r1001"
    assert workspace.next_run_id("autoresearch/mar8", ["autoresearch-mar8-r1001", "x"]) == "autoresearch-mar8-r1002"
    assert workspace.next_run_id("実験") == "run-r001"
    assert workspace.next_run_id("Ünd so/weiter") == "nd-so-weiter-r001"
    workspace.run(workspace.next_run_id("x" * 300))  # whatever the branch, the id is valid


def test_the_default_branch_is_named_after_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(date):
        @classmethod
        def today(cls) -> Day:
            return cls(2026, 3, 8)

    monkeypatch.setattr(module, "date", Day)
    assert default_branch() == "autoresearch/mar8"


def test_the_cache_can_be_put_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOEXP_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("AUTOEXP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/autoexp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "autoexp"


def test_every_file_of_a_run_is_in_its_folder_and_none_is_named_twice(workspace: Workspace) -> None:
    run = workspace.run("r")
    names = ("journal", "state", "log", "output", "results", "lock", "requests", "override", "queue")
    files = [getattr(run, name) for name in names]
    files += [run.consumed(1), run.iteration(1), run.attempt(1, 1), run.attempt(1, 2), run.worktree(0), run.worktree(1)]
    assert len(set(files)) == len(files)
    assert all(file.is_relative_to(run.folder) for file in files)
