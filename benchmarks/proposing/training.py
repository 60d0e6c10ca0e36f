"""One training of the CPU program, with a budget of operations instead of seconds.

Trainings of several nights run at the same time, and a second is worth less when the neighbours are busy. So a training
ends when it has done a number of floating-point operations, counted as `flops_per_token` does: the same constants and
seed give the same number anywhere, up to rounding.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import tempfile
import types
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autoexp.model import profiles
from autoexp.model.clock import TrainingClock
from autoexp.model.trial import Trial

PROGRAM = profiles.render(profiles.CPU)


class Counted(Trial):
    """A trial whose clock reads the operations of the rows that were taken."""

    def __init__(self, profile: str, budget: float, environ: Mapping[str, str]) -> None:
        self.fed: Any = None
        self.flops_per_token = 0.0
        super().__init__(profile, environ, TrainingClock(budget, now=self.operations))

    def operations(self) -> float:
        return self.fed.tokens * self.flops_per_token if self.fed is not None else 0.0

    def describe(self, **facts: Any) -> None:
        self.flops_per_token = facts["flops_per_token"]
        super().describe(**facts)

    def batches(self, *arguments: Any) -> Any:
        self.fed = super().batches(*arguments)
        return self.fed


def train(text: str, data: Path, seed: int, operations: float) -> float | None:
    """val_bpb of the program `text` after so many operations; None when it failed."""
    found = report(text, data, seed, operations).get("val_bpb")
    return float(found) if isinstance(found, float) else None


def report(text: str, data: Path, seed: int, operations: float) -> dict[str, Any]:
    """The report of a training of the program `text` with so many operations; {} when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "report.json")
        environ = {
            "AUTOEXP_DATA": str(data),
            "AUTOEXP_REPORT": str(written),
            "AUTOEXP_SEED": str(seed),
            "AUTOEXP_THREADS": "1",
            "AUTOEXP_CACHE": str(Path(folder, "cache")),
        }
        (Path(folder) / "train.py").write_text(text)
        module = types.ModuleType("train")
        module.__file__ = str(Path(folder, "train.py"))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                exec(compile(text, module.__file__, "exec"), module.__dict__)
                module.Trial = partial(Counted, budget=operations, environ={**os.environ, **environ})  # type: ignore[attr-defined]
                module.main()
            except (Exception, SystemExit):
                return {}  # a proposal that does not train
            finally:
                gc.unfreeze()
        found: dict[str, Any] = json.loads(written.read_bytes())
        return found
