"""A new run: made whole or not at all, one at a time, under a name that nobody else has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoexp.errors import RunError, UsageError
from autoexp.runs.records import Plan
from autoexp.session import create
from autoexp.session.create import create_run
from autoexp.testing import git, replayed
from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import CREATE_LOCK, RunPaths, Workspace
from autoexp.workspace.settings import load


def made(workspace: Workspace, run_id: str | None = None, branch: str | None = "b") -> RunPaths:
    return create_run(workspace, load(workspace), Plan(), run_id, branch)


STARTS = """
import sys
from pathlib import Path
from autoexp.errors import RunError
from autoexp.runs.records import Plan
from autoexp.session.create import create_run
from autoexp.workspace.paths import Workspace
from autoexp.workspace.settings import load

workspace = Workspace(Path(sys.argv[1]))
settings = load(workspace)
for number in range(6):
    create_run(workspace, settings, Plan(), None, "b")
    try:
        create_run(workspace, settings, Plan(), f"named-{number}", "b")
    except RunError:
        pass
"""


def test_starts_at_once_each_make_a_run_of_their_own(workspace: Workspace) -> None:
    """Neither sweeps what the other is making, nor takes its number; of one name there is one run."""
    starts = [
        subprocess.Popen([sys.executable, "-c", STARTS, str(workspace.root)], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(start.communicate()[1], start.returncode) for start in starts] == [("", 0)] * 3
    numbered = [f"b-r{number:03d}" for number in range(1, 19)]
    assert sorted(workspace.run_ids()) == [*numbered, *(f"named-{number}" for number in range(6))]
    for name in workspace.run_ids():
        assert replayed(workspace.run(name)).run_id == name
    assert not list(workspace.runs.glob(".new-*"))


def test_what_a_killed_start_left_is_swept_by_the_next_one_that_is_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = workspace.runs / ".new-left"
    left.mkdir(parents=True)
    other = Lock(workspace.runs / CREATE_LOCK)
    assert other.acquire()
    monkeypatch.setattr(create, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(RunError, match="another start works"):
        made(workspace)
    assert left.exists()
    other.release()
    made(workspace)
    assert not left.exists()


def test_a_run_that_exists_is_left_as_it_is(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = made(workspace, "r")
    before = {file: file.read_bytes() for file in (paths.journal, paths.state)}
    with pytest.raises(RunError, match="exists already"):
        made(workspace, "r")
    real, seen = Path.exists, []

    def late(self: Path) -> bool:  # the run appears between the look and the rename, made by an older release
        if self == paths.journal and not seen:
            seen.append(self)
            return False
        return real(self)

    monkeypatch.setattr(Path, "exists", late)
    with pytest.raises(RunError, match="exists already"):
        made(workspace, "r")
    assert {file: file.read_bytes() for file in before} == before
    assert not list(workspace.runs.glob(".new-*"))


def test_a_folder_made_in_advance_becomes_the_run(workspace: Workspace) -> None:
    folder = workspace.runs / "r"
    folder.mkdir(parents=True)
    (folder / "next_proposal.json").write_text("{}")
    assert replayed(made(workspace, "r")).run_id == "r"
    assert (folder / "next_proposal.json").read_text() == "{}"


def test_a_name_whose_refs_are_another_worktrees_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    """Refs are the repository's, runs are the workspace's: the candidates of the other run would be overwritten."""
    git(workspace.root, "worktree", "add", "--quiet", str(tmp_path / "other"))
    for name in ("night", "b-r004"):
        git(workspace.root, "update-ref", f"refs/autoexp/{name}/0001-1", "HEAD")
    other = Workspace(tmp_path / "other")
    with pytest.raises(RunError, match="'night' has candidates in this repository already") as caught:
        made(other, "night")
    assert "--run-id" in caught.value.hint
    assert made(other, "nigh").run_id == "nigh"
    assert made(other).run_id == "b-r005"


@pytest.mark.parametrize("run_id", ["v1..2", "foo.lock", "a/b"])
def test_a_name_that_git_refuses_is_refused_before_anything_is_made(workspace: Workspace, run_id: str) -> None:
    with pytest.raises(UsageError, match="is no run id"):
        made(workspace, run_id)
    assert not workspace.runs.exists()


def test_a_branch_without_a_latin_letter_gives_a_run(workspace: Workspace) -> None:
    assert made(workspace, branch="実験").run_id == "run-r001"
