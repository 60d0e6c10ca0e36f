from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoexp.cli.render import clean, cut, safe
from autoexp.runs.records import Trial
from autoexp.session.looking import Follower, LineReader
from autoexp.session.snapshot import load
from autoexp.workspace.paths import RunPaths


def test_log_is_a_line_a_trial(finished: Any) -> None:
    head, *lines, standing = finished("log").stdout.splitlines()

    assert head.split() == ["#", "commit", "val_bpb", "delta", "GB", "time", "decision", "by", "description"]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    assert standing.startswith("claimed, not audited")
    assert "-0.032000" in lines[1] and "keep" in lines[1] and "日本語 [red]" in lines[1]
    assert "crash" in lines[2] and "out of luck" in lines[2]
    assert "discard" in lines[3]
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


def test_log_can_be_short(finished: Any) -> None:
    assert len(finished("log", "--last", "2").stdout.splitlines()) == 4  # the header, the two, and what the gain is


def test_log_as_json_is_the_list_of_trials(finished: Any) -> None:
    trials = [Trial.model_validate(fields) for fields in finished.json("log")]

    assert [trial.decision for trial in trials] == ["keep", "keep", "crash", "discard"]
    assert [fields["iteration"] for fields in json.loads(finished("log", "--json", "--last", "1").stdout)] == [3]


def test_log_fits_a_narrow_terminal(finished: Any) -> None:
    seen = finished.terminal("log", columns=60)

    assert seen.finish() == 0
    assert all(len(line) <= 60 for line in seen.text.splitlines())
    assert "Unlucky" in seen.text and "commit" not in seen.text


def test_show_a_trial(finished: Any) -> None:
    said = finished("show", "1").stdout

    for part in (
        "keep",
        "1.004000  -0.032000",
        "Halve the rate [31m日本語 [red]",
        "Because the loss is noisy at the end.",
        "set LR = 0.02",
        "/0001-1",
        "-LR = 0.04\n+LR = 0.02",
        "peak_vram_mb 2048",
        "by         proposal_file",
        "val_bpb: 1.004000",
        "iterations/0001/proposal.json",
    ):
        assert part in said
    assert "\x1b" not in said


def test_show_the_baseline_and_a_crash(finished: Any) -> None:
    assert "val_bpb    1.036000" in finished("show", "0").stdout

    crash = finished("show", "2", "--tail", "1").stdout

    assert "exit code 1" in crash and "give_up" in crash
    assert "out of luck" in crash and "step 7" not in crash


def test_show_as_json(finished: Any) -> None:
    found = finished.json("show", "1")

    assert found.keys() >= {
        "iteration",
        "proposal",
        "commit",
        "ref",
        "base",
        "diff",
        "attempts",
        "decision",
        "why",
        "files",
    } | {"value", "delta", "log_tail", "stage"}
    assert found["attempts"][0]["outcome"]["metric"] == found["value"] == 1.004


def test_show_an_unknown_number_names_the_valid_ones(finished: Any) -> None:
    said = finished("show", "9", code=1).stderr

    assert "has no iteration 9: it has 0 to 3" in said
    assert "autoexp show 3" in said


def test_show_where_there_is_no_iteration_yet(cli: Any) -> None:
    cli("start", "--only", "setup", "--no-background-train")

    assert "no iteration yet" in cli("show", "0", code=1).stderr
    assert cli.json("log") == []


def test_show_and_log_what_is_under_way(gated: tuple[Any, Callable[[], None]]) -> None:
    cli, _ = gated
    said = cli("show", "0").stdout

    assert "under way, at train" in said and "loss 3.25" in said
    assert "at train: baseline" in cli("log").stdout


def test_a_candidate_that_git_lost_is_shown_from_its_patch(finished: Any, tmp_path: Path) -> None:
    copy = type(finished)(Path(shutil.copytree(finished.root, tmp_path / "copy", symlinks=True)))
    shutil.rmtree(copy.root / ".git" / "objects")

    assert "+LR = 0.02" in copy("show", "1").stdout


def test_plugins_in_calling_order_with_owners(finished: Any, tmp_path: Path) -> None:
    found = type(finished)(tmp_path).json("plugins")  # outside any workspace

    assert found["hooks"]["autoexp_train"][-1] == "autoexp.stages.train"
    assert found["hooks"]["autoexp_register_commands"][:2] == ["autoexp.cli.run", "autoexp.cli.look"]
    assert found["parts"]["executors"]["local"] == "autoexp.executors.local"
    assert set(found["parts"]) >= {"proposers", "agents", "executors", "rules", "trackers"}

    said = finished("plugins").stdout

    assert "third-party plugins" in said and "autoexp.stages.decide" in said


def test_a_follower_reads_a_journal_as_it_grows(finished: Any, tmp_path: Path) -> None:
    whole = (finished.run_folder() / "history.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    paths = RunPaths(tmp_path)
    paths.journal.write_bytes(lines[0])
    follower = Follower(paths)
    for line in lines[1:]:
        with paths.journal.open("ab") as file:
            file.write(line[:10])
        assert not follower.look()
        with paths.journal.open("ab") as file:
            file.write(line[10:])
        assert follower.look()

    assert follower.state == load(paths)

    paths.journal.write_bytes(b"".join(lines[:5]))

    assert follower.look()
    assert follower.state == load(paths)


def test_a_line_reader_gives_the_last_lines_then_the_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "runner.log"
    reader = LineReader(file, first=2)

    assert reader.lines() == []

    file.write_text("a\nb\nc\nto")

    assert reader.lines() == ["b", "c"]

    with file.open("ab") as more:
        more.write(b"rn\n\xff\n")

    assert reader.lines() == ["torn", "�"]

    file.write_text("new\n")

    assert reader.lines() == ["new"]


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("plain", 5, "plain"),
        ("plain!", 5, "plai…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("e\u0301" * 4, 4, "e\u0301" * 4),
    ],
)
def test_text_is_cut_by_the_cells_it_takes(text: str, cells: int, expected: str) -> None:
    assert cut(text, cells) == expected


def test_control_characters_become_harmless() -> None:
    assert clean("a\x1b[2Jb\r\n\tc\u202e\ud800") == "a [2Jb c"
    assert safe("+\tx\x1b[0m\r") == "+       x�[0m�"
