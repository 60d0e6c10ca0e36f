"""Where the time of a training step goes: a trace of a few steady steps, and its kernels by kind.

`AUTOEXP_PROFILE=<folder>` asks a training for it. The folder then holds trace.json (for chrome://tracing or Perfetto)
and profile.json:

    steps              how many were traced
    ms_per_step        wall time of one
    busy_ms_per_step   of it, with a kernel running; the rest the device waited
    kinds              kind -> ms a step; their sum is more than busy where kernels overlap
    kernels            the longest ones: name, kind, ms a step, calls a step

Kinds come from the kernels' names, but for `optimizer`: that is all that was launched inside `optimizer.step()`. On a
CPU the operators take the place of kernels, each without those it calls.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoexp.model.storage import write_json

START = 10  # steps of the training before the trace: clocks and memory pools have settled
STEPS = 3
LONGEST = 40  # kernels listed one by one
OPTIMIZER = "optimizer.step"

# The first that is found in a kernel's name is its kind; none is elementwise.
KINDS = (
    ("copy", re.compile(r"memcpy|memset|copy_kernel|^aten::(_to_)?(copy_?|contiguous|clone)$", re.I)),
    ("attention", re.compile(r"flash|fmha|attention|sdpa|flex|_attn", re.I)),
    ("cross-entropy", re.compile(r"cross_entropy|nll_loss|softmax|softcap|tanh|logit|(loss|gradient)_kernel", re.I)),
    ("gemm", re.compile(r"gemm|nvjet|cutlass|cublas|xmma|wgmma|product_kernel|tem_fused_\w*mm|^aten::\w*mm$")),
)
ELEMENTWISE = "norm/elementwise"
ORDER = ("gemm", "attention", ELEMENTWISE, "cross-entropy", "optimizer", "copy")


@dataclass(frozen=True)
class Kernel:
    """One execution, times in microseconds."""

    name: str
    start: float
    duration: float
    launched: float  # when the host asked for it

    @property
    def kind(self) -> str:
        return next((kind for kind, pattern in KINDS if pattern.search(self.name)), ELEMENTWISE)


class StepProfiler:
    """Traces steps `start` to `start + steps - 1` of a training; call `step` before every step and `close` after all.

    Between the two nothing else of the training changes, but the traced steps are slower than others.
    """

    def __init__(self, folder: Path, device: torch.device, start: int = START, steps: int = STEPS) -> None:
        self.folder, self.device = folder, device
        self.first, self.end = start, start + steps
        self.trace: torch.profiler.profile | None = None
        self.done = False
        self.began = 0.0
        self.took = (0, 0.0)  # steps and seconds of a whole trace
        self._unmark: Callable[[], None] = lambda: None

    @classmethod
    def asked_for(cls, device: torch.device, environ: Mapping[str, str] = os.environ) -> StepProfiler | None:
        """The profiler of `$AUTOEXP_PROFILE`, None if it is not set."""
        named = environ.get("AUTOEXP_PROFILE")
        return cls(Path(named).expanduser().absolute(), device) if named else None

    def step(self, index: int, optimizer: Any) -> None:
        """Say that step number `index` is about to start. `optimizer.step` is marked while tracing."""
        if self.trace is None and not self.done and index >= self.first:
            self._start(optimizer, index)
        elif self.trace is not None and not self.done and index >= self.end:
            self._stop(index)

    def close(self) -> None:
        """Write what was traced, when the clock has stopped. A trace that is not complete is given up."""
        if self.trace is not None and not self.done:
            self.trace.stop()
            self._unmark()
        elif self.trace is not None:
            path = self.folder / "trace.json"
            self.trace.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)["traceEvents"]
            write_json(self.folder / "profile.json", summarize(events, *self.took))
        self.trace, self.done = None, True

    def _start(self, optimizer: Any, index: int) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.first, self.end = index, index + self.end - self.first
        self._unmark = mark(optimizer)
        self._synchronize()
        self.trace = torch.profiler.profile(activities=activities)
        self.trace.start()
        self.began = time.perf_counter()

    def _stop(self, index: int) -> None:
        assert self.trace is not None
        self._synchronize()
        self.took = index - self.first, time.perf_counter() - self.began
        self.trace.stop()
        self._unmark()
        self.done = True

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def mark(optimizer: Any) -> Callable[[], None]:
    """Put a named range around `optimizer.step`. Returns what takes it away again."""
    original, own = optimizer.step, vars(optimizer).get("step")

    def step(*arguments: Any, **named: Any) -> Any:
        with torch.profiler.record_function(OPTIMIZER):
            return original(*arguments, **named)

    def unmark() -> None:
        del optimizer.step  # of the object; its class's own is seen again
        if own is not None:
            optimizer.step = own

    optimizer.step = step
    return unmark


def summarize(events: Iterable[Mapping[str, Any]], steps: int, seconds: float) -> dict[str, Any]:
    """profile.json from the events of a chrome trace of `steps` steps that took `seconds` seconds."""
    events = [event for event in events if event.get("ph") == "X"]
    # `optimizer.step` also appears on the GPU's time line; what was launched counts, so the host's ranges.
    ranges = [
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") == OPTIMIZER and event.get("cat") == "user_annotation"
    ]
    on_gpu = gpu_kernels(events)
    kernels = on_gpu or cpu_operators(events)
    kinds: dict[str, float] = dict.fromkeys(ORDER, 0.0)
    single: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel in kernels:
        in_optimizer = any(start <= kernel.launched <= end for start, end in ranges)
        kind = "optimizer" if in_optimizer else kernel.kind
        kinds[kind] += kernel.duration
        single[kernel.name, kind].append(kernel.duration)
    scale = 1e-3 / steps  # microseconds in all to milliseconds a step
    longest = sorted(single.items(), key=lambda item: -sum(item[1]))[:LONGEST]
    return {
        "steps": steps,
        "ms_per_step": 1e3 * seconds / steps,
        "busy_ms_per_step": (busy(on_gpu) if on_gpu else sum(kernel.duration for kernel in kernels)) * scale,
        "kinds": {kind: total * scale for kind, total in kinds.items()},
        "kernels": [
            {"name": name[:160], "kind": kind, "ms": sum(times) * scale, "calls": len(times) / steps}
            for (name, kind), times in longest
        ],
    }


def gpu_kernels(events: Iterable[Mapping[str, Any]]) -> list[Kernel]:
    """What ran on the GPU, each with the time of the host's call that launched it."""
    launches = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    return [
        Kernel(event["name"], event["ts"], event["dur"], launches.get(event["args"].get("correlation"), event["ts"]))
        for event in events
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]


def cpu_operators(events: Iterable[Mapping[str, Any]]) -> list[Kernel]:
    """The operators of the host, each without the time of those that it called."""
    threads: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op":
            threads[event.get("tid")].append(event)
    found: list[Kernel] = []
    for operators in threads.values():
        own = [event["dur"] for event in operators]
        order = sorted(range(len(operators)), key=lambda i: (operators[i]["ts"], -operators[i]["dur"]))
        open_: list[int] = []  # from the outermost operator to the one that is running
        for index in order:
            start = operators[index]["ts"]
            while open_ and operators[open_[-1]]["ts"] + operators[open_[-1]]["dur"] <= start:
                open_.pop()
            if open_:
                own[open_[-1]] -= operators[index]["dur"]
            open_.append(index)
        found += [
            Kernel(event["name"], event["ts"], max(0.0, duration), event["ts"])
            for event, duration in zip(operators, own, strict=True)
        ]
    return found


def busy(kernels: Iterable[Kernel]) -> float:
    """Microseconds in which at least one kernel ran."""
    total, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        end = kernel.start + kernel.duration
        total += max(0.0, end - max(until, kernel.start))
        until = max(until, end)
    return total
