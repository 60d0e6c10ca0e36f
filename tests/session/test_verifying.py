"""`autoexp verify`: a run that was left alone holds; whatever was changed in it is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoexp.runs.records import Replace
from autoexp.session.verifying import verified
from autoexp.testing import Scripted, git, make_workspace, proposal, run
from autoexp.workspace.paths import RunPaths, Workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run with keeps, a discard, a crash and a refusal, over two sessions."""
    workspace = make_workspace(tmp_path_factory.mktemp("finished") / "work")
    refused = proposal(Replace(op="replace", path="evaluate.py", old="/ 100", new="/ 1000"))
    steps = Scripted(proposal(LR=0.04), proposal(LR=0.5), proposal(LR=-1.0), refused, proposal(DEPTH=5))
    run(workspace, 3, steps)
    run(workspace, 2, steps)
    return workspace


@pytest.fixture
def copy(finished: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """The same, to be changed. Its worktree is gone: git knows it by where it was."""
    shutil.copytree(finished.root, tmp_path / "work", symlinks=True)
    yield Workspace(tmp_path / "work")


def test_a_run_that_was_left_alone_holds(finished: Workspace) -> None:
    found = verified(finished, finished.run("test"))
    assert found.holds, found.first
    assert [part.name for part in found.checks if part.result == "holds"] == [
        "journal",
        "sessions",
        "commits",
        "trainings",
        "views",
    ]
    assert [part.words for part in found.checks if part.result == "note"] == [
        "no report names the data that it was made with"
    ]


def edited(path: Path, change: Callable[[dict[str, Any]], Any], line: str) -> None:
    """Change the first line of a journal that has `line` in it."""
    lines = path.read_text().splitlines()
    number = next(n for n, text in enumerate(lines) if line in text)
    fields = json.loads(lines[number])
    change(fields)
    lines[number] = json.dumps(fields)
    path.write_text("\n".join(lines) + "\n")


def better_metric(copy: Workspace, paths: RunPaths) -> None:
    edited(paths.journal, lambda fields: fields["trial"].update(metric=0.5), '"type":"recorded"')


def lost_line(copy: Workspace, paths: RunPaths) -> None:
    lines = paths.journal.read_text().splitlines()
    del lines[next(n for n, text in enumerate(lines) if '"type":"recorded"' in text)]
    paths.journal.write_text("\n".join(lines) + "\n")


def damaged(copy: Workspace, paths: RunPaths) -> None:
    paths.journal.write_text(paths.journal.read_text().replace('"type":"decided"', '"type":"decoded"', 1))


def lost_ref(copy: Workspace, paths: RunPaths) -> None:
    git(copy.root, "update-ref", "-d", "refs/autoexp/test/0002-1")


def moved_ref(copy: Workspace, paths: RunPaths) -> None:
    git(copy.root, "update-ref", "refs/autoexp/test/0001-1", "refs/autoexp/test/0002-1")


def moved_best(copy: Workspace, paths: RunPaths) -> None:
    git(copy.root, "update-ref", "refs/autoexp/test/best", "refs/autoexp/test/0001-1")


def another_report(copy: Workspace, paths: RunPaths) -> None:
    log = paths.attempt(1, 1) / "train.log"
    log.write_text(log.read_text().replace("val_bpb: 1.0", "val_bpb: 0.0"))


def another_job(copy: Workspace, paths: RunPaths) -> None:
    job = paths.attempt(1, 1) / "job.json"
    fields = json.loads(job.read_text())
    fields["env"]["AUTOEXP_COMMIT"] = "0" * 40
    job.write_text(json.dumps(fields))


def another_table(copy: Workspace, paths: RunPaths) -> None:
    paths.results.write_text(paths.results.read_text().replace("discard", "keep", 1))


def another_state(copy: Workspace, paths: RunPaths) -> None:
    fields = json.loads(paths.state.read_text())
    fields["best"]["metric"] = 0.1
    paths.state.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (better_metric, "sessions: a line before line"),
        (lost_line, "journal: line"),
        (damaged, "journal: "),
        (lost_ref, "commits: refs/autoexp/test/0002-1 is gone"),
        (moved_ref, "commits: refs/autoexp/test/0001-1 holds"),
        (moved_best, "commits: refs/autoexp/test/best is not the best"),
        (another_report, "trainings: "),
        (another_job, "trainings: "),
        (another_table, "views: results.tsv is not what the journal adds up to"),
        (another_state, "views: state.json says another best"),
    ],
)
def test_what_was_changed_is_named(copy: Workspace, tamper: Callable[[Workspace, RunPaths], None], said: str) -> None:
    paths = copy.run("test")
    tamper(copy, paths)
    found = verified(copy, paths)
    assert not found.holds
    assert found.first.startswith(said)
    assert [part.result for part in found.checks].count("fails") == 1


@pytest.mark.parametrize("path", ["train.py", "evaluate.py"])
def test_a_commit_with_other_files_does_not_stand_for_the_candidate(copy: Workspace, path: str) -> None:
    """Journal, ref and all agree on a commit: but its files are not the program that was recorded."""
    paths = copy.run("test")
    old = git(copy.root, "rev-parse", "refs/autoexp/test/0002-1")
    git(copy.root, "checkout", "--quiet", "--detach", old)
    (copy.root / path).write_text((copy.root / path).read_text() + "\n# another\n")
    identity = ("-c", "user.name=Eve", "-c", "user.email=eve@example.org")
    git(copy.root, *identity, "commit", "--quiet", "--amend", "--all", "--message=the same")
    new = git(copy.root, "rev-parse", "HEAD")
    git(copy.root, "update-ref", "refs/autoexp/test/0002-1", new)
    data = paths.journal.read_text().replace(old, new)
    paths.journal.write_text("\n".join(_unhashed(line) for line in data.splitlines()) + "\n")
    found = verified(copy, paths)
    said = "do not hash to the recorded source" if path == "train.py" else f"changes {path}, which is not editable"
    assert found.first.startswith("commits: ") and said in found.first


def _unhashed(line: str) -> str:
    fields = json.loads(line)
    fields.pop("journal_sha256", None)
    return json.dumps(fields)


def test_a_torn_line_and_missing_files_are_told_and_are_no_failure(copy: Workspace) -> None:
    paths = copy.run("test")
    with paths.journal.open("a") as file:
        file.write('{"type":"no')
    shutil.rmtree(paths.attempt(1, 1))
    paths.results.unlink()
    found = verified(copy, paths)
    assert found.holds, found.first
    notes = " ".join(part.words for part in found.checks if part.result == "note")
    assert "torn" in notes and "1 have no files" in notes and "results.tsv" in notes
