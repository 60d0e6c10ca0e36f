"""The machine: which device, which precision, how fast it could be, how many threads pay.

Settings by environment: `AUTOEXP_DEVICE` (cpu, cuda, cuda:1, mps) over the pick, `AUTOEXP_THREADS` over the probe,
`AUTOEXP_COMPILE=0` against compiling.

    CUDA from 8.0 (Ampere on)     bf16, compiled
    CUDA 7.0 to 7.5               fp16 with loss scaling, compiled
    CUDA 5.3 to 6.2               fp16 with loss scaling, eager: Triton needs 7.0
    older                         fp32, eager
    AMD, by ROCm                  bf16 and compiled on CDNA and from RDNA 3 on, else fp16 with loss scaling and eager
    MPS, CPU                      fp32, eager

This was run on an H100 and on CPUs. What is said of all other cards, of ROCm and of MPS is tested with made-up answers
to `Query` and never was on the hardware.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from autoexp.model.cards import peak_of
from autoexp.model.errors import BadInput

BF16_FROM = (8, 0)  # CUDA compute capabilities
FP16_FROM = (5, 3)
TRITON_FROM = (7, 0)
# AMD's architectures with matrix units for bf16, which are also those that Triton compiles for.
MATRIX_ARCHITECTURES = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")


def use(device: torch.device) -> torch.device:
    """Make `device` the current one, and return it with its number. Raises RuntimeError if it is not usable."""
    torch.empty(1, device=device)
    if device.type != "cuda":
        return device
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")  # TF32 for what is not autocast
    return device


def memory_of(device: torch.device) -> tuple[int, int] | None:
    """(free, total) bytes of the device, None where there is no limit of its own. MPS: of what it recommends to use."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return max(0, total - torch.mps.current_allocated_memory()), total
    return None


def architecture_of(device: torch.device) -> str:
    """AMD's name of the architecture, like gfx942; empty for NVIDIA."""
    if torch.version.hip is None:
        return ""
    return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]


@dataclass(frozen=True)
class Query:
    """All that is asked of the machine's devices. A test gives other answers, and so has any card."""

    cuda_available: Callable[[], bool] = torch.cuda.is_available
    mps_available: Callable[[], bool] = torch.backends.mps.is_available
    triton_importable: Callable[[], bool] = lambda: importlib.util.find_spec("triton") is not None
    use: Callable[[torch.device], torch.device] = use
    device_name: Callable[[torch.device], str] = torch.cuda.get_device_name
    capability: Callable[[torch.device], tuple[int, int]] = torch.cuda.get_device_capability
    architecture: Callable[[torch.device], str] = architecture_of
    memory: Callable[[torch.device], tuple[int, int] | None] = memory_of


MACHINE = Query()


@dataclass(frozen=True)
class Device:
    """What a training runs on. `dtype` is that of the matrix products; weights but the embeddings are float32."""

    torch_device: torch.device
    dtype: torch.dtype
    compiles: bool
    threads: int  # of the CPU; 0 where they do not matter
    peak_flops: float | None  # a second, of matrix products in dtype; None if unknown
    name: str = ""  # of the card; cpu or mps
    capability: tuple[int, int] | None = None  # CUDA's; None elsewhere
    scales_loss: bool = False  # whether dtype needs it: see scaling.py
    query: Query = field(default=MACHINE, repr=False, compare=False)

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
        """The most memory that was in use at once, MiB: of the GPU, else of this process.

        MPS keeps no record of the most: it is what it holds now, and it gives little back.
        """
        if self.torch_device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.torch_device) / 2**20
        if self.torch_device.type == "mps":
            return torch.mps.driver_allocated_memory() / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated, where it is known and limited: on GPUs."""
        memory = self.query.memory(self.torch_device)
        return None if memory is None else memory[0]

    def total_memory(self) -> int | None:
        """Bytes of the device, likewise."""
        memory = self.query.memory(self.torch_device)
        return None if memory is None else memory[1]


def open_device(environ: Mapping[str, str] = os.environ, default: str = "best", query: Query = MACHINE) -> Device:
    """Set torch up for `$AUTOEXP_DEVICE`, else for `default`; `best` is CUDA, else MPS, else the CPU.

    Raises BadInput for a device or thread count that is none.
    """
    name = environ.get("AUTOEXP_DEVICE") or (best_device(query) if default == "best" else default)
    try:
        device = query.use(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"AUTOEXP_DEVICE={name} cannot be used: {reason}", "unset it, or name cpu, cuda or mps"
        ) from None
    if device.type == "cuda":
        return open_card(device, environ, query)
    threads = choose_threads(environ) if device.type == "cpu" else 0
    return Device(device, torch.float32, False, threads, None, device.type, query=query)


def open_card(device: torch.device, environ: Mapping[str, str], query: Query) -> Device:
    """The GPU `device` of NVIDIA or, by ROCm, of AMD, as the table above says."""
    name, capability, architecture = query.device_name(device), query.capability(device), query.architecture(device)
    # Not torch.cuda.is_bf16_supported(): it says yes where bf16 is only emulated, slower than fp32.
    if architecture:
        native = triton = architecture.startswith(MATRIX_ARCHITECTURES)
        dtype = torch.bfloat16 if native else torch.float16
    else:
        triton = capability >= TRITON_FROM
        dtype = (
            torch.bfloat16 if capability >= BF16_FROM else torch.float16 if capability >= FP16_FROM else torch.float32
        )
    return Device(
        torch_device=device,
        dtype=dtype,
        compiles=triton and environ.get("AUTOEXP_COMPILE", "1") != "0" and query.triton_importable(),
        threads=0,
        peak_flops=peak_of(name, dtype),
        name=name,
        capability=None if architecture else capability,
        scales_loss=dtype == torch.float16,
        query=query,
    )


def best_device(query: Query = MACHINE) -> str:
    if query.cuda_available():
        return "cuda"
    return "mps" if query.mps_available() else "cpu"


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
