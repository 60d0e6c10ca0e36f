"""A person's proposals: in the right order, each exactly once, also through a crash, and none lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from autoexp.errors import ProposalError
from autoexp.testing import proposal
from autoexp.workspace import inbox
from autoexp.workspace.inbox import FILE, QUEUE, Queued, add, claim, parse, queued, remove
from autoexp.workspace.paths import RunPaths


class Notes:
    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, text: str, key: str) -> None:
        self.said.append(text)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    (tmp_path / "run").mkdir()
    return RunPaths(tmp_path / "run")


def described(item: Queued) -> str:
    return item.proposal.description if item.proposal else ""


def take(paths: RunPaths, iteration: int, notes: Notes | None = None, refusal: str = "") -> tuple[str, str] | None:
    """(description, source) of what is claimed."""
    found = claim(paths, iteration, notes or Notes(), refusal)
    return (found[0].description, found[1]) if found else None


def drop(paths: RunPaths, text: str) -> None:
    paths.override.write_text(text)


def words(description: str) -> str:
    return proposal(LR=0.5, description=description).model_dump_json()


def test_nothing_waits_in_a_new_run(paths: RunPaths) -> None:
    assert take(paths, 1) is None
    assert queued(paths) == []
    assert os.listdir(paths.folder) == []


def test_the_proposal_file_comes_first_then_the_override_then_the_queue_in_its_order(paths: RunPaths) -> None:
    add(paths, proposal(LR=0.1, description="queued first"))
    add(paths, proposal(LR=0.2, description="queued second"), QUEUE)
    drop(paths, words("dropped"))
    add(paths, proposal(LR=0.3, description="file"), FILE)
    assert [(q.number, described(q), q.source) for q in queued(paths)] == [
        (1, "file", "proposal_file"),
        (2, "queued first", "queue"),
        (3, "queued second", "queue"),
    ]
    assert [take(paths, n) for n in range(1, 6)] == [
        ("file", "proposal_file"),
        ("dropped", "next_proposal"),
        ("queued first", "queue"),
        ("queued second", "queue"),
        None,
    ]


def test_what_was_taken_is_kept_under_its_iterations_number(paths: RunPaths) -> None:
    drop(paths, words("dropped"))
    take(paths, 7)
    assert json.loads((paths.folder / "consumed_proposals" / "iter_0007.json").read_text())["description"] == "dropped"
    assert not paths.override.exists()


def test_after_a_crash_the_same_iteration_gets_the_same_proposal_and_no_other_does(paths: RunPaths) -> None:
    """The crash came between the taking and its event: the iteration asks again."""
    add(paths, proposal(LR=0.1, description="first"))
    add(paths, proposal(LR=0.2, description="second"))
    assert take(paths, 1) == ("first", "queue")
    assert take(paths, 1) == ("first", "queue")
    assert take(paths, 2) == ("second", "queue")
    assert take(paths, 3) is None


def test_a_crash_before_the_rename_leaves_it_to_be_taken(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(paths, words("dropped"))

    def crash(source: object, target: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(inbox.os, "replace", crash)
        take(paths, 1)
    assert take(paths, 1) == ("dropped", "next_proposal")
    assert take(paths, 2) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"x"',
        "\x00",
        '{"status": "ok"}',
        words("x").replace('"ok"', '"need_input"'),
        words("x").replace("x", " "),
    ],
)
def test_an_invalid_one_is_told_of_and_left_in_place_and_the_next_is_taken(paths: RunPaths, text: str) -> None:
    drop(paths, text)
    add(paths, proposal(LR=0.1, description="good"))
    notes = Notes()
    assert take(paths, 1, notes) == ("good", "queue")
    assert len(notes.said) == 1
    assert "next_proposal.json" in notes.said[0]
    assert "left in place" in notes.said[0]
    assert paths.override.read_text() == text
    drop(paths, words("mended"))
    assert take(paths, 2) == ("mended", "next_proposal")


def test_one_that_nobody_could_apply_is_left_in_place_with_the_reason(paths: RunPaths) -> None:
    drop(paths, proposal(description="words only").model_dump_json())
    notes = Notes()
    assert take(paths, 1, notes, refusal="there is no agent") is None
    assert "there is no agent" in notes.said[0]
    assert take(paths, 1, notes) == ("words only", "next_proposal")


def test_one_that_cannot_be_read_does_not_stop_the_run(paths: RunPaths) -> None:
    paths.override.mkdir()
    add(paths, proposal(LR=0.1, description="good"))
    notes = Notes()
    assert take(paths, 1, notes) == ("good", "queue")
    assert "cannot read" in notes.said[0]


def test_one_that_was_spoilt_between_reading_and_taking_is_put_aside(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor may write the file again at any time; what was renamed is what counts."""
    drop(paths, words("good"))
    add(paths, proposal(LR=0.1, description="next"))
    real = os.replace

    def spoil(source: Path, target: Path) -> None:
        if source == paths.override:
            drop(paths, "{spoilt")
        real(source, target)

    monkeypatch.setattr(inbox.os, "replace", spoil)
    assert take(paths, 1) == ("next", "queue")
    assert (paths.folder / "consumed_proposals" / "iter_0001.invalid").read_text() == "{spoilt"


