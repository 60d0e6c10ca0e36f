"""The time budget: it counts from the first real step, after a warm-up that leaves no trace.

The first steps of a process compile kernels, grow memory pools and start threads. They are run, then undone: weights,
optimizer, batches and random numbers are put back, and the clock starts.
"""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from autoexp.model.data import Batches

IMPORTED = time.time()
HANDED_OVER = "AUTOEXP_HANDED_OVER"
"""<pid>:<time.monotonic()> of a process that had stood by, and of when it was given its job."""


def seconds_since_process_start() -> float:
    """Age of this process, imports included; where the system does not say, since this module was imported.

    A process that stood by counts from when it was given its job: it waited for others until then.
    """
    pid, _, moment = os.environ.get(HANDED_OVER, "").partition(":")
    if pid == str(os.getpid()):  # not of a parent; exec keeps the number
        return time.monotonic() - float(moment)
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])  # field 22: start, in clock ticks since boot
            age = float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
            if age >= time.time() - IMPORTED - 0.1:
                return age
    except (OSError, ValueError, IndexError):
        pass
    return time.time() - IMPORTED


class TrainingClock:
    """Seconds spent training, against a budget in seconds.

    Where the processor itself does the training (`work` counts its seconds) and other programs want it too, the time
    they took is not counted: their noise in the steps taken would drown what a trial is to find out. But a training
    never takes more than `STRETCH` times its budget by the clock on the wall.
    """

    STRETCH = 2.0

    def __init__(
        self,
        budget: float,
        now: Callable[[], float] = time.perf_counter,
        work: Callable[[], float] | None = None,
    ) -> None:
        self.budget = budget
        self.now, self.work = now, work
        self.started: tuple[float, float] | None = None  # now, work
        self.stopped: tuple[float, float] | None = None

    def start(self) -> None:
        self.started = self._read()

    def stop(self) -> None:
        """End the counting: evaluation is no training."""
        self.stopped = self._read()

    def _read(self) -> tuple[float, float]:
        return self.now(), self.work() if self.work else 0.0

    @property
    def wall(self) -> float:
        """Seconds since the start, 0 before it."""
        return 0.0 if self.started is None else (self.stopped or self._read())[0] - self.started[0]

    @property
    def elapsed(self) -> float:
        """Seconds of training, 0 before the start."""
        if self.started is None or self.work is None:
            return self.wall
        # Several threads together do more than a second of work in a second: that is no reason to stop earlier.
        return max(self.wall / self.STRETCH, min(self.wall, (self.stopped or self._read())[1] - self.started[1]))

    @property
    def progress(self) -> float:
        """The part of the budget that is spent, 0 to 1."""
        return min(self.elapsed / self.budget, 1.0)

    @property
    def spent(self) -> bool:
        return self.elapsed >= self.budget


class Optimizer(Protocol):
    """What the harness needs of an optimizer: torch's own have it."""

    param_groups: list[dict[str, Any]]
    state: Any  # parameter -> dict of numbers and tensors


class Rewind:
    """What a step changes, as it was when this was made; `restore` puts it all back, in place."""

    def __init__(self, model: torch.nn.Module, optimizer: Optimizer, batches: Batches) -> None:
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.tensors = [tensor.detach().clone() for tensor in self._tensors()]
        # Not state_dict(): that of torch.optim imports torch's compiler.
        self.state = {parameter: copy.deepcopy(state) for parameter, state in optimizer.state.items()}
        self.settings = [
            {k: copy.copy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups
        ]
        self.random = torch.get_rng_state()
        self.others = random.getstate(), np.random.get_state()
        self.mps_random = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self.cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def _tensors(self) -> list[torch.Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, earlier in zip(self._tensors(), self.tensors, strict=True):
            tensor.copy_(earlier)
        self.model.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        for group, settings in zip(self.optimizer.param_groups, self.settings, strict=True):
            group.update(settings)
        self.batches.rewind()
        torch.set_rng_state(self.random)
        random.setstate(self.others[0])
        np.random.set_state(self.others[1])
        if self.mps_random is not None:
            torch.mps.set_rng_state(self.mps_random)
        if self.cuda_random:
            torch.cuda.set_rng_state_all(self.cuda_random)
