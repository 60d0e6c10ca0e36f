"""How a training ended, by its exit, its report and what it printed. Law 5: only a real number counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from autoexp.runs.records import Metric, Outcome
from autoexp.workspace.report import LOG_FILE, METRICS_FILE, REPORT_FILE, TAIL_BYTES, outcome, printed, progress

GOOD = {"status": "ok", "val_bpb": 0.9, "peak_memory_mb": 2048, "training_seconds": 300.5}


def ended(
    folder: Path,
    log: str | bytes = "",
    report: Any = None,
    status: str = "exited",
    code: int | None = 0,
    reason: str = "",
) -> Outcome:
    (folder / LOG_FILE).write_bytes(log.encode() if isinstance(log, str) else log)
    if report is not None:
        (folder / REPORT_FILE).write_text(report if isinstance(report, str) else json.dumps(report))
    return outcome(folder, Metric(), status, code, 1.5, reason)


@pytest.mark.parametrize(
    ("log", "metric"),
    [
        ("val_bpb: 0.997900", 0.9979),
        ("val_bpb: 1.5\nstep 3\nval_bpb: 0.9\n", 0.9),
        ("val_bpb: 9.979e-01", 0.9979),
        ("val_bpb: 1E+2", 100.0),
        ("val_bpb: 3", 3.0),
        ("val_bpb: -0.5", -0.5),
        ("val_bpb:           0.5\r\n", 0.5),
        ("  val_bpb : 0.5  ", 0.5),
        ("val_bpb = 0.5", 0.5),
        ("val_bpb: 1,234.5", 1234.5),
        ("---\nval_bpb: 0.5\nval_bpb: soon\n", 0.5),
        ("garbage \udcff\x00 before\nval_bpb: 0.5", 0.5),
    ],
)
def test_the_last_printed_summary_is_read(tmp_path: Path, log: str, metric: float) -> None:
    result = ended(tmp_path, log.encode(errors="surrogateescape"))
    assert (result.status, result.metric) == ("success", metric)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "no val_bpb in what it printed"),
        ("val_bpb", "no val_bpb in what it printed"),
        ("val_bpb: none", "no val_bpb in what it printed"),
        ("val_bpb: 0x10", "no val_bpb in what it printed"),
        ("best val_bpb: 0.5", "no val_bpb in what it printed"),
        ("old_val_bpb: 0.5\nval_bpb_2: 0.5", "no val_bpb in what it printed"),
        ("val_bpb: 0.5 (approximately)", "no val_bpb in what it printed"),
        ("val_bpb: nan", "val_bpb is nan"),
        ("val_bpb: 0.5\nval_bpb: NaN", "val_bpb is nan"),
        ("val_bpb: inf", "val_bpb is inf"),
        ("val_bpb: -Infinity", "val_bpb is -inf"),
        ("val_bpb: 1e999", "val_bpb is inf"),
    ],
)
def test_no_real_number_is_a_crash_and_never_zero(tmp_path: Path, log: str, reason: str) -> None:
    result = ended(tmp_path, log)
    assert (result.status, result.metric, result.reason) == ("crash", None, reason)


def test_a_number_before_the_end_of_a_huge_log_does_not_count(tmp_path: Path) -> None:
    """The summary is the last thing printed; what scrolled away is not searched for."""
    assert ended(tmp_path, "val_bpb: 0.5\n" + "x" * TAIL_BYTES).status == "crash"


@pytest.mark.parametrize(
    ("code", "log", "reason"),
    [
        (1, "Traceback\nValueError: too deep\n\n", "exit code 1: ValueError: too deep"),
        (3, "", "exit code 3: it printed nothing"),
        (2, "\x1b[31mred\x1b[0m \x07end", "exit code 2: [31mred[0m end"),
        (-9, "x", "killed by SIGKILL (out of memory?)"),
        (-11, "x", "killed by SIGSEGV"),
        (-200, "x", "killed by signal 200"),
    ],
)
def test_a_bad_exit_is_a_crash_even_with_a_number(tmp_path: Path, code: int, log: str, reason: str) -> None:
    result = ended(tmp_path, f"val_bpb: 0.5\n{log}" if log else "", code=code)
    assert (result.status, result.metric, result.exit_code) == ("crash", None, code)
    assert result.reason == reason


def test_the_report_is_believed_over_what_was_printed(tmp_path: Path) -> None:
    result = ended(tmp_path, "val_bpb: 0.1\npeak_vram_mb: 1", GOOD)
    assert (result.metric, result.memory_gb, result.training_seconds, result.wall_seconds) == (0.9, 2.0, 300.5, 1.5)


def test_numbers_may_stand_under_metrics(tmp_path: Path) -> None:
    result = ended(tmp_path, report={"metrics": {"val_bpb": 0.7, "loss": math.inf, "name": "x", "flag": True}})
    assert result.metric == 0.7
    assert result.metrics == {"val_bpb": 0.7}


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"status": "ok"}, "no val_bpb in its report"),
        ({"status": "ok", "val_bpb": None}, "no val_bpb in its report"),
        ({"status": "ok", "val_bpb": "0.5"}, "no val_bpb in its report"),
        ({"status": "ok", "val_bpb": True}, "no val_bpb in its report"),
        ('{"status": "ok", "val_bpb": NaN}', "val_bpb is nan"),
        ('{"status": "ok", "val_bpb": 1e999}', "val_bpb is inf"),
        ({"status": "failed", "reason": "diverged", "val_bpb": 0.5}, "diverged"),
        ({"status": "training", "val_bpb": 0.5}, "exit code 0: val_bpb: 0.1"),
    ],
)
def test_a_report_without_a_real_number_is_a_crash_whatever_was_printed(
    tmp_path: Path, report: Any, reason: str
) -> None:
    result = ended(tmp_path, "val_bpb: 0.1", report)
    assert (result.status, result.metric, result.reason) == ("crash", None, reason)


@pytest.mark.parametrize("report", ["", "{", "[1]", "null"])
def test_a_report_that_cannot_be_read_is_none(tmp_path: Path, report: str) -> None:
    assert ended(tmp_path, "val_bpb: 0.1", report).metric == 0.1


@pytest.mark.parametrize(
    ("status", "ended_as"), [("timeout", "timeout"), ("killed", "killed"), ("lost", "lost"), ("not_started", "crash")]
)
def test_what_was_ended_from_outside_has_no_metric(tmp_path: Path, status: str, ended_as: str) -> None:
    result = ended(tmp_path, "val_bpb: 0.5", GOOD, status=status, code=None, reason="because")
    assert (result.status, result.metric, result.reason) == (ended_as, None, "because")


def test_a_checkpoint_is_offered_when_only_the_evaluation_failed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    report = {"status": "failed", "phase": "evaluate", "checkpoint": str(checkpoint)}
    assert ended(tmp_path, "out of memory", report, code=1).checkpoint is None  # it is not there
    checkpoint.write_text("weights")
    assert ended(tmp_path, "out of memory", report, code=1).checkpoint == str(checkpoint)
    assert ended(tmp_path, "", {**report, "phase": "train"}, code=1).checkpoint is None
    assert ended(tmp_path, "", {**report, "checkpoint": 3}, code=1).checkpoint is None


def test_another_metric_and_other_memory_names(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("accuracy: 0.75\npeak_vram_mb: 1536\nval_bpb: 1")
    result = outcome(tmp_path, Metric(name="accuracy", direction="max"), "exited", 0, 1.0, "")
    assert (result.metric, result.memory_gb) == (0.75, 1.5)


def test_without_any_file_it_is_a_crash(tmp_path: Path) -> None:
    assert outcome(tmp_path, Metric(), "exited", 0, 1.0, "").status == "crash"


def test_printed_takes_only_whole_lines_of_a_name_and_a_number() -> None:
    assert printed("a: 1\nb=2\nnot this: 3\n4: 5\nc: x\n d : 6 ") == {"a": 1.0, "b": 2.0, "d": 6.0}


def test_progress_is_the_last_whole_line(tmp_path: Path) -> None:
    assert progress(tmp_path) == {}
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert progress(tmp_path) == {"step": 2}