def test_the_same_proposal_file_waits_once_the_same_idea_may_be_queued_twice(paths: RunPaths) -> None:
    """`resume --proposal-file` after a crash queues it again; two `autoexp propose` are two wishes."""
    one = proposal(LR=0.1)
    assert add(paths, one, FILE) == add(paths, one, FILE)
    assert add(paths, one) != add(paths, one)
    assert [q.source for q in queued(paths)] == ["proposal_file", "queue", "queue"]


def test_removing_takes_out_the_one_with_the_number(paths: RunPaths) -> None:
    for name in "abc":
        add(paths, proposal(LR=0.1, description=name))
    assert described(remove(paths, 2)) == "b"
    assert [described(q) for q in queued(paths)] == ["a", "c"]
    for number in (0, 3, -1):
        with pytest.raises(ProposalError, match=f"no queued proposal {number}"):
            remove(paths, number)


def test_a_bad_file_in_the_queue_is_listed_with_its_problem_and_can_be_removed(paths: RunPaths) -> None:
    add(paths, proposal(LR=0.1, description="good"))
    (paths.queue / "0-bad.json").write_text("{")
    (paths.queue / "0-latin.json").write_bytes(b"\xff")
    (paths.queue / "0-folder.json").mkdir()
    (paths.queue / "notes.txt").write_text("not in it")
    add(paths, proposal(LR=0.2, description="file"), FILE)
    items = queued(paths)
    assert [(item.number, item.path.name[:6], described(item)) for item in items] == [
        (1, items[0].path.name[:6], "file"),
        (2, "0-bad.", ""),
        (3, "0-fold", ""),
        (4, "0-lati", ""),
        (5, items[4].path.name[:6], "good"),
    ]
    assert [item.problem.split(":")[0] for item in items] == [
        "",
        "0-bad.json",
        "cannot read 0-folder.json",
        "0-latin.json",
        "",
    ]
    with pytest.raises(ProposalError, match=r"cannot remove .*0-folder\.json"):
        remove(paths, 3)
    assert remove(paths, 2).problem.startswith("0-bad.json: invalid proposal")
    assert not (paths.queue / "0-bad.json").exists()
    assert take(paths, 1) == ("file", "proposal_file")
    assert take(paths, 2) == ("good", "queue")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "invalid proposal"),
        (b'{"status": "ok", "x": 1}', "x: unknown key|description"),
        (words("x").replace("x", " ").encode(), "description: .*blank"),
        (b"\xff", "invalid proposal"),
    ],
)
def test_a_bad_proposal_is_told_where_and_what(data: bytes, said: str) -> None:
    with pytest.raises(ProposalError, match=said) as caught:
        parse(data, "my.json")
    assert str(caught.value).startswith("my.json: ")
    assert "schema" in caught.value.hint


def test_a_pipe_in_a_proposals_place_keeps_nobody_waiting_and_a_link_is_read(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    paths.folder.mkdir()
    os.mkfifo(paths.override)
    notes: list[str] = []
    assert inbox.claim(paths, 1, lambda text, key: notes.append(text), "") is None
    assert "no regular file" in notes[0]

    paths.override.unlink()
    fields = {"status": "ok", "description": "linked", "change_plan": "p", "commit_description": "c"}
    (paths.folder / "mine.json").write_text(json.dumps(fields))
    paths.override.symlink_to("mine.json")
    taken = inbox.claim(paths, 1, lambda text, key: None, "")

    assert taken is not None and taken[0].description == "linked" and taken[1] == "next_proposal"
    assert not paths.override.is_symlink() and paths.consumed(1).exists()
