"""How a training ended, by its exit, its report and what it printed. Law 5: only a real number counts."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from autoexp.runs.events import TrainingEnded
from autoexp.runs.journal import decode, encode
from autoexp.runs.records import Metric, Outcome
from autoexp.workspace.report import (
    LOG_FILE,
    METRICS,
    METRICS_FILE,
    NAME_CHARACTERS,
    REASON_CHARACTERS,
    REPORT_BYTES,
    REPORT_FILE,
    TAIL_BYTES,
    outcome,
    printed,
    progress,
)

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
        ("val_bpb: 1,234,567", 1234567.0),
        ("val_bpb: .5", 0.5),
        ("---\nval_bpb: 0.5\nval_bpb: soon\n", 0.5),
        ("\x1b[1m\x1b[32mval_bpb: 0.99\x1b[0m\n", 0.99),
        ("\x1b[1mval_bpb:\x1b[0m 0.99", 0.99),
        ("step 1\rstep 2\rval_bpb: 0.99\n", 0.99),
        ("step 1\r\nval_bpb: 0.99\r\nbye\r\n", 0.99),
        ("val_bpb: 0.99\rbye", 0.99),
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
        ("old_val_bpb: 0.5\nval_bpb_2: 0.5", "no val_bpb in what it printed (there are: old_val_bpb, val_bpb_2)"),
        ("val_bpb: 0.5 (approximately)", "no val_bpb in what it printed"),
        ("val_bpb: 0.9 (best so far)", "no val_bpb in what it printed"),
        ("val_bpb: 0.5\nval_bpb: 1.19 (final)", "no val_bpb in what it printed"),
        ("val_bpb: 0,998", "no val_bpb in what it printed"),
        ("val_bpb: 1,23", "no val_bpb in what it printed"),
        ("val_bpb: 12,34.5", "no val_bpb in what it printed"),
        ("val_bpb: 1_0", "no val_bpb in what it printed"),
        ("val_bpb: 0.9%", "no val_bpb in what it printed"),
        ("val_bpb: ٣", "no val_bpb in what it printed"),
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
        (2, "\x1b[31mred\x1b[0m \x07end", "exit code 2: red end"),
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


@pytest.mark.parametrize(
    ("status", "code", "ended_as"),
    [("exited", 1, "crash"), ("exited", 0, "crash"), ("lost", None, "lost"), ("killed", -15, "killed"),
     ("timeout", -9, "timeout")],
)  # fmt: skip
def test_a_done_training_keeps_its_checkpoint_however_its_evaluation_ended(
    tmp_path: Path, status: str, code: int | None, ended_as: str
) -> None:
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_text("weights")
    report = {"status": "evaluating", "phase": "evaluate", "checkpoint": str(checkpoint)}
    result = ended(tmp_path, report=report, status=status, code=code)
    assert (result.status, result.checkpoint) == (ended_as, str(checkpoint))
    assert ended(tmp_path, report={**report, "phase": "train"}, status=status, code=code).checkpoint is None


def test_what_the_keeper_did_is_told_and_no_signal_of_its_is_guessed_about(tmp_path: Path) -> None:
    assert ended(tmp_path, "x", code=-9, reason="its log passed 1 GiB").reason == "its log passed 1 GiB"
    assert ended(tmp_path, "x", code=3, reason="left: a (1)").reason == "left: a (1); exit code 3: x"
    assert ended(tmp_path, "val_bpb: 0.5", reason="left: a (1)").status == "success"


HUGE = "1" + "0" * 400
UNREAD = "no val_bpb in what it printed (its report cannot be read)"
FULL = '{"status": "failed", "reason": "told", '


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (FULL + f'"n": {HUGE}}}', "told"),
        (FULL + f'"training_seconds": {HUGE}, "peak_memory_mb": {HUGE}}}', "told"),
        (FULL + f'"n": {"9" * 5000}}}', "told"),
        (f'{{"val_bpb": {HUGE}}}', "val_bpb is inf"),
        (f'{{"val_bpb": -{"9" * 5000}}}', "val_bpb is -inf"),
        ("[" * 200_000, UNREAD),
        ('{"a": ' * 200_000, UNREAD),
        ('{"status": "failed", "reason": "\\ud800 oops"}', "\ufffd oops"),
        ('{"status": "failed", "reason": "a\\u0000b\\u001b[31mc\\u001b[0m\\r\\nd\\u0007"}', "a\ufffdbc\nd\ufffd"),
        ('{"status": "failed", "reason": [1]}', "exit code 0: x"),
        ('{"status": "failed", "reason": "  "}', "exit code 0: x"),
        ('{"status": "\\ud800"}', "exit code 0: x"),
        ('{"status": ["ok"]}', "exit code 0: x"),
        (b'{"status": "failed", "reason": "\xff"}', UNREAD),
        (json.dumps({"status": "failed", "phase": "evaluate", "checkpoint": "x" * 5000}), "exit code 0: x"),
        (json.dumps({"status": "failed", "phase": "evaluate", "checkpoint": "\x00"}), "exit code 0: x"),
        ('{"status": "failed", "phase": "evaluate", "checkpoint": "\\udc80"}', "exit code 0: x"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_no_report_can_stop_a_run(tmp_path: Path, report: str | bytes, reason: str) -> None:
    """What is read here is written to the journal, and read again by every resume."""
    (tmp_path / REPORT_FILE).write_bytes(report.encode() if isinstance(report, str) else report)
    (tmp_path / LOG_FILE).write_text("x")
    result = outcome(tmp_path, Metric(), "exited", 0, 1.0, "")
    assert (result.status, result.reason, result.checkpoint) == ("crash", reason, None)
    assert all(math.isfinite(value) for value in result.metrics.values())
    event = TrainingEnded(iteration=1, attempt=1, outcome=result)
    assert decode(encode(event), tmp_path, 1) == event


def test_a_long_reason_has_an_end(tmp_path: Path) -> None:
    result = ended(tmp_path, report={"status": "failed", "reason": "x" * 100_000})
    assert len(result.reason) == REASON_CHARACTERS
    assert result.reason.endswith("x…")


@pytest.mark.parametrize("printing", [True, False])
def test_the_metric_and_the_known_numbers_are_kept_of_very_many(tmp_path: Path, printing: bool) -> None:
    many = {f"number_{n}": float(n) for n in range(10_000)}
    numbers = {**many, "num_steps": 3.0, "training_seconds": 2.0, "val_bpb": 0.5, "n" * 1000: 1.0}
    log = "\n".join(f"{name}: {value}" for name, value in numbers.items()) if printing else ""
    result = ended(tmp_path, log, None if printing else numbers)
    assert len(result.metrics) == METRICS
    assert {"val_bpb", "num_steps", "training_seconds", "number_0"} <= result.metrics.keys()


def test_strange_names_of_numbers_are_fit_for_the_journal(tmp_path: Path) -> None:
    result = ended(tmp_path, report='{"val_bpb": 0.5, "\\ud800": 1, "a\\u0000": 2, "' + "n" * 5000 + '": 3}')
    assert result.metric == 0.5
    assert sorted(map(len, result.metrics)) == [1, 2, 7, NAME_CHARACTERS]
    assert all(name.isprintable() for name in result.metrics)


def test_a_report_too_large_to_be_one_is_none(tmp_path: Path) -> None:
    large = json.dumps({**GOOD, "curve": "x" * REPORT_BYTES})
    assert ended(tmp_path, "val_bpb: 0.1", large).metric == 0.1


def test_pipes_and_folders_in_the_place_of_files_keep_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / REPORT_FILE)
    os.mkfifo(tmp_path / LOG_FILE)
    assert outcome(tmp_path, Metric(), "exited", 0, 1.0, "").reason == UNREAD
    (tmp_path / REPORT_FILE).unlink()
    (tmp_path / REPORT_FILE).mkdir()
    assert outcome(tmp_path, Metric(), "exited", 0, 1.0, "").status == "crash"


def test_whatever_reading_raises_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, size: int) -> str:
        raise RuntimeError("\ud800 not thought of")

    monkeypatch.setattr("autoexp.workspace.report.tail", broken)
    result = outcome(tmp_path, Metric(), "exited", 0, 1.0, "")
    assert (result.status, result.metric) == ("crash", None)
    assert result.reason == "what it reported cannot be read: RuntimeError: \ufffd not thought of"


@pytest.mark.parametrize("name", ["val/loss", "eval loss", "acc@1", "f(x)+[a-z]*", "損失", "val.loss", "a: b", "1st"])
def test_a_metric_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / LOG_FILE).write_text(f"{name}: 0.3 now\n{name}: 0.7\n  {name} = 0.5\nthe {name}: 0.1\n{name}2: 0.2\n")
    result = outcome(tmp_path, Metric(name=name), "exited", 0, 1.0, "")
    assert (result.status, result.metric) == ("success", 0.5)
    assert result.metrics[name] == 0.5


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 4000, {}),
        (f'{{"step": 1, "loss": {HUGE}, "elapsed": NaN, "on": true}}', {"step": 1}),
        ('{"phase": "\\ud800", "step": null}', {"phase": "\ufffd"}),
    ],
)
def test_progress_is_fit_to_be_shown(tmp_path: Path, line: str, said: dict[str, Any]) -> None:
    (tmp_path / METRICS_FILE).write_text(line + "\n")
    assert progress(tmp_path) == said
