"""What a trainer said of itself: report.json, or the summary it printed.

All of it is a stranger's, and what is read here goes into the journal: numbers come out finite, text bounded and fit to
be encoded, and no content of any file is a reason to raise.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexp.runs.records import Metric, Outcome, Taken
from autoexp.workspace import seals
from autoexp.workspace.files import tail
from autoexp.workspace.paths import CHECKPOINT_FILE, LOG_FILE, METRICS_FILE, REPORT_FILE

TAIL_BYTES = 1 << 20
"""How much of a log's end is searched for the summary: it is the last thing printed."""
REPORT_BYTES = 4 << 20
"""A larger report is no report."""
LIVE_BYTES = 4 << 20
"""How much of metrics.jsonl is read for a live curve."""
CURVE_POINTS = 20
"""Of a loss curve: as many as the trainer's own report has."""
SURROUNDINGS = ("device", "gpus", "data", "dtype", "torch", "profile", "budget_seconds")
"""What a report says of where its numbers come from."""
REASON_CHARACTERS = 2000
NAME_CHARACTERS = 200
PATH_CHARACTERS = 4096
METRICS = 100
"""How many numbers of a training are kept: the metric, the known ones, then in the order they were written in."""
KNOWN = (
    "training_seconds", "total_seconds", "peak_memory_mb", "peak_vram_mb", "mfu_percent", "total_tokens",
    "total_tokens_M", "num_steps", "num_params", "num_params_M", "depth",
)  # fmt: skip
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)")
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMBER = re.compile(
    r"[-+]?(?:(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?|[-+]?(?:nan|inf|infinity)",
    re.IGNORECASE,
)
"""float() reads more than people write (1_0), and less (1,234.5)."""


@dataclass(frozen=True)
class Judged:
    """What a job's sealed evaluation must be about to count."""

    key: Path
    """The file of the run's key."""
    job: str
    commit: str
    checkpoint: Path
    """What is evaluated, and can be evaluated again."""


def outcome(
    folder: Path,
    metric: Metric,
    status: str,
    code: int | None,
    wall_seconds: float,
    reason: str,
    judged: Judged | None = None,
) -> Outcome:
    """How the training in `folder` ended. `status`, `code` and `reason` are its keeper's words (`spec.ports.Exit`).

    A success exited with 0 and has a finite metric in its report, or in the last summary it printed. A report that
    says it failed, or is not finished, is believed over anything printed. Where it was to be `judged`, the metric is
    that of the sealed evaluation, and what the trainer says of it counts nothing. Never raises.
    """
    try:
        if judged is not None:
            return _judged(folder, metric, status, code, wall_seconds, reason, judged)
        return _outcome(folder, metric, status, code, wall_seconds, reason)
    except Exception as error:  # it would be raised again by every resume: the run could never go on
        what = words(f"what it reported cannot be read: {type(error).__name__}: {error}", REASON_CHARACTERS)
        return Outcome(status="crash", reason=what, exit_code=code)


def _outcome(folder: Path, metric: Metric, status: str, code: int | None, wall_seconds: float, reason: str) -> Outcome:
    log = tail(folder / LOG_FILE, TAIL_BYTES)
    report = _report(folder / REPORT_FILE)
    numbers = _numbers(report) if report is not None else printed(log, metric.name)
    known = _known(numbers, metric.name, code, wall_seconds)
    unfinished = report is not None and report.get("status") not in (None, "ok")
    if status == "exited" and code == 0 and not unfinished:
        value = numbers.get(metric.name)
        if value is not None and math.isfinite(value):
            return Outcome(status="success", metric=value, evaluated_by="trainer", **known)
        where = "its report" if report is not None else "what it printed"
        if numbers:
            where += f" (there are: {', '.join(list(numbers)[:8])})"
        if report is None and (folder / REPORT_FILE).exists():
            where += " (its report cannot be read)"
        what = f"no {metric.name} in {where}" if value is None else f"{metric.name} is {value}"
        return Outcome(status="crash", reason=words(what, REASON_CHARACTERS), **known)
    # the training is done, however its evaluation ended
    known["checkpoint"] = _checkpoint(report, folder) if report and report.get("phase") == "evaluate" else None
    return _failed(report, log, status, code, reason, known)


