"""propose, as a command: what is queued, what is refused, and that each proposal is used exactly once."""

from __future__ import annotations

import difflib
import json
import time
from pathlib import Path

import pytest
from person import PATIENCE, PROGRAM, Person

from autoexp.session.background import live
from autoexp.workspace.paths import RunPaths
from autoexp.workspace.scaffold import template


def with_a_run(path: Path) -> Person:
    """Has a run with a baseline."""
    person = Person(path)
    person.workspace()
    person.types("start", "--run-id", "r", "--only", "setup,baseline", "--no-background-train")
    return person


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return with_a_run(tmp_path)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Whose every proposal is refused, which changes nothing: one workspace does for all."""
    return with_a_run(tmp_path_factory.mktemp("refused"))


def trained(person: Person, iteration: int) -> str:
    """The program of an iteration's candidate."""
    return person.git("show", f"refs/autoexp/r/{iteration:04d}-1:train.py")


def waiting(person: Person) -> list[str]:
    return [item["description"] for item in person.types("propose", "--list", "--json").json]


def diff(old: str, new: str, path: str = "train.py") -> str:
    return "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}"))


OTHER = PROGRAM.replace("Three constants", "Some constants")
POLICY = template("program.md")
TWO_FILES = (
    "diff --git a/train.py b/train.py\n"
    + diff(PROGRAM, OTHER)
    + "diff --git a/program.md b/program.md\n"
    + diff(POLICY, "mine\n" + POLICY, "program.md")
)


def test_two_proposals_are_used_once_each_in_order(person: Person) -> None:
    first = person.types("propose", "--set", "RATE=0.06").out
    second = person.types("propose", "Shallower, and only long windows", "--set", "DEPTH=2**1", "--set", "SHAPE=L").out

    assert first.splitlines()[0] == "queued for r: RATE = 0.06 (was 0.08)"
    assert "place 2 of 2" in second
    assert "next: autoexp resume --run-id r --loops 2" in second
    person.types("resume", "--loops", "2", "--no-background-train")
    assert waiting(person) == []
    assert "RATE = 0.06" in trained(person, 1)
    assert "DEPTH = 2 " in trained(person, 2)
    assert 'SHAPE = "L"' in trained(person, 2) or "SHAPE = 'L'" in trained(person, 2)
    table = (person.at / "results.tsv").read_text().splitlines()
    assert [row.split("\t")[4] for row in table[2:]] == ["RATE = 0.06 (was 0.08)", "Shallower, and only long windows"]
    assert "RATE is 0.06 already in the best so far" in person.fails("propose", "--set", "RATE=0.06", code=1)


def test_list_shows_the_order_of_use_and_remove_takes_one_out(person: Person) -> None:
    for depth in (5, 6, 7):
        person.types("propose", "--set", f"DEPTH={depth}")
    override = {"status": "ok", "description": "mine first", "change_plan": "c", "commit_description": "c"}
    (person.run_folder() / "next_proposal.json").write_text(json.dumps(override))

    assert "removed 2: DEPTH = 6 (was 4)" in person.types("propose", "--remove", "2").out
    assert waiting(person) == ["mine first", "DEPTH = 5 (was 4)", "DEPTH = 7 (was 4)"]
    assert person.types("propose", "--list").out.splitlines()[0] == "  -  next_proposal  mine first"
    assert "there is no queued proposal 3" in person.fails("propose", "--remove", "3", code=1)
    (person.run_folder() / "next_proposal.json").write_text("{")
    assert "cannot be used" in person.types("propose", "--list").out


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--set", "RAET=0.1"], 1, "did you mean RATE"),
        (["--set", "ZOOM=0.1"], 1, "there are: DEPTH, RATE, SHAPE"),
        (["--set", "RATE=0.080"], 1, "is 0.08 already in the baseline"),
        (["--set", "RATE=fast"], 1, "is no literal"),
        (["--set", "RATE='fast'"], 1, "of another kind"),
        (["--set", "RATE=True"], 1, "of another kind"),
        (["--set", "RATE=1e999"], 1, "is no literal"),
        (["--set", "RATE"], 2, "is not NAME=VALUE"),
        (["--set", "RATE=0.1", "--set", "RATE=0.2"], 2, "gives RATE twice"),
        (["--patch", "nowhere.diff"], 1, "cannot read nowhere.diff"),
        (["--patch", "a.diff", "--from-diff"], 2, "give one"),
        (["--file", "p.json", "--set", "RATE=0.1"], 2, "a whole proposal"),
        (["--from-diff"], 1, "no uncommitted edit of train.py"),
        (["simplify the schedule"], 3, "opencode is not on PATH"),
        (["--set", "RATE=0.1", "--run-id", "other"], 1, "there is no run 'other'"),
        ([], 2, "nothing to propose"),
        ([" "], 2, "nothing to propose"),
    ],
)
def test_refused_before_anything_is_queued(refused: Person, args: list[str], code: int, said: str) -> None:
    assert said in refused.fails("propose", *args, code=code)
    assert not (refused.run_folder() / "queue").exists()


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (diff(PROGRAM.replace("RATE", "SPEED"), PROGRAM), "the patch does not apply to the baseline"),
        (TWO_FILES, "it changes program.md"),
        (diff("", "x\n", "new.py").replace("a/new.py", "/dev/null"), "it changes new.py"),
        (diff(PROGRAM, "").replace("b/train.py", "/dev/null"), "it deletes train.py"),
        ("diff --git a/../x b/../x\n--- a/../x\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n", "does not apply"),
        ("", "it is empty"),
        ("hello\n", "does not apply"),
    ],
)
def test_a_patch_is_tried_now_and_touches_only_what_is_editable(refused: Person, patch: str, said: str) -> None:
    before = refused.git("count-objects")

    assert said in refused.fails("propose", "--patch", "-", code=1, stdin=patch)
    assert not (refused.run_folder() / "queue").exists()
    assert refused.git("status", "--porcelain") == ""
    assert refused.git("count-objects") == before


