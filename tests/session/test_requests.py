"""Requests to a run, each taken in once, also after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoexp.runs import events as ev
from autoexp.runs.journal import read
from autoexp.runs.records import Plan
from autoexp.session.requests import Request, planned, post, waiting
from autoexp.testing import Scripted, proposal, replayed, run
from autoexp.workspace.paths import RunPaths, Workspace


@pytest.mark.parametrize(
    ("target", "loops", "completed", "fresh", "after"),
    [
        (5, None, 2, True, 5),
        (5, 3, 2, True, 5),
        (5, 3, 5, True, 8),
        (5, 0, 2, True, 2),
        (5, 3, 2, False, 8),
        (5, 3, 9, False, 12),
        (5, None, 9, False, 5),
    ],
)
def test_more_loops_add_to_what_is_completed_or_at_work_to_what_is_planned(
    target: int, loops: int | None, completed: int, fresh: bool, after: int
) -> None:
    request = Request(kind="resume", loops=loops, changes={"workers": 2})
    assert planned(Plan(target=target), request, completed, fresh) == Plan(target=after, workers=2)


def test_they_wait_in_order_and_what_we_did_not_write_is_removed(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert waiting(paths) == []
    first = post(paths, Request(kind="resume", loops=1))
    second = post(paths, Request(kind="stop", now=True))
    (paths.requests / "9.json").write_text("{")
    (paths.requests / "note.txt").write_text("a person's")
    assert [(request.kind, path) for _, request, path in waiting(paths)] == [("resume", first), ("stop", second)]
    assert not (paths.requests / "9.json").exists()
    assert (paths.requests / "note.txt").exists()


def test_one_that_was_taken_in_just_before_a_crash_does_not_count_twice(workspace: Workspace) -> None:
    """Its event is in the journal, its file could not be removed any more."""
    ideas = Scripted(*[proposal(LR=value) for value in (0.04, 0.03, 0.02, 0.015)])
    run(workspace, 1, ideas)
    paths = workspace.run("test")
    left = post(paths, Request(kind="resume", loops=1))
    text = left.read_text()
    run(workspace, 1, ideas)
    assert replayed(paths).completed == 2
    left.write_text(text)
    run(workspace, 1, ideas)
    assert replayed(paths).completed == 3
    taken = [event.request for event in read(paths.journal) if isinstance(event, ev.PlanMade) and event.request]
    assert len(taken) == len(set(taken)) == 3