def _judged(
    folder: Path, metric: Metric, status: str, code: int | None, wall_seconds: float, reason: str, judged: Judged
) -> Outcome:
    log = tail(folder / LOG_FILE, TAIL_BYTES)
    report = _report(folder / REPORT_FILE)
    numbers = _numbers(report) if report is not None else printed(log)
    for name in (metric.name, *(name for name in numbers if name.startswith("test_"))):
        numbers.pop(name, None)  # that is the judge's to say
    known = _known(numbers, metric.name, code, wall_seconds)
    found = seals.read_sealed(folder, seals.read_key(judged.key))
    record, seal = found or ({}, "")
    if found is not None and (record.get("job"), record.get("commit")) != (judged.job, judged.commit):
        what = f"its evaluation is one of another training ({record.get('job')})"
        return Outcome(status="crash", reason=words(what, REASON_CHARACTERS), **known)
    if found is None or status != "exited" or code != 0:
        if found is not None:  # the training is done, and what came after it was cut off
            known["checkpoint"] = _checkpoint({"checkpoint": str(judged.checkpoint)}, judged.checkpoint.parent)
            known["evaluated_by"] = "judge"
        if status == "exited" and code == 0:
            reason = "there is no evaluation of it that the run's key has sealed"
            return Outcome(status="crash", reason=reason, **known)
        return _failed(report, log, status, code, reason, known)
    metrics = record.get("metrics")
    value = finite(metrics.get(metric.name)) if isinstance(metrics, dict) else None
    took = {name: record.get(name) for name in ("cpu_seconds", "gpu_seconds")}
    known |= {"evaluated_by": "judge", "seal": seal}
    known["evaluation_taken"] = Taken.model_validate({"wall_seconds": record.get("seconds") or 0.0, **took})
    if record.get("status") == "ok" and isinstance(metrics, dict) and value is not None:
        others = {name: number for name, said in metrics.items() if (number := finite(said)) is not None}
        known["metrics"] = {metric.name: value, **others, **known["metrics"]}
        return Outcome(status="success", metric=value, **known)
    if record.get("status") != "refused":  # what was found out is not given another chance
        known["checkpoint"] = _checkpoint({"checkpoint": str(judged.checkpoint)}, judged.checkpoint.parent)
    what = str(record.get("reason") or f"no {metric.name} in its evaluation")
    return Outcome(status="crash", reason=words(what, REASON_CHARACTERS), **known)


def _known(numbers: dict[str, float], metric: str, code: int | None, wall_seconds: float) -> dict[str, Any]:
    return {
        "exit_code": code,
        "metrics": _kept(numbers, metric),
        "memory_gb": round(_first(numbers, "peak_memory_mb", "peak_vram_mb") / 1024, 1),
        "training_seconds": finite(numbers.get("training_seconds")),
        "wall_seconds": finite(wall_seconds),
    }


def _failed(
    report: dict[str, Any] | None, log: str, status: str, code: int | None, reason: str, known: dict[str, Any]
) -> Outcome:
    if status == "exited":
        said = report.get("reason") if report else None
        if not (isinstance(said, str) and said.strip()):
            ended_by_keeper = reason and (code is None or code < 0)
            said = "" if ended_by_keeper else _last_line(log, code)
        reason = "; ".join(each for each in (reason, said) if each)
    ended = status if status in ("timeout", "killed", "lost") else "crash"
    return Outcome.model_validate({"status": ended, "reason": words(reason, REASON_CHARACTERS), **known})


def checked(result: Outcome, folder: Path, expected: Mapping[str, float]) -> Outcome:
    """`result`, unless the report in `folder` says of itself that it is of another training than was asked for: one
    with another seed, or another budget. What a report does not say is not held against it. Never raises.
    """
    if result.status != "success":
        return result
    try:
        report = _report(folder / REPORT_FILE) or {}
        for name, value in expected.items():
            said = finite(report.get(name))
            if said is not None and said != value:
                why = f"it was to train with {name} {value:g}, and reports {said:g}"
                return result.model_copy(update={"status": "crash", "metric": None, "reason": why})
    except Exception as error:  # as in `outcome`
        why = words(f"what it reported cannot be read: {error}", REASON_CHARACTERS)
        return result.model_copy(update={"status": "crash", "metric": None, "reason": why})
    return result


def checkpoint_mb(folder: Path) -> float | None:
    """Megabytes (2^20 bytes) of the checkpoint in `folder`; None without one."""
    try:
        found = (folder / CHECKPOINT_FILE).lstat()
    except OSError:
        return None
    return round(found.st_size / (1 << 20), 3) if stat.S_ISREG(found.st_mode) else None


def printed(log: str, metric: str = "") -> dict[str, float]:
    """The lines that are a name, `:` or `=`, and a number, and nothing else; of lines with one name the last counts.

    A name is one word, or `metric`, which may be anything. A line is also what was drawn over another one.
    """
    name = r"[A-Za-z_]\w*"
    if metric.strip():
        name = f"{re.escape(metric.strip())}|{name}"
    found = {}
    lines = _ANSI.sub("", log).replace("\r", "\n")
    for key, text in re.findall(rf"^[ \t]*({name})[ \t]*[:=][ \t]*(\S+)[ \t]*$", lines, re.MULTILINE):
        if _NUMBER.fullmatch(text):
            found[key] = float(text.replace(",", ""))
    if metric.strip():
        numbers = rf"^[ \t]*{re.escape(metric.strip())}[ \t]*[:=][ \t]*([-+.]?[0-9].*)$"
        said = re.findall(numbers, lines, re.MULTILINE)
        if said and not _NUMBER.fullmatch(said[-1].strip()):
            found.pop(metric.strip(), None)  # `1.19 (final)`: the last number counts, or none does
    return found


