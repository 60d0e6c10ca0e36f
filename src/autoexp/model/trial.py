"""One training from start to report: what a train.py gets from the harness.

    with Trial(PROFILE) as trial:
        ... build a model and an optimizer on trial.device ...
        for step in trial.steps(model, optimizer, batches):
            ... forward, backward; trial.mean_gradients(model); optimizer.step() ...
            step.done(loss, lr_multiplier)
        trial.finish(model, losses)

Environment: AUTOEXP_REPORT, AUTOEXP_SEED, AUTOEXP_BUDGET_SECONDS, AUTOEXP_DATA, AUTOEXP_CHECKPOINT, and those of
devices.py and distributed.py.
"""

from __future__ import annotations

import gc
import io
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from autoexp.model import attention
from autoexp.model.audit import check_causal, check_probabilities
from autoexp.model.clock import Optimizer, Rewind, TrainingClock, seconds_since_process_start
from autoexp.model.console import Progress
from autoexp.model.data import Batches, rows_at_a_time
from autoexp.model.devices import open_device
from autoexp.model.distributed import World, join
from autoexp.model.errors import BadInput, TrainerError, tell
from autoexp.model.evaluate import Losses, evaluate
from autoexp.model.prepared import find_prepared
from autoexp.model.profiles import PROFILES
from autoexp.model.report import (
    LossCurve,
    LossGuard,
    Metrics,
    load_checkpoint,
    report_path,
    save_checkpoint,
    summary,
    write_report,
)

DEFAULT_SEED = 42
WARMUP_STEPS = {"cuda": 3, "mps": 2, "cpu": 1}  # steps until nothing is compiled or allocated any more


@dataclass
class Step:
    """One optimizer step to be taken. `progress` is the part of the time budget that is spent, 0 to 1."""

    index: int
    progress: float
    warmup: bool
    loss: Tensor | None = None
    lr_multiplier: float = 1.0

    def done(self, loss: Tensor, lr_multiplier: float = 1.0) -> None:
        """Hand in the mean training loss of the step, nats a token, as a tensor: it is read without waiting."""
        self.loss = loss.detach()
        self.lr_multiplier = lr_multiplier


