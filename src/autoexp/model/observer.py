"""What a training says while it runs: a line for people, metrics.jsonl for programs; and it stops what is lost."""

from __future__ import annotations

import os
from pathlib import Path

from autoexp.model.clock import TrainingClock
from autoexp.model.console import Progress
from autoexp.model.report import LossCurve, LossGuard, Metrics


class Observer:
    """Reads the losses of the steps. A silent one, of a process that does not lead, writes nothing."""

    def __init__(self, metrics: Path, clock: TrainingClock, append: bool = False, silent: bool = False) -> None:
        self.metrics = Metrics(Path(os.devnull) if silent else metrics, append=append)
        self.progress = Progress(silent=silent)
        self.clock = clock
        self.curve, self.guard = LossCurve(), LossGuard()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self.progress.say(text)

    def close(self) -> None:
        self.progress.close()
        self.metrics.close()

    def step(self, phase: str, index: int, progress: float, loss: float, lr: float, tokens: int, epoch: int) -> None:
        """A step was taken: its number, the part of the budget at its start, its loss in nats a token, the multiplier
        of its rates, and the tokens and the epoch so far. Raises TrainingFailed if the run is lost."""
        self.guard.check(index, loss)
        if phase == "train":
            self.curve.add(progress, loss)
        elapsed = self.clock.elapsed
        speed = tokens / elapsed if elapsed > 0 else 0.0
        if self.metrics.due() or phase == "warmup":
            self._line(phase, index, loss, speed, lr, self.clock.progress)
        left = max(0.0, self.clock.budget - elapsed)
        self.progress.update(
            f"{phase} step {index:05d} ({100 * self.clock.progress:.1f}%) | loss {self.guard.mean:.4f} | "
            f"lr x{lr:.2f} | {speed:,.0f} tok/s | epoch {epoch} | {left:.0f} s left"
        )

    def evaluated(self, done: float, steps: int, speed: float) -> None:
        """So much of the evaluation is done, 0 to 1, after a training of so many steps and tokens a second."""
        if self.metrics.due() or done in (0.0, 1.0):
            self._line("evaluate", steps, None, speed, 0.0, done)
        self.progress.update(f"evaluate ({100 * done:.0f}%)")

    def _line(self, phase: str, step: int, loss: float | None, speed: float, lr: float, progress: float) -> None:
        self.metrics.write(
            {
                "phase": phase,
                "step": step,
                "loss": loss,
                "tokens_per_second": round(speed, 1),
                "elapsed": round(self.clock.elapsed, 3),
                "budget": self.clock.budget,
                "progress": round(progress, 5),
                "lr_multiplier": round(lr, 5),
            }
        )
