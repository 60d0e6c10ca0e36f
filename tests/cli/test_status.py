from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoexp.session.status import Progress, status
from autoexp.workspace.paths import RunPaths

KEYS = {
    *("baseline_done", "baseline_metric", "best", "best_val_bpb", "branch", "counts", "direction", "ended"),
    *("eta_seconds", "hint", "in_progress", "iterations_completed", "kept_commit", "live", "metric", "notes"),
    *("paths", "phase", "pid", "queued", "run_id", "setup_done", "target", "waiting_on"),
}


def _contents(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_says_what_matters_and_what_to_type_next(finished: Any) -> None:
    said = finished("status").stdout

    assert "not running" in said
    assert "3 of 3 iterations: 1 kept, 1 discarded, 1 crashed" in said
    assert "1.036000 → 1.004000, better by 0.032000 (3.09%)" in said
    assert "iteration 1" in said and "Halve the rate" in said
    assert "autoexp resume --loops 5" in said
    assert "\x1b" not in said


def test_the_keys_of_its_json_stay(finished: Any) -> None:
    report = finished.json("status")

    assert set(report) >= KEYS
    assert {"run", "journal", "state", "log", "results", "train_log", "next_proposal"} <= set(report["paths"])
    assert {"iteration", "commit", "metric", "description", "gain"} <= set(report["best"])


def test_it_changes_nothing(finished: Any) -> None:
    before = _contents(finished.root)
    for args in (["status"], ["status", "--json"], ["log"], ["show", "1"], ["watch"]):
        finished(*args)

    assert before == _contents(finished.root)


def test_a_live_run(gated: tuple[Any, Callable[[], None]]) -> None:
    cli, _ = gated
    report = cli.json("status")
    said = cli("status").stdout

    assert report["live"] and report["pid"]
    assert report["in_progress"][0]["stage"] == "train"
    assert "live, pid" in said
    assert "autoexp watch" in said and "autoexp stop" in said


def test_what_a_trainer_writes_cannot_break_it(gated: tuple[Any, Callable[[], None]]) -> None:
    paths = RunPaths(gated[0].run_folder())
    metrics = paths.attempt(0, 1) / "metrics.jsonl"
    for junk in (
        b'{"step": "x", "loss": NaN, "progress": 7, "phase": 3, "elapsed": true}\n',
        b"[]\n{torn",
        b"\0\xff\n",
    ):
        metrics.write_bytes(junk)
        progress = status(paths).in_progress[0].progress

        assert progress is None or progress == Progress(fraction=1.0)


def test_it_does_without_the_state_file(finished: Any, tmp_path: Path) -> None:
    paths = RunPaths(Path(shutil.copytree(finished.run_folder(), tmp_path / "copy")))
    whole = status(paths)
    for broken in ("", "{}", "[1]", '{"journal_bytes": 1', "null"):
        paths.state.write_text(broken)

        assert status(paths) == whole


def test_colour_is_for_terminals_that_want_it(finished: Any) -> None:
    coloured = finished.terminal("status")
    plain = finished.terminal("status", NO_COLOR="1")
    dumb = finished.terminal("status", TERM="dumb")

    assert coloured.finish() == plain.finish() == dumb.finish() == 0
    assert re.search(r"\x1b\[1m", coloured.raw)
    assert "\x1b" not in plain.raw
    assert "\x1b" not in dumb.raw


def test_it_does_not_import_what_takes_long(finished: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "autoexp", "status"],
        cwd=finished.root,
        env=finished.env,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}

    assert not imported & {"rich", "git", "optuna", "numpy", "torch", "psutil"}


def test_another_run_than_the_newest_is_named_in_the_commands(cli: Any) -> None:
    cli("start", "--only", "setup", "--run-id", "old", "--no-background-train")
    cli("start", "--only", "setup", "--run-id", "new", "--no-background-train")

    assert "autoexp resume --run-id old" in cli("status", "--run-id", "old").stdout
    assert "--run-id" not in cli("status").stdout