class Trial:
    """The frozen side of a training: device, data, clock, evaluation, report.

    As a context manager it turns an exception into a failed report; expected ones exit with their code and a line,
    others keep their traceback.
    """

    def __init__(
        self, profile: str, environ: Mapping[str, str] = os.environ, clock: TrainingClock | None = None
    ) -> None:
        self.profile = PROFILES[profile]
        self.phase = "setup"
        self.path: Path | None = None  # of report.json
        self.saved: Path | None = None  # the checkpoint, once there is one
        self.metrics: Metrics | None = None
        self.progress = Progress()
        self.world = World()
        self.averaged = False  # whether the gradients of the step are those of all processes
        try:
            self.path = report_path(environ)
            self.seed = whole_number(environ, "AUTOEXP_SEED", DEFAULT_SEED)
            budget = seconds(environ, "AUTOEXP_BUDGET_SECONDS", self.profile.budget_seconds)
            self.checkpoint = (
                Path(named).expanduser().absolute() if (named := environ.get("AUTOEXP_CHECKPOINT")) else None
            )
            if self.checkpoint is not None and not self.checkpoint.is_file():
                raise BadInput(f"AUTOEXP_CHECKPOINT={self.checkpoint} is not there", "unset it to train")
            self.data = find_prepared(self.profile.name, environ)
            # The cpu profile stays on the CPU even beside a GPU: its budget is too short to compile anything.
            default = "cpu" if self.profile.device == "cpu" else "best"
            self.world = join({**environ, "AUTOEXP_REPORT": str(self.path)}, self.path.parent, self._failed)
            device = self.world.place(environ.get("AUTOEXP_DEVICE") or default)
            self.device = open_device({**environ, "AUTOEXP_DEVICE": device})
            on_cpu = self.device.torch_device.type == "cpu"
            self.clock = clock or TrainingClock(budget, work=time.process_time if on_cpu else None)
            metrics = self.path.with_name("metrics.jsonl") if self.world.leads else Path(os.devnull)
            self.metrics = Metrics(metrics, append=self.checkpoint is not None)
        except TrainerError as error:
            self._failed(str(error))
            self.world.close(failed=True)
            sys.exit(tell(error))
        except OSError as error:
            sys.exit(tell(BadInput(f"{error.filename}: {error.strerror}", "name another AUTOEXP_REPORT")))
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        torch.manual_seed(self.seed)  # of every device
        self.curve, self.guard = LossCurve(), LossGuard()
        self.attention = "sdpa"
        self.steps_taken = 0
        self.rows_per_part = 1
        self.facts: dict[str, Any] = {}
        self.trained: dict[str, Any] = {}
        if not self.world.leads:
            self.progress = Progress(io.StringIO())  # nobody reads it
        together = f" and {self.world.size - 1} more" if self.world.size > 1 else ""
        threads = f", {self.device.threads} threads" if self.device.threads else ""
        self.progress.say(
            f"profile {self.profile.name}, {self.device.torch_device}{together}{threads}, seed {self.seed}, "
            f"budget {self.clock.budget:g} s, data {self.data.folder}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        if isinstance(error, Exception):
            first = (str(error).strip().splitlines() or [""])[0]
            self._failed(first if isinstance(error, TrainerError) else f"{type(error).__name__}: {first}")
        if self.metrics is not None:
            self.metrics.close()
        self.world.close(failed=error is not None)
        if isinstance(error, TrainerError):
            raise SystemExit(tell(error)) from None

    def _failed(self, reason: str) -> None:
        if self.path is not None and self.world.leads:
            facts = {"checkpoint": str(self.saved)} if self.saved is not None else {}
            write_report(self.path, {"status": "failed", "phase": self.phase, "reason": reason, **facts})

    # --- building -----------------------------------------------------------------------------------------------

    def batches(self, tokens_per_step: int, most_rows: int, row_bytes: float = 0) -> Batches:
        """Training batches of about `tokens_per_step` tokens, rounded down to whole rows, one a process at least.

        At most `most_rows` rows go through the model at once, fewer if rows of `row_bytes` bytes of activations
        would not fit the device, so that any size of step can be trained.
        """
        rank, size = self.world.rank, self.world.size
        own_rows = max(1, tokens_per_step // self.data.seq_len // size)
        self.rows_per_part = rows_at_a_time(own_rows, most_rows, row_bytes, self.device.free_memory())
        rows, device = self.data.rows("train"), self.device.torch_device
        return Batches(rows, own_rows * size, self.rows_per_part, self.seed, device, rank, size)

    def compiled(self, model: torch.nn.Module, windows: Iterable[int] = ()) -> Losses:
        """`model` made fast for this device; `windows` are those it calls `attend` with."""
        self.attention = attention.prepare(self.data.seq_len, windows, self.device.torch_device, self.device.compiles)
        return torch.compile(model, dynamic=False) if self.device.compiles else model

    def mean_gradients(self, model: torch.nn.Module) -> None:
        """With several GPUs, make every gradient the mean over them: after the last backward pass of a step."""
        self.world.mean_gradients(model.parameters())
        self.averaged = True

    def describe(self, **facts: Any) -> None:
        """Put facts about the model into the report: depth, and flops_per_token for the utilisation."""
        self.facts.update(facts)

    # --- training -----------------------------------------------------------------------------------------------

    def steps(self, model: torch.nn.Module, optimizer: Optimizer, batches: Batches) -> Iterator[Step]:
        """Steps to take until the budget is spent. Those of the warm-up come first and are undone.

        With AUTOEXP_CHECKPOINT there are none: its weights are loaded instead.
        """
        self.world.connect(self.device.torch_device)
        if self.checkpoint is not None:
            self.trained = load_checkpoint(self.checkpoint, model, self.device.torch_device)
            self.progress.say(f"weights of {self.checkpoint}, {self.trained.get('num_steps')} steps; not training")
            return
        self.phase = "warmup"
        self.world.broadcast_parameters(model)
        if self.world.rank:
            torch.manual_seed(self.seed + self.world.rank)  # from here on chance, dropout say, is each process's own
        before = Rewind(model, optimizer, batches)
        for index in range(WARMUP_STEPS[self.device.torch_device.type]):
            step = Step(index, 0.0, warmup=True)
            yield step
            self._taken(step)
            self._observe(step, batches)
        before.restore()
        del before
        self.device.synchronize()
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection in the middle of a step stalls it for up to half a second

        self.phase = "train"
        self.guard = LossGuard()
        self.world.barrier()
        startup = seconds_since_process_start()
        self.clock.start()
        pending: Step | None = None
        # On a GPU the loss is read one step late, when it has long been computed: the queue never runs dry, and
        # never runs further ahead of the clock than one step.
        late = self.device.torch_device.type != "cpu"
        while True:
            progress, spent = self.world.broadcast(self.clock.progress, self.clock.spent)  # one clock for all
            if spent:
                break
            step = Step(self.steps_taken, progress, warmup=False)
            yield step
            self._taken(step)
            self.steps_taken += 1
            computed = pending if late else step
            pending = step if late else None
            if computed is not None:
                self._observe(computed, batches)
        if pending is not None:
            self._observe(pending, batches)
        self.device.synchronize()
        self.clock.stop()
        gc.enable()
        self._trained(model, batches, startup)

    def _taken(self, step: Step) -> None:
        """Check that a step was all that it must be, and make its loss that of all processes."""
        if step.loss is None:
            raise BadInput("train.py took a step without step.done(loss)", "call it at the end of every step")
        if self.world.size > 1 and not self.averaged:
            raise BadInput("train.py took a step without trial.mean_gradients(model)", "call it before optimizer.step")
        self.averaged = False
        self.world.mean([step.loss])

    def _observe(self, step: Step, batches: Batches) -> None:
        """Read the loss of a step, check it, and tell whoever watches; one process does it for all."""
        if not self.world.leads:
            return
        assert step.loss is not None
        loss = float(step.loss)
        self.guard.check(step.index, loss)
        if not step.warmup:
            self.curve.add(step.progress, loss)
        elapsed = self.clock.elapsed
        speed = self.steps_taken * batches.tokens_per_step / elapsed if elapsed > 0 else 0.0
        if self.metrics is not None and (self.metrics.due() or step.warmup):
            self._metrics_line(step.index, loss, speed, step.lr_multiplier)
        left = max(0.0, self.clock.budget - elapsed)
        self.progress.update(
            f"{self.phase} step {step.index:05d} ({100 * step.progress:.1f}%) | loss {self.guard.mean:.4f} | "
            f"lr x{step.lr_multiplier:.2f} | {speed:,.0f} tok/s | epoch {batches.epoch} | {left:.0f} s left"
        )

    def _metrics_line(
        self, step: int, loss: float | None, speed: float, lr_multiplier: float, progress: float = -1
    ) -> None:
        assert self.metrics is not None
        self.metrics.write(
            {
                "phase": self.phase,
                "step": step,
                "loss": loss,
                "tokens_per_second": round(speed, 1),
                "elapsed": round(self.clock.elapsed, 3),
                "budget": self.clock.budget,
                "progress": round(self.clock.progress if progress < 0 else progress, 5),
                "lr_multiplier": round(lr_multiplier, 5),
            }
        )

    def _trained(self, model: torch.nn.Module, batches: Batches, startup: float) -> None:
        elapsed, wall = self.clock.elapsed, self.clock.wall
        tokens = self.steps_taken * batches.tokens_per_step
        peak, flops = self.device.peak_flops, self.facts.get("flops_per_token")
        self.trained = {
            "training_seconds": elapsed,
            "training_wall_seconds": wall,
            "startup_seconds": startup,
            "total_tokens": tokens,
            "num_steps": self.steps_taken,
            "tokens_per_second": tokens / elapsed,
            "mfu_percent": 100 * flops * tokens / elapsed / (peak * self.world.size) if peak and flops else None,
            "peak_memory_mb": self.device.peak_memory_mb(),
            "loss_curve": self.curve.points(),
            "seed": self.seed,
        }

    # --- judging ------------------------------------------------------------------------------------------------

    def finish(self, model: torch.nn.Module, losses: Losses) -> float:
        """Save the weights, evaluate, report and print the summary. Returns the validation bits per byte.

        `losses` is what `compiled` returned: called with inputs and targets it gives the cross-entropy of every
        target, (rows, seq_len) float32, in nats. `model` itself must take shorter rows too. Raises TrainingFailed
        if they fail the tests of audit.py.
        """
        assert self.path is not None and self.metrics is not None
        self.phase = "evaluate"
        model.eval()
        self.world.broadcast_parameters(model)  # what is judged is what is saved, whatever train.py did
        if not self.world.leads:
            return evaluate(losses, self.data, self.device, self.rows_per_part, world=self.world)
        report = self._facts(model)
        saved = self.checkpoint or self.path.with_name("checkpoint.pt")
        if self.checkpoint is None:
            save_checkpoint(saved, model, report)
        self.saved = saved
        write_report(self.path, {"status": "evaluating", "phase": "evaluate", "checkpoint": str(saved), **report})
        began = seconds_since_process_start()
        self._evaluated(0.0)
        val_bpb = evaluate(losses, self.data, self.device, self.rows_per_part, self._evaluated, self.world)
        check_causal(losses, self.data, self.device, self.rows_per_part if self.device.compiles else 1)
        check_probabilities(model, self.data, self.device)
        self._evaluated(1.0)
        ended = seconds_since_process_start()
        report = {
            "status": "ok",
            "phase": "done",
            "metrics": {"val_bpb": val_bpb},
            "val_bpb": val_bpb,
            **report,
            "total_seconds": ended,
            "eval_seconds": ended - began,
            "peak_memory_mb": max(self.device.peak_memory_mb(), report["peak_memory_mb"]),
            "checkpoint": str(saved),
        }
        write_report(self.path, report)
        self.phase = "done"
        self.progress.say(summary(report))
        return val_bpb

    def _facts(self, model: torch.nn.Module) -> dict[str, Any]:
        return {
            **self.trained,
            "num_params": sum(parameter.numel() for parameter in model.parameters()),
            "depth": self.facts.get("depth"),
            "device": self.device_name(),
            "gpus": self.world.size,
            "dtype": str(self.device.dtype).removeprefix("torch."),
            "attention": self.attention,
            "threads": self.device.threads or None,
            "profile": self.profile.name,
            "budget_seconds": self.clock.budget,
            "torch": torch.__version__,
            "data": {"dataset": self.data.meta["dataset"], "hash": self.data.meta["hash"]},
        }

    def device_name(self) -> str:
        """`cpu`, `mps`, or `cuda` with the name of the card."""
        kind = self.device.torch_device.type
        return f"{kind} ({torch.cuda.get_device_name(self.device.torch_device)})" if kind == "cuda" else kind

    def _evaluated(self, done: float) -> None:
        assert self.metrics is not None
        if self.metrics.due() or done in (0.0, 1.0):
            steps, speed = self.trained.get("num_steps", 0), self.trained.get("tokens_per_second", 0.0)
            self._metrics_line(steps, None, speed, 0.0, progress=done)
        self.progress.update(f"evaluate ({100 * done:.0f}%)")


def whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """An environment variable as a whole number that is not negative. Raises BadInput."""
    text = environ.get(name) or str(default)
    if not text.isdecimal():
        raise BadInput(f"{name}={text} is no whole number", "give 0 or more, or unset it")
    return int(text)


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    """An environment variable as a positive number of seconds. Raises BadInput."""
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise BadInput(f"{name}={text} is no number of seconds", "give a number above 0, or unset it")
    return value