def test_a_patch_becomes_the_candidate(person: Person) -> None:
    (person.path / "my.diff").write_text(diff(PROGRAM, OTHER))

    said = person.types("propose", "--patch", str(person.path / "my.diff")).out
    person.types("resume", "--loops", "1", "--no-background-train")

    assert said.splitlines()[0] == "queued for r: train.py: +1 -1 lines"
    assert trained(person, 1) == OTHER


def test_a_bad_file_in_the_queue_stops_nothing(person: Person) -> None:
    queue = person.run_folder() / "queue"
    queue.mkdir()
    (queue / "1-bad.json").write_text("{")

    placed = person.types("propose", "--set", "RATE=0.06", "--json").json
    assert (placed["place"], placed["waiting"], placed["iteration"]) == (1, 1, 1)
    assert person.types("status", "--json").json["queued"] == 2
    listed = person.types("propose", "--list").out
    assert "2  queue          cannot be used: 1-bad.json: invalid proposal" in listed
    assert "RATE = 0.06" in listed
    assert "removed 2: 1-bad.json, which could not be used" in person.types("propose", "--remove", "2").out
    assert waiting(person) == ["RATE = 0.06 (was 0.08)"]
    fields = {"status": "ok", "description": "to \x1b[2Jnothing", "change_plan": "c", "commit_description": "m"}
    (queue / "1-odd.json").write_text(json.dumps(fields))
    assert "\x1b" not in person.types("propose", "--list").out, "a terminal is told nothing by what waits"


