"""The machine: which device, which precision, how fast it could be, how many threads pay.

Settings by environment: `AUTOEXP_DEVICE` (cpu, cuda, cuda:1, mps) over the pick, `AUTOEXP_THREADS` over the probe.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from autoexp.model.errors import BadInput

# Dense bf16 operations a second, by a part of the device's name; the first that matches counts.
PEAK_FLOPS = (
    ("GH200", 989.5e12),
    ("H200", 989.5e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989.5e12),
    ("H800", 989.5e12),
    ("B200", 2250e12),
    ("B100", 1750e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("A10G", 70e12),
    ("L4", 121e12),
)


@dataclass(frozen=True)
class Device:
    """What a training runs on. `dtype` is that of the matrix products; weights but the embeddings are float32."""

    torch_device: torch.device
    dtype: torch.dtype
    compiles: bool
    threads: int  # of the CPU; 0 where they do not matter
    peak_flops: float | None  # a second; None if unknown

    def autocast(self) -> AbstractContextManager[object]:
        """Run matrix products in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self.dtype)

    def synchronize(self) -> None:
        """Wait until the device has done all it was asked to."""
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
        elif self.torch_device.type == "mps":
            torch.mps.synchronize()

    def peak_memory_mb(self) -> float:
        """The most memory that was in use at once, MiB: of the GPU, else of this process."""
        if self.torch_device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.torch_device) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated, where it is known and limited: on CUDA."""
        return torch.cuda.mem_get_info(self.torch_device)[0] if self.torch_device.type == "cuda" else None


def open_device(environ: Mapping[str, str] = os.environ, default: str = "best") -> Device:
    """Set torch up for `$AUTOEXP_DEVICE`, else for `default`; `best` is CUDA, else MPS, else the CPU.

    Raises BadInput for a device or thread count that is none.
    """
    name = environ.get("AUTOEXP_DEVICE") or (best_device() if default == "best" else default)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f"AUTOEXP_DEVICE={name} cannot be used: {reason}", "unset it, or name cpu, cuda or mps"
        ) from None
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32 for what is not autocast
        compiles = environ.get("AUTOEXP_COMPILE", "1") != "0"
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        return Device(device, dtype, compiles, 0, peak_of(torch.cuda.get_device_name(device)))
    threads = choose_threads(environ) if device.type == "cpu" else 0
    return Device(device, torch.float32, False, threads, None)


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def peak_of(name: str) -> float | None:
    """Dense bf16 operations a second of the GPU called `name`, None if it is not in the table."""
    return next((flops for part, flops in PEAK_FLOPS if part in name), None)


def choose_threads(environ: Mapping[str, str]) -> int:
    """Set and return the number of CPU threads: `AUTOEXP_THREADS`, else the fastest by a short test.

    Torch's threads wait for each other after every operation. If another program holds one of the cores they all
    wait for that one, and two threads are then several times slower than one; so the machine is asked, not assumed.
    """
    if named := environ.get("AUTOEXP_THREADS"):
        if not named.isdecimal() or int(named) < 1:
            raise BadInput(f"AUTOEXP_THREADS={named} is no number of threads", "give 1 or more, or unset it")
        torch.set_num_threads(int(named))
        return int(named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    best, best_seconds = 1, time_threads(1)
    tried = 2
    while tried <= min(cores, 16):
        seconds = time_threads(tried)
        if seconds > 0.75 * best_seconds:  # more threads must earn their keep, or the choice would be a coin toss
            break
        best, best_seconds = tried, seconds
        tried *= 2
    torch.set_num_threads(best)
    return best


def time_threads(threads: int, repeats: int = 8) -> float:
    """Median seconds of a piece of work like one layer's, with so many threads; about 50 ms in all."""
    torch.set_num_threads(threads)
    wide, tall = torch.ones(2048, 128), torch.ones(128, 512)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        hidden = torch.relu(wide @ tall).square()
        (hidden @ tall.T).softmax(-1).sum()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]
