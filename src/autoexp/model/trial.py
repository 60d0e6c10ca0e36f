"""One training from start to report: what a train.py gets from the harness.

    with Trial(PROFILE) as trial:
        ... build a model and an optimizer on trial.device ...
        for step in trial.steps(model, optimizer, batches):
            ... forward; trial.backward(loss); trial.mean_gradients(model); optimizer.step() ...
            step.done(loss, lr_multiplier)
        trial.finish(model, losses)

Environment: AUTOEXP_REPORT, AUTOEXP_SEED, AUTOEXP_BUDGET_SECONDS, AUTOEXP_DATA, AUTOEXP_CHECKPOINT, AUTOEXP_EVALUATE,
AUTOEXP_EVALUATION, AUTOEXP_PROFILE, and those of devices.py, attention, memory.py and distributed.py.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from autoexp.model import attention, chance, memory
from autoexp.model.audit import check_causal, check_probabilities
from autoexp.model.clock import Optimizer, Rewind, TrainingClock, seconds_since_process_start
from autoexp.model.compiling import compile_regions, eager, use_caches
from autoexp.model.data import Batches, rows_at_a_time
from autoexp.model.devices import open_device
from autoexp.model.distributed import World, join
from autoexp.model.environ import seconds, whole_number
from autoexp.model.errors import OUT_OF_MEMORY, BadInput, TrainerError, TrainingFailed, tell
from autoexp.model.evaluate import Losses, evaluate
from autoexp.model.kernels import available
from autoexp.model.observer import Observer, Step
from autoexp.model.prepared import ROWS, TOKEN_BYTES, cache_folder, find_prepared
from autoexp.model.profiles import PROFILES
from autoexp.model.profiling import StepProfiler
from autoexp.model.report import (
    load_checkpoint,
    report_path,
    save_checkpoint,
    source_hash,
    summary,
    versions,
    whole,
    write_report,
)
from autoexp.model.scaling import LossScaler
from autoexp.model.telemetry import watch

DEFAULT_SEED = 42
WARMUP_STEPS = {"cuda": 3, "mps": 2, "cpu": 1}  # steps until nothing is compiled or allocated any more
MOST_WARMUP_STEPS = 20


class Trial:
    """The frozen side of a training: device, data, clock, evaluation, report.

    As a context manager it turns an exception into a failed report; expected ones exit with their code and a line,
    others keep their traceback. Where memory ran out the process starts again with half the rows at once.
    """

    def __init__(
        self, profile: str, environ: Mapping[str, str] = os.environ, clock: TrainingClock | None = None
    ) -> None:
        self.profile = PROFILES[profile]
        self.environ = environ
        self.phase = "setup"
        self.path: Path | None = None  # of report.json
        self.saved: Path | None = None  # the checkpoint, once there is one
        self.world = World()
        try:
            self.source = source_hash()  # now: the file may be edited while it runs
            self.path = report_path(environ)
            self.seed = whole_number(environ, "AUTOEXP_SEED", DEFAULT_SEED)
            budget = seconds(environ, "AUTOEXP_BUDGET_SECONDS", self.profile.budget_seconds)
            named = environ.get("AUTOEXP_CHECKPOINT")
            self.checkpoint = Path(named).expanduser().absolute() if named else None
            if self.checkpoint is not None and not self.checkpoint.is_file():
                raise BadInput(f"AUTOEXP_CHECKPOINT={self.checkpoint} is not there", "unset it to train")
            self.data = find_prepared(self.profile.name, environ)
            # Asked for in checks of a finished night only: a split that decisions see is no test.
            self.tests = "test" in environ.get("AUTOEXP_EVALUATE", "").split(",") and self.data.has("test")
            self.world = join({**environ, "AUTOEXP_REPORT": str(self.path)}, self.path.parent, self._lost)
            # The cpu profile stays on the CPU even beside a GPU: its budget is too short to compile anything.
            wanted = environ.get("AUTOEXP_DEVICE") or ("cpu" if self.profile.device == "cpu" else "best")
            self.device = open_device({**environ, "AUTOEXP_DEVICE": self.world.place(wanted)})
            if self.device.compiles:
                use_caches(cache_folder(environ) / "compiled")
            on_cpu = self.device.torch_device.type == "cpu"
            self.clock = clock or TrainingClock(budget, work=time.process_time if on_cpu else None)
            resumed, silent = self.checkpoint is not None, not self.world.leads
            self.observer = Observer(self.path.with_name("metrics.jsonl"), self.clock, resumed, silent)
        except TrainerError as error:
            self._failed(str(error))
            self.world.close(failed=True)
            sys.exit(tell(error))
        except OSError as error:
            sys.exit(tell(BadInput(f"{error.filename}: {error.strerror}", "name another AUTOEXP_REPORT")))
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        torch.manual_seed(self.seed)  # of every device
        chance.hold(self.observer.say)
        self.fact = memory.fact_path(self.source, self.device.name, self.device.total_memory(), environ)
        self.telemetry = watch(self.device, environ) if self.world.leads else None
        self.profiler = StepProfiler.asked_for(self.device.torch_device, environ) if self.world.leads else None
        self.scaler = LossScaler(self.device.scales_loss)
        self.attention = "sdpa"
        self.rows_per_part = 1
        self.step: Step | None = None  # the one under way
        self.facts: dict[str, Any] = {}
        self.trained: dict[str, Any] = {}
        together = f" and {self.world.size - 1} more" if self.world.size > 1 else ""
        threads = f", {self.device.threads} threads" if self.device.threads else ""
        self.observer.say(
            f"profile {self.profile.name}, {self.device.torch_device}{together}{threads}, seed {self.seed}, "
            f"budget {self.clock.budget:g} s, data {self.data.folder}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.observer.close()
        if isinstance(error, Exception):
            if memory.is_out_of_memory(error):
                self._again_with_less()
            first = (str(error).strip().splitlines() or [""])[0]
            self._failed(first if isinstance(error, TrainerError) else f"{type(error).__name__}: {first}")
        self.world.close(failed=error is not None)
        if isinstance(error, TrainerError):
            raise SystemExit(tell(error)) from None

    def _again_with_less(self) -> None:
        """Start this process again with half the rows at once; what was trained already is only evaluated again."""
        trained = self.saved or self.checkpoint
        if trained is None:  # what evaluation wants is no matter to a training
            memory.remember(self.fact, max(1, self.rows_per_part // 2))
        if not self.world.leads:
            print(f"out of memory with {self.rows_per_part} rows at once", flush=True)  # in its log
            os._exit(OUT_OF_MEMORY)  # the first process starts all of them again
        self.world.close(failed=True)
        checkpoint = {"AUTOEXP_CHECKPOINT": str(trained)} if trained is not None else {}
        memory.retry_at_half(self.rows_per_part, {**self.environ, **checkpoint})

    def _lost(self, error: TrainingFailed) -> None:
        """Another process has ended, and this one is about to."""
        if memory.is_out_of_memory(error):
            self._again_with_less()
        self._failed(str(error))

    def _failed(self, reason: str) -> None:
        if self.path is not None and self.world.leads:
            facts = {"checkpoint": str(self.saved)} if self.saved is not None else {}
            write_report(self.path, {"status": "failed", "phase": self.phase, "reason": reason, **facts})

    # --- building -----------------------------------------------------------------------------------------------

    def batches(self, tokens_per_step: int, most_rows: int, row_bytes: float = 0, share: float = 1.0) -> Batches:
        """Training batches of about `tokens_per_step` tokens, rounded down to whole rows, one a process at least.

        At most `most_rows` rows go through the model at once, fewer if rows of `row_bytes` bytes of activations
        would not fit the device, or did not the last time, so that any size of step can be trained. A step of
        `share`, 1 over a whole number, of the tokens has whole parts too, however many rows fit.
        """
        world = self.world
        world.connect(self.device.torch_device)
        most_rows = memory.most_rows(most_rows, self.fact, self.environ)
        times = max(1, round(1 / share))
        smallest = max(1, tokens_per_step // self.data.seq_len // world.size // times)
        fits = rows_at_a_time(smallest, most_rows, row_bytes, self.device.free_memory())
        self.rows_per_part = world.least(fits)  # a divisor too: all have the same choice of them
        own_rows = smallest * times
        rows, device = self.data.rows("train"), self.device.torch_device
        return Batches(rows, own_rows * world.size, self.rows_per_part, self.seed, device, world.rank, world.size)

    def compiled(self, model: torch.nn.Module, windows: Iterable[int] = (), head_dim: int = 128) -> Losses:
        """`model` made fast for this device; `windows` are those it calls `attend` with, on heads of `head_dim`."""
        device = self.device
        available.settle(device.torch_device, device.compiles)
        self.attention = attention.prepare(
            self.data.seq_len,
            windows,
            device.torch_device,
            device.compiles,
            dtype=device.dtype,
            head_dim=head_dim,
            environ=self.environ,
        )
        if device.compiles:
            compile_regions(model)
        return model

    def describe(self, **facts: Any) -> None:
        """Put facts about the model into the report: depth, and flops_per_token for the utilisation."""
        self.facts.update(facts)

    # --- training -----------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; in fp16 it is scaled first, so that small ones do not vanish."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call,unused-ignore]

    def mean_gradients(self, model: torch.nn.Module) -> bool:
        """After the last backward pass of a step: make every gradient the mean over all GPUs, and unscaled.

        Returns whether the step may be taken: in fp16 one without finite gradients is left out.
        """
        self.world.mean_gradients(model.parameters())
        good = self.scaler.unscale(model.parameters())
        if self.step is not None:
            self.step.averaged, self.step.good = True, good
        return good

    def steps(self, model: torch.nn.Module, optimizer: Optimizer, batches: Batches) -> Iterator[Step]:
        """Steps to take until the budget is spent. Those of the warm-up come first and are undone.

        With AUTOEXP_CHECKPOINT there are none: its weights are loaded instead.
        """
        self.world.connect(self.device.torch_device)
        if self.checkpoint is not None:
            self.trained = load_checkpoint(self.checkpoint, model, self.device.torch_device)
            self.observer.say(f"weights of {self.checkpoint}, {self.trained.get('num_steps')} steps; not training")
            return
        began = seconds_since_process_start()
        yield from self._warm_up(model, optimizer, batches)
        self.phase = "train"
        self.world.barrier()
        started = seconds_since_process_start()
        if self.telemetry is not None:
            self.telemetry.start()
        self.clock.start()
        pending: Step | None = None
        # On a GPU the loss is read one step late, when it has long been computed: the queue never runs dry, and
        # never runs further ahead of the clock than one step.
        late = self.device.torch_device.type != "cpu"
        index = 0
        while True:
            progress, spent = self.world.broadcast(self.clock.progress, self.clock.spent)  # one clock for all
            if spent:
                break
            if self.profiler is not None:
                self.profiler.step(index, optimizer)
            step = self.step = Step(index, progress, warmup=False)
            yield step
            self._taken(step, batches)
            index += 1
            computed = pending if late else step
            pending = step if late else None
            if computed is not None:
                self._observe(computed, batches)
        if pending is not None:
            self._observe(pending, batches)
        self.device.synchronize()
        self.clock.stop()
        if self.telemetry is not None:
            self.telemetry.stop()
        if self.profiler is not None:
            self.profiler.close()
        batches.close()
        gc.enable()
        self._trained(index, batches.tokens, started, started - began)

    def _warm_up(self, model: torch.nn.Module, optimizer: Optimizer, batches: Batches) -> Iterator[Step]:
        """Steps that compile, or load what was compiled, and allocate; then all is as it was before them."""
        self.phase = "warmup"
        self.world.broadcast_parameters(model)
        if self.world.rank:
            torch.manual_seed(self.seed + self.world.rank)  # from here on chance, dropout say, is each process's own
        before = Rewind(model, optimizer, batches)
        guard = self.observer.guard
        index = taken = 0
        while taken < WARMUP_STEPS[self.device.torch_device.type] and index < MOST_WARMUP_STEPS:
            step = self.step = Step(index, 0.0, warmup=True)
            yield step
            self._taken(step, batches)
            self._observe(step, batches)
            index, taken = index + 1, taken + step.good  # in fp16 the first ones may only find the scale
        before.restore()
        del before
        self.observer.guard = type(guard)()
        self.device.synchronize()
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection in the middle of a step stalls it for up to half a second

    def _taken(self, step: Step, batches: Batches) -> None:
        """Check that a step was all that it must be, and make its loss that of all processes."""
        if step.loss is None:
            raise BadInput("train.py took a step without step.done(loss)", "call it at the end of every step")
        if not step.averaged and (self.world.size > 1 or self.scaler.wanted):
            raise BadInput("train.py took a step without trial.mean_gradients(model)", "call it before optimizer.step")
        self.world.mean([step.loss])
        step.tokens = batches.tokens

    def _observe(self, step: Step, batches: Batches) -> None:
        """Read the loss of a step; one process does it for all."""
        if self.world.leads and step.loss is not None:
            self.observer.step(self.phase, step, float(step.loss), batches.epoch)

    def _trained(self, steps: int, tokens: int, startup: float, compiling: float) -> None:
        elapsed, flops = self.clock.elapsed, self.facts.get("flops_per_token")
        peak = self.device.peak_flops
        curve = self.observer.curve.points()
        self.trained = {
            "train_loss": curve[-1][1] if curve else None,
            "loss_curve": curve,
            "total_tokens": tokens,
            "num_steps": steps,
            "tokens_per_second": tokens / elapsed,
            "mfu_percent": 100 * flops * tokens / elapsed / (peak * self.world.size) if peak and flops else None,
            "training_seconds": elapsed,
            "training_wall_seconds": self.clock.wall,
            "startup_seconds": startup,
            "compile_seconds": compiling,
            "peak_memory_mb": self.device.peak_memory_mb(),
            "seed": self.seed,
            "gpus": self.world.size,
            "device_batch": self.rows_per_part,
            "telemetry": self.telemetry.report() if self.telemetry is not None else None,
            "source_hash": self.source,
        }

    # --- judging ------------------------------------------------------------------------------------------------

    def finish(self, model: torch.nn.Module, losses: Losses) -> float | None:
        """Save the weights, evaluate, report and print the summary. Returns the validation bits per byte.

        With AUTOEXP_EVALUATION=judge other processes evaluate the weights (judge.py): it saves them and returns None.
        `losses` is what `compiled` returned: called with inputs and targets it gives the cross-entropy of every
        target, (rows, seq_len) float32, in nats. `model` itself must take shorter rows too. Raises TrainingFailed
        if they fail the tests of audit.py.
        """
        assert self.path is not None
        self.phase = "evaluate"
        model.eval()
        self.world.broadcast_parameters(model)  # what is judged is what is saved, whatever train.py did
        judged = self.environ.get("AUTOEXP_EVALUATION") == "judge"
        if not self.world.leads:
            if judged:
                return None
            val_bpb = evaluate(losses, self.data, self.device, self.rows_per_part, world=self.world)
            if self.tests:
                evaluate(losses, self.data, self.device, self.rows_per_part, world=self.world, split="test")
            return val_bpb
        report = {"status": "evaluating", "phase": "evaluate", **self._facts(model)}
        report["evaluated_by"] = "judge" if judged else "trainer"
        report["checkpoint"] = str(self.checkpoint or self.path.with_name("checkpoint.pt"))
        began = seconds_since_process_start()
        if judged:
            self._evaluated(0.0)
            self._save(model, report)
            self._ended(report | {"status": "trained", "total_seconds": seconds_since_process_start()})
            return None
        with ThreadPoolExecutor(2) as pool:  # while the device evaluates them, weights are written and rows are hashed
            saving = pool.submit(self._save, model, report)
            hashing = pool.submit(self.data.hashes, (TOKEN_BYTES, ROWS["val"]))
            self._evaluated(0.0)
            val_bpb = evaluate(losses, self.data, self.device, self.rows_per_part, self._evaluated, self.world)
            metrics = {"val_bpb": val_bpb}
            if self.tests:
                metrics["test_bpb"] = evaluate(
                    losses, self.data, self.device, self.rows_per_part, world=self.world, split="test"
                )
            check_causal(losses, self.data, self.device, self.rows_per_part if self.device.compiles else 1)
            with eager() if self.device.compiles else nullcontext():  # shapes that come once
                check_probabilities(model, self.data, self.device)
            saving.result()
            hashing.result()
        self._evaluated(1.0)
        ended = seconds_since_process_start()
        report |= {
            "status": "ok",
            "metrics": metrics,
            "val_bpb": val_bpb,
            "eval_seconds": ended - began,
            "total_seconds": ended,
            "peak_memory_mb": max(self.device.peak_memory_mb(), report["peak_memory_mb"]),
        }
        self._ended(report)
        return val_bpb

    def _ended(self, report: dict[str, Any]) -> None:
        assert self.path is not None
        self.phase = "done"
        write_report(self.path, whole({**report, "phase": "done"}))
        self.observer.say(summary(report))

    def _save(self, model: torch.nn.Module, report: dict[str, Any]) -> None:
        """Write the weights, unless they came from a file, and say that an evaluation may go on from them."""
        assert self.path is not None
        saved = Path(report["checkpoint"])
        if self.checkpoint is None:
            save_checkpoint(saved, model, report)
        self.saved = saved
        write_report(self.path, whole(report))

    def _facts(self, model: torch.nn.Module) -> dict[str, Any]:
        device = self.device
        return {
            **self.trained,
            "num_params": sum(parameter.numel() for parameter in model.parameters()),
            "flops_per_token": self.facts.get("flops_per_token"),
            "depth": self.facts.get("depth"),
            "profile": self.profile.name,
            "data": {"dataset": self.data.meta["dataset"], "hash": self.data.meta["hash"]},
            "device": f"cuda ({device.name})" if device.torch_device.type == "cuda" else device.torch_device.type,
            "dtype": str(device.dtype).removeprefix("torch."),
            "peak_flops": device.peak_flops,
            "threads": device.threads or None,
            "attention": self.attention,
            "budget_seconds": self.clock.budget,
            "torch": torch.__version__,
            "versions": versions(),
        }

    def _evaluated(self, done: float) -> None:
        self.observer.evaluated(done, self.trained.get("num_steps", 0), self.trained.get("tokens_per_second", 0.0))