def test_an_editable_file_may_be_named_with_a_dot(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.workspace()
    settings = person.at / "autoexp.toml"
    settings.write_text(settings.read_text().replace('editable = ["train.py"]', 'editable = ["./train.py"]'))
    person.git("commit", "--quiet", "--all", "--message=dot")
    person.types("start", "--run-id", "r", "--only", "setup,baseline", "--no-background-train")
    edits = [{"op": "set", "name": "RATE", "value": 0.07, "path": "./train.py"}]
    (person.at / "p.json").write_text(
        json.dumps({"status": "ok", "description": "d", "change_plan": "c", "commit_description": "m", "edits": edits})
    )

    person.types("propose", "--file", "p.json")
    person.types("resume", "--loops", "1", "--no-background-train")

    assert "RATE = 0.07" in trained(person, 1)


def test_a_patch_made_without_prefixes_is_taken(person: Person) -> None:
    person.program(OTHER)
    patch = person.git("-c", "diff.noprefix=true", "diff")
    person.program()
    assert "--- train.py" in patch

    said = person.types("propose", "--patch", "-", stdin=patch).out
    person.types("resume", "--loops", "1", "--no-background-train")

    assert said.splitlines()[0] == "queued for r: train.py: +1 -1 lines"
    assert trained(person, 1) == OTHER


def test_text_is_replaced_in_a_file_with_crlf_and_in_any_encoding(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.git("init", "--quiet", "--initial-branch=main")
    program = b"# -*- coding: latin-1 -*-\r\n# caf\xe9\r\n" + PROGRAM.replace("\n", "\r\n").encode()
    (person.at / "train.py").write_bytes(program)
    person.types("init", ".")
    person.git("add", "--all")
    person.git("commit", "--quiet", "--message=The program")
    person.types("start", "--run-id", "r", "--only", "setup,baseline", "--no-background-train")
    edits = [{"op": "replace", "path": "train.py", "old": '"""\n\nRATE = 0.08', "new": '"""\n\nRATE = 0.07'}]
    (person.at / "p.json").write_text(
        json.dumps({"status": "ok", "description": "d", "change_plan": "c", "commit_description": "m", "edits": edits})
    )

    assert "queued for r: d" in person.types("propose", "--file", "p.json").out


def test_an_edit_of_the_checkout_is_taken_and_left_alone(person: Person) -> None:
    """Staged and unstaged edits, of this file and others, and the index survive bit by bit, also the training."""
    staged = PROGRAM.replace("RATE = 0.08", "RATE = 0.05")
    person.program(staged)
    (person.at / "program.md").write_text("my policy\n")
    person.git("add", "--all")
    person.program(mine := staged + "# no end of line at the end")
    person.git("config", "diff.noprefix", "true")
    person.git("config", "diff.context", "0")
    index = (person.at / ".git" / "index").read_bytes()

    said = person.types("propose", "--from-diff").out
    person.types("resume", "--loops", "1", "--no-background-train")

    assert said.splitlines()[0] == "queued for r: RATE = 0.05 (was 0.08), train.py: +2 -1 lines"
    assert "not included, for not editable: program.md" in said
    assert trained(person, 1) == mine
    assert (person.run_folder() / "worktrees" / "0" / "train.py").read_text() == mine
    assert (person.at / "train.py").read_text() == mine
    assert (person.at / ".git" / "index").read_bytes() == index


def test_an_edit_that_is_in_the_best_already_changes_nothing(person: Person) -> None:
    person.types("propose", "--set", "RATE=0.05")
    person.types("resume", "--loops", "1", "--no-background-train")
    person.program(PROGRAM.replace("RATE = 0.08", "RATE = 0.05"))

    assert "it changes nothing in the best so far (iteration 1" in person.fails("propose", "--from-diff", code=1)


def test_a_live_run_takes_a_proposal_in_and_the_hint_makes_room_for_another(tmp_path: Path) -> None:
    person = Person(tmp_path)
    hold = tmp_path / "hold"
    hold.touch()
    person.workspace(f"{PROGRAM}\nimport os, time\nwhile os.path.exists({str(hold)!r}):\n    time.sleep(0.01)\n")
    person.types("start", "--run-id", "r", "--loops", "1")

    first = person.types("propose", "--set", "RATE=0.06", "--json").json
    second = person.types("propose", "--set", "RATE=0.05", "--json").json
    assert (first["live"], first["iteration"], first["hint"]) == (True, 1, "")
    assert (second["live"], second["iteration"]) == (True, 2)
    assert second["hint"] == "autoexp resume --run-id r --loops 1"
    person.types(*second["hint"].split()[1:])
    hold.unlink()
    deadline = time.monotonic() + PATIENCE
    while live(RunPaths(person.run_folder())):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert ("RATE = 0.06" in trained(person, 1), "RATE = 0.05" in trained(person, 2)) == (True, True)
    assert person.types("status", "--json").json["iterations_completed"] == 2


def test_words_alone_are_for_an_agent(person: Person) -> None:
    person.has("opencode")

    placed = person.types("propose", "  Remove the\nwarm-up  ", "--json").json

    assert placed["proposal"]["description"] == "Remove the warm-up"
    assert placed["proposal"]["edits"] == []
    assert (placed["place"], placed["iteration"], placed["live"]) == (1, 1, False)


def test_a_file_is_a_whole_proposal(person: Person) -> None:
    proposal = {"status": "ok", "description": "d", "change_plan": "c", "commit_description": "m"}
    file = person.at / "p.json"

    def write(**changes: object) -> None:
        file.write_text(json.dumps({**proposal, **changes}))

    write(
        edits=[
            {"op": "replace", "path": "train.py", "old": "0.08", "new": "0.07"},
            {"op": "set", "name": "DEPTH", "value": 5},
        ]
    )
    assert "queued for r: d" in person.types("propose", "--file", "p.json").out
    for changes, code, said in (
        ({}, 3, "opencode is not on PATH"),
        ({"status": "need_input"}, 1, "must have status 'ok'"),
        ({"priority": 1}, 1, "unknown key"),
        ({"edits": [{"op": "replace", "path": "train.py", "old": "1", "new": "2"}]}, 1, "times, not once"),
        ({"edits": [{"op": "replace", "path": "program.md", "old": "1", "new": "2"}]}, 1, "is not editable"),
    ):
        write(**changes)
        assert said in person.fails("propose", "--file", "p.json", code=code)
    assert waiting(person) == ["d"]


def test_without_a_run_the_next_command_is_start(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.workspace()

    assert "try: autoexp start --loops 5" in person.fails("propose", "--set", "RATE=0.1", code=1)


def test_the_schema_needs_no_workspace(tmp_path: Path) -> None:
    assert Person(tmp_path).types("propose", "--schema").json["title"] == "autoexp proposal"
