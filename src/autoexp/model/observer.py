"""What a training says while it runs: a line for people, metrics.jsonl for programs; and it stops what is lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autoexp.model.clock import TrainingClock
from autoexp.model.console import Progress
from autoexp.model.report import LossCurve, LossGuard, Metrics


@dataclass
class Step:
    """One optimizer step to be taken. `progress` is the part of the time budget that is spent, 0 to 1."""

    index: int
    progress: float
    warmup: bool
    loss: Tensor | None = None
    lr_multiplier: float = 1.0
    tokens: int = 0  # so far, this step included
    averaged: bool = False  # whether its gradients are those of all processes
    good: bool = True  # whether they were finite, so that the step could be taken

    def done(self, loss: Tensor, lr_multiplier: float = 1.0) -> None:
        """Hand in the mean training loss of the step, nats a token, as a tensor: it is read without waiting."""
        self.loss = loss.detach()
        self.lr_multiplier = lr_multiplier


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

    def step(self, phase: str, step: Step, loss: float, epoch: int) -> None:
        """A step was taken; `loss` is its own, read. Raises TrainingFailed if the run is lost."""
        self.guard.check(step.index, loss)
        if phase == "train":
            self.curve.add(step.progress, loss)
        elapsed, progress = self.clock.elapsed, self.clock.progress
        speed = step.tokens / elapsed if elapsed > 0 else 0.0
        if self.metrics.due() or phase == "warmup":
            self._line(phase, step.index, loss, speed, step.lr_multiplier, progress)
        left = max(0.0, self.clock.budget - elapsed)
        self.progress.update(
            f"{phase} step {step.index:05d} ({100 * progress:.1f}%) | loss {self.guard.mean:.4f} | "
            f"lr x{step.lr_multiplier:.2f} | {speed:,.0f} tok/s | epoch {epoch} | {left:.0f} s left"
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
