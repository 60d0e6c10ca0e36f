from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoexp.cli.live import Watched, chart, view
from autoexp.runs.records import Trial
from autoexp.session.looking import Row
from autoexp.workspace.paths import RunPaths

Gated = tuple[Any, Callable[[], None]]


def test_ctrl_c_detaches_and_the_run_goes_on(gated: Gated) -> None:
    cli, go_on = gated
    seen = cli.terminal("watch")
    seen.read_until("loss 3.25")
    text = seen.read_until("50%")

    assert "gated" in text and "train" in text and "3 left" in text and "123k tok/s" in text

    seen.type(b"\x03")

    assert seen.finish() == 0
    assert "detached; the run goes on: autoexp watch | autoexp stop" in seen.text
    assert cli.json("status")["live"]

    go_on()
    followed = cli("watch").stdout

    assert "done: 1 iteration" in followed
    assert not cli.json("status")["live"]
    assert cli.json("status")["iterations_completed"] == 1


def test_a_view_that_sees_the_end_leaves_the_summary(gated: Gated) -> None:
    cli, go_on = gated
    seen = cli.terminal("watch", columns=60, rows=12, NO_COLOR="1")
    seen.read_until("loss 3.25")
    go_on()

    assert seen.finish() == 0
    after = seen.raw.rpartition("\x1b[?1049l")[2]  # what is on the screen once the live view has left it
    assert "done: 1 iteration" in after
    assert "autoexp show" in after
    assert "\x1b[3" not in after


def test_a_view_that_is_ended_gives_the_terminal_back(gated: Gated) -> None:
    cli, _ = gated
    seen = cli.terminal("watch")
    seen.read_until("loss 3.25")
    seen.process.terminate()

    assert seen.finish() == 143
    assert seen.raw.rfind("\x1b[?1049l") > seen.raw.rfind("\x1b[?1049h")
    assert cli.json("status")["live"]


def test_pipes_get_plain_lines_as_they_happen_until_the_end(gated: Gated) -> None:
    cli, go_on = gated
    command = [sys.executable, "-m", "autoexp", "watch"]
    with subprocess.Popen(command, cwd=cli.root, env=cli.env, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        before = next(line for line in watching.stdout if "baseline train: started" in line)
        go_on()
        after = watching.stdout.read()

    assert watching.returncode == 0
    assert "iteration 1 decide: " in after
    assert "session closed: done" in after and "autoexp log" in after
    assert "\x1b" not in before + after


def test_a_run_that_has_ended_is_summed_up_at_once(finished: Any) -> None:
    said = finished("watch").stdout
    base = finished.json("log")[0]["commit"][:7]
    best = finished.json("status")["kept_commit"][:7]

    for part in ("done: 3 iterations", "better by 0.032000", "●", "autoexp log", "autoexp show 1", "crash"):
        assert part in said
    assert f"git diff {base}..{best}" in said
    assert "autoresearch/" in said


def test_a_run_that_failed_says_so_and_exits_with_its_code(cli: Any) -> None:
    (cli.root / "train.py").write_text("LR = 1\nraise SystemExit('broken \\x1b[2J')\n")
    cli.commit()
    cli("start", "--loops", "1", "--no-background-train", code=1)
    done = cli("watch", code=1)

    assert "error: the unchanged program does not train" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "broken" in done.stdout


def test_a_killed_session_is_no_success(finished: Any, tmp_path: Path) -> None:
    """A journal without a farewell: whatever worked on it was killed."""
    source = finished.run_folder() / "history.jsonl"
    folder = tmp_path / "workflows" / "runs" / "killed"
    folder.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    lines = [line for line in source.read_text().splitlines() if json.loads(line)["type"] != "session_closed"]
    (folder / "history.jsonl").write_text("\n".join(lines) + '\n{"type": "torn')
    done = type(finished)(tmp_path)("watch", code=1)

    assert "autoexp show 1" in done.stdout
    assert "killed" in done.stderr and "autoexp resume" in done.stderr


@pytest.mark.parametrize(("columns", "rows"), [(20, 5), (60, 20), (100, 35), (200, 60)])
def test_the_view_fits(finished: Any, columns: int, rows: int) -> None:
    watched = Watched(RunPaths(finished.run_folder()))
    watched.look()
    console = Console(file=io.StringIO(), width=columns, height=rows, force_terminal=True)
    lines = console.render_lines(view(watched, columns, rows), pad=False)

    assert all(sum(segment.cell_length for segment in line) <= columns for line in lines)
    assert rows < 20 or len(lines) <= rows
    assert not any("\x1b" in segment.text for line in lines for segment in line)


def _rows(*trials: tuple[float | None, str]) -> list[Row]:
    found, best = [], None
    for number, (metric, decision) in enumerate(trials):
        fields = {"iteration": number, "description": "x", "proposer": "x", "base": "", "commit": "", "ref": ""}
        status = "success" if metric is not None else "crash"
        trial = Trial.model_validate({**fields, "source": "", "status": status, "metric": metric, "decision": decision})
        best = metric if decision == "keep" else best
        found.append(Row(trial, None, False, best))
    return found


def test_the_chart_steps_towards_the_better() -> None:
    drawn = chart(_rows((2.0, "keep"), (None, "crash"), (1.5, "discard"), (1.0, "keep")), 30, height=3)

    assert drawn == [
        "   2.0000 ●─────────────────┐",
        "                      ·     │",
        "   1.0000                   ●─────",
        "          0                      3",
        "",
    ]


def test_the_chart_of_what_is_to_be_large_rises() -> None:
    drawn = chart(_rows((1.0, "keep"), (2.0, "keep")), 12, height=2)

    assert drawn[:2] == ["   2.0000       ●─────", "   1.0000 ●─────┘"]


def test_no_chart_without_a_gain_and_a_narrow_one_for_many_trials() -> None:
    assert chart(_rows((1.0, "keep"), (2.0, "discard")), 30) == []
    assert chart([], 30) == []

    many = _rows(*((1000.0 - n, "keep") for n in range(1000)))

    assert max(map(len, chart(many, 40))) <= 50
