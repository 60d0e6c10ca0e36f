"""What a training leaves behind: report.json, metrics.jsonl, the checkpoint, and the printed summary.

docs/reference/report.md says what each key of report.json means; `KEYS` and that page are held together by a test.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from autoexp.model.errors import BadInput, TrainingFailed
from autoexp.model.storage import replacing, sha256_file, write_json

METRICS_EVERY = 0.25  # seconds between two lines of metrics.jsonl
CURVE_POINTS = 20
PACKAGES = ("triton", "flash-attn-4", "kernels")  # beside torch and numpy, where they are installed

# The keys of a finished report.json, in order.
KEYS = (
    *("status", "phase", "reason", "metrics", "val_bpb", "evaluated_by"),
    *("train_loss", "loss_curve", "total_tokens", "num_steps", "tokens_per_second", "mfu_percent"),
    *("training_seconds", "training_wall_seconds", "startup_seconds", "compile_seconds", "eval_seconds"),
    *("total_seconds", "budget_seconds", "peak_memory_mb"),
    *("num_params", "flops_per_token", "depth", "seed", "profile", "data", "checkpoint"),
    *("device", "gpus", "dtype", "peak_flops", "threads", "device_batch", "attention", "telemetry"),
    *("torch", "versions", "source_hash"),
)


def report_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`$AUTOEXP_REPORT`, else report.json in the first folder of out/001, out/002, … that is not there yet."""
    if named := environ.get("AUTOEXP_REPORT"):
        return Path(named).expanduser().absolute()
    number = 1
    while (Path("out") / f"{number:03d}").exists():
        number += 1
    return (Path("out") / f"{number:03d}" / "report.json").absolute()


class Metrics:
    """metrics.jsonl: one line now and then while it runs, for whoever watches."""

    def __init__(self, path: Path, append: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: TextIO = path.open("a" if append else "w", encoding="utf-8")
        self.last = float("-inf")

    def due(self) -> bool:
        """Whether the next line may be written."""
        return time.monotonic() - self.last >= METRICS_EVERY

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line and flush it. A number that is not finite becomes null."""
        self.last = time.monotonic()
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self.file.write(json.dumps(clean) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class LossCurve:
    """The training loss over the budget, as means of about twenty equal stretches of it."""

    def __init__(self) -> None:
        self.bins: list[list[float]] = [[] for _ in range(CURVE_POINTS)]

    def add(self, progress: float, loss: float) -> None:
        self.bins[min(int(progress * CURVE_POINTS), CURVE_POINTS - 1)].append(loss)

    def points(self) -> list[list[float]]:
        """[progress at the end of the stretch, mean loss in nats a token], without the stretches that had no step."""
        ends = [(index + 1) / CURVE_POINTS for index in range(CURVE_POINTS)]
        return [[end, round(sum(b) / len(b), 5)] for end, b in zip(ends, self.bins, strict=True) if b]


class LossGuard:
    """Stops a training whose loss is no number or far above where it started."""

    LIMIT = 100.0  # nats a token
    PATIENCE = 20  # steps; a short spike is no divergence

    def __init__(self) -> None:
        self.first: float | None = None
        self.mean = 0.0

    def check(self, step: int, loss: float) -> None:
        """Raise TrainingFailed if `loss` of step number `step` shows that the run is lost."""
        if not math.isfinite(loss) or loss > self.LIMIT:
            raise TrainingFailed(f"loss is {loss:.4g} at step {step}")
        if self.first is None:
            self.first = self.mean = loss
        self.mean += (loss - self.mean) / 10
        if step >= self.PATIENCE and self.mean > 1.5 * self.first + 1:
            raise TrainingFailed(f"diverged: loss {self.mean:.2f} at step {step}, {self.first:.2f} at the start")


def save_checkpoint(path: Path, model: torch.nn.Module, report: Mapping[str, Any]) -> None:
    """Write the weights and the report so far, by rename. Raises OSError when there is no space for them."""
    with replacing(path) as file:
        try:
            torch.save({"model": model.state_dict(), "report": json.dumps(report)}, file)
        except RuntimeError as error:
            # torch goes on after a write that failed, and complains of the place in the file: nobody would know why
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load_checkpoint(path: Path, model: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """Load the weights into `model` and return the report of their training. Raises BadInput if they do not fit."""
    try:
        stored = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(stored["model"])
        report: dict[str, Any] = json.loads(stored["report"])
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"checkpoint {path} cannot be used: {reason}", "unset AUTOEXP_CHECKPOINT to train") from None
    return report


def summary(report: Mapping[str, Any]) -> str:
    """The block of `key: value` lines that ends the output."""
    mfu, val_bpb = report["mfu_percent"], report.get("val_bpb")
    values = {
        **({"val_bpb": f"{val_bpb:.6f}"} if val_bpb is not None else {}),
        "training_seconds": f"{report['training_seconds']:.1f}",
        "total_seconds": f"{report['total_seconds']:.1f}",
        "peak_vram_mb": f"{report['peak_memory_mb']:.1f}",
        "mfu_percent": f"{0.0 if mfu is None else mfu:.2f}",
        "total_tokens_M": f"{report['total_tokens'] / 1e6:.1f}",
        "num_steps": str(report["num_steps"]),
        "num_params_M": f"{report['num_params'] / 1e6:.1f}",
        "depth": str(report["depth"]),
    }
    return "\n".join(["---", *(f"{key + ':':<18}{value}" for key, value in values.items())])


def versions() -> dict[str, str | None]:
    """What the numbers were made with; None for what is not installed or not in use."""
    try:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call,unused-ignore]
    except RuntimeError:  # installed twice, in versions that differ
        cudnn = None
    return {
        "autoexp": sys.modules["autoexp"].__version__,  # imported it would bring the command's packages in
        "python": sys.version.partition(" ")[0],
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "cudnn": None if cudnn is None else str(cudnn),
        **{name: installed(name) for name in PACKAGES},
    }


def installed(name: str) -> str | None:
    """The version of a package, None if it is not there. Nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_hash(path: Path | None = None) -> str | None:
    """SHA-256 of `path`, else of the script that this process runs; None where there is no such file.

    Ask it early: a file can be edited while it runs.
    """
    path = path or Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    try:
        return sha256_file(path)
    except OSError:
        return None


def whole(report: Mapping[str, Any]) -> dict[str, Any]:
    """`report` with every key of `KEYS`, in their order, None where it has nothing to say; then its other keys."""
    return {**{key: report.get(key) for key in KEYS}, **{k: v for k, v in report.items() if k not in KEYS}}


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write report.json by rename."""
    write_json(path, report)