def progress(folder: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl: step, loss, tokens_per_second, elapsed, progress; {} when there is none."""
    for line in reversed(tail(folder / METRICS_FILE, 4096).splitlines()):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            numbers = {name: value for name, value in fields.items() if finite(value) is not None}
            return {**numbers, **{k: words(v, NAME_CHARACTERS) for k, v in fields.items() if isinstance(v, str)}}
    return {}


def live_curve(folder: Path) -> list[tuple[float, float]]:
    """(progress, mean loss) along the training that goes on in `folder`, a point for each twentieth that is done: as a
    finished one's report has it, from the lines of metrics.jsonl. Never raises.
    """
    bins: list[list[float]] = [[] for _ in range(CURVE_POINTS)]
    reached = 0.0
    for line in tail(folder / METRICS_FILE, LIVE_BYTES).splitlines():
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(fields, dict) or fields.get("phase") not in ("train", None):
            continue
        at, loss = finite(fields.get("progress")), finite(fields.get("loss"))
        if at is not None and loss is not None and 0.0 <= at <= 1.0:
            bins[min(int(at * CURVE_POINTS), CURVE_POINTS - 1)].append(loss)
            reached = max(reached, at)
    done = int(reached * CURVE_POINTS)
    return [((index + 1) / CURVE_POINTS, sum(b) / len(b)) for index, b in enumerate(bins[:done]) if b]


def machine(folder: Path, given: Mapping[str, Any]) -> str:
    """A hash of what the numbers of the training in `folder` hang on beside program and seed: what its report says of
    device, data and libraries, and what is `given`. Without a report, this host stands for the device.
    """
    report = _report(folder / REPORT_FILE)
    told = {name: report.get(name) for name in SURROUNDINGS} if report is not None else {"host": socket.gethostname()}
    if report is not None and isinstance(report.get("versions"), dict):
        told["harness"] = report["versions"].get("autoexp")
    text = json.dumps({**told, **given}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def short_curve(folder: Path) -> tuple[tuple[float, float], ...]:
    """The loss curve of a report in at most twenty points."""
    points = loss_curve(folder)
    step = -(-len(points) // CURVE_POINTS)
    return tuple(points[step - 1 :: step]) if points else ()


def loss_curve(folder: Path) -> list[tuple[float, float]]:
    """(progress, loss) along the training in `folder`, as its report has it; [] when it has none. Never raises."""
    points = (_report(folder / REPORT_FILE) or {}).get("loss_curve")
    found = []
    for point in points if isinstance(points, list) else []:
        pair = [finite(number) for number in point] if isinstance(point, list) else []
        if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
            found.append((pair[0], pair[1]))
    return found[:1000]


def finite(value: object) -> float | None:
    """A stranger's number as a float; None when it is none, or is not finite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def words(text: str, limit: int) -> str:
    """A stranger's text, fit to be encoded and shown: no escapes, control characters or lone surrogates, and an end."""
    text = _UNFIT.sub("\ufffd", _ANSI.sub("", text[: 8 * limit].replace("\r\n", "\n"))).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _report(path: Path) -> dict[str, Any] | None:
    """The report, None when there is none that can be read. Its integers come as floats: they may have any length."""
    try:
        with open(path, "rb", opener=_opened) as file:
            raw = file.read(REPORT_BYTES + 1)
        fields = json.loads(raw, parse_int=float) if len(raw) <= REPORT_BYTES else None
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    return fields if isinstance(fields, dict) else None


def _opened(path: str, flags: int) -> int:
    """Open what is there, and wait for nobody: the trainer may have left a pipe in the file's place."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no file")
    return descriptor


def _numbers(report: dict[str, Any]) -> dict[str, float]:
    """Those that are not finite too: that one is there and is no number says more than that there is none."""
    nested = report.get("metrics")
    flat = {**report, **(nested if isinstance(nested, dict) else {})}
    return {name: value for name, value in flat.items() if isinstance(value, float)}


def _kept(numbers: dict[str, float], metric: str) -> dict[str, float]:
    names: Iterable[str] = dict.fromkeys([metric, *KNOWN, *numbers])
    chosen = [name for name in names if finite(numbers.get(name)) is not None][:METRICS]
    return {words(name, NAME_CHARACTERS): numbers[name] for name in chosen}


def _first(numbers: dict[str, float], *names: str) -> float:
    values = [numbers[name] for name in names if finite(numbers.get(name)) is not None]
    return values[0] if values else 0.0


def _checkpoint(report: dict[str, Any], folder: Path) -> str | None:
    """The path of a checkpoint that is there: a file in the job's own folder. One of another trial would be evaluated
    as if it were this one's.
    """
    path = report.get("checkpoint")
    if not isinstance(path, str) or not path or words(path, PATH_CHARACTERS) != path:
        return None
    try:
        own = os.path.normpath(Path(path).parent) == os.path.normpath(folder)
        return path if own and stat.S_ISREG(Path(path).lstat().st_mode) else None
    except (OSError, ValueError):  # a name that is too long
        return None


def _last_line(log: str, code: int | None) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    last = _ANSI.sub("", lines[-1]) if lines else "it printed nothing"
    return f"exit code {code}: {''.join(char for char in last if char.isprintable())[-300:]}"
