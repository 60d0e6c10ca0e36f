"""What a trainer said of itself: report.json, or the summary it printed."""

from __future__ import annotations

import json
import math
import re
import signal
from pathlib import Path
from typing import Any

from autoexp.runs.records import Metric, Outcome
from autoexp.workspace.files import tail
from autoexp.workspace.paths import LOG_FILE, METRICS_FILE, REPORT_FILE

TAIL_BYTES = 1 << 20
"""How much of a log's end is searched for the summary: it is the last thing printed."""


def outcome(folder: Path, metric: Metric, status: str, code: int | None, wall_seconds: float, reason: str) -> Outcome:
    """How the training in `folder` ended. `status` and `code` are its keeper's words (`spec.ports.Exit`).

    A success exited with 0 and has a finite metric in its report, or in the last summary it printed. A report that
    says it failed, or is not finished, is believed over anything printed.
    """
    log = tail(folder / LOG_FILE, TAIL_BYTES)
    report = _report(folder / REPORT_FILE)
    numbers = _numbers(report) if report is not None else printed(log)
    known: dict[str, Any] = {
        "exit_code": code,
        "metrics": {name: value for name, value in numbers.items() if math.isfinite(value)},
        "memory_gb": round(_first(numbers, "peak_memory_mb", "peak_vram_mb") / 1024, 1),
        "training_seconds": numbers.get("training_seconds"),
        "wall_seconds": wall_seconds,
    }
    if status != "exited":
        ended = status if status in ("timeout", "killed", "lost") else "crash"
        return Outcome.model_validate({"status": ended, "reason": reason, **known})
    unfinished = report is not None and report.get("status") not in (None, "ok")
    if code != 0 or unfinished:
        checkpoint = report.get("checkpoint") if report and report.get("phase") == "evaluate" else None
        if not (isinstance(checkpoint, str) and Path(checkpoint).is_file()):
            checkpoint = None
        said = str(report.get("reason") or "") if report else ""
        return Outcome(status="crash", reason=said or _last_line(log, code), checkpoint=checkpoint, **known)
    value = numbers.get(metric.name)
    if value is None:
        where = "its report" if report is not None else "what it printed"
        return Outcome(status="crash", reason=f"no {metric.name} in {where}", **known)
    if not math.isfinite(value):
        return Outcome(status="crash", reason=f"{metric.name} is {value}", **known)
    return Outcome(status="success", metric=value, **known)


def printed(log: str) -> dict[str, float]:
    """The `key: value` lines with a number; of lines with the same key the last one counts."""
    found = {}
    for name, text in re.findall(r"^[ \t]*([A-Za-z_]\w*)[ \t]*[:=][ \t]*(\S+)[ \t]*\r?$", log, re.MULTILINE):
        try:
            found[name] = float(text.replace(",", ""))
        except ValueError:
            continue
    return found


def progress(folder: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl: step, loss, tokens_per_second, elapsed, progress; {} when there is none."""
    for line in reversed(tail(folder / METRICS_FILE, 4096).splitlines()):
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            return fields
    return {}


def _report(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def _numbers(report: dict[str, Any]) -> dict[str, float]:
    nested = report.get("metrics")
    flat = {**report, **(nested if isinstance(nested, dict) else {})}
    return {name: float(v) for name, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _first(numbers: dict[str, float], *names: str) -> float:
    values = [numbers[name] for name in names if name in numbers and math.isfinite(numbers[name])]
    return values[0] if values else 0.0


def _last_line(log: str, code: int | None) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    last = "".join(char for char in lines[-1] if char.isprintable())[-300:] if lines else "it printed nothing"
    return f"exit code {code}: {last}"
