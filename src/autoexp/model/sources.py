"""Where the telemetry of an NVIDIA GPU comes from: NVML in this process, or the program nvidia-smi."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

MIB = 2**20
SMI_SECONDS = 5.0  # that an answer of nvidia-smi may take
# The second is what drivers before 535 call it.
REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


@dataclass(frozen=True)
class Reading:
    """What the GPU says at a moment; None for what it does not say."""

    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    utilisation_percent: float | None = None
    reasons: int | None = None  # bits of telemetry.REASONS


@dataclass(frozen=True)
class Facts:
    """What does not change. `other_memory_mb` is what other processes held at the start, MiB."""

    driver: str | None = None
    other_memory_mb: float | None = None


class Source(Protocol):
    """One GPU that can be asked. Any exception is allowed."""

    name: str
    every: float  # seconds between two readings

    def facts(self) -> Facts: ...

    def read(self) -> Reading: ...


def told(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


# -- which GPU --------------------------------------------------------------------------------------------------------


def find(gpu: str) -> Source:
    """The source for `gpu`, its number or GPU-… , perhaps only the beginning of it. Raises RuntimeError, saying why."""
    if gpu.startswith("MIG"):
        raise RuntimeError("a MIG slice has no clock, power or temperature of its own")
    reasons = []
    for kind in (Nvml, Smi):
        try:
            return kind(gpu)
        except Exception as error:  # whatever is missing or broken, the next may work
            reasons.append(f"{kind.name}: {told(error)}")
    raise RuntimeError("; ".join(reasons))


class Nvml:
    """NVIDIA's library, by the package nvidia-ml-py (module pynvml)."""

    name = "nvml"
    every = 2.0

    def __init__(self, gpu: str, library: Any = None) -> None:
        self.nvml: Any = library or importlib.import_module("pynvml")
        self.nvml.nvmlInit()
        if gpu.isdecimal():
            self.handle = self.nvml.nvmlDeviceGetHandleByIndex(int(gpu))
            return
        for index in range(self.nvml.nvmlDeviceGetCount()):
            self.handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
            if text(self.nvml.nvmlDeviceGetUUID(self.handle)).startswith(gpu):
                return
        raise RuntimeError(f"no GPU is called {gpu}")

    def facts(self) -> Facts:
        processes = attempt(lambda: self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle))
        held = None
        if processes is not None:
            used = [(int(one.pid), one.usedGpuMemory) for one in processes]
            held = other_memory([(pid, None if size is None else size / MIB) for pid, size in used])
        driver = attempt(self.nvml.nvmlSystemGetDriverVersion)
        return Facts(None if driver is None else text(driver), held)

    def read(self) -> Reading:
        nvml, handle = self.nvml, self.handle
        # The clock must answer: without it the GPU has fallen off the bus, and that is to be told.
        clock = float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        power = attempt(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        reasons = attempt(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if reasons is None:  # an old library or driver
            reasons = attempt(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return Reading(
            sm_clock_mhz=clock,
            power_w=None if power is None else power / 1000,
            temperature_c=attempt(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            utilisation_percent=attempt(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            reasons=reasons,
        )


class Smi:
    """The program nvidia-smi, called anew for every reading."""

    name = "nvidia-smi"
    every = 10.0

    def __init__(self, gpu: str, ask: Callable[[Sequence[str]], list[list[str]]] | None = None) -> None:
        self.ask = ask or ask_smi
        rows = self.ask(["--query-gpu=index,uuid,driver_version"])
        found = [row for row in rows if len(row) == 3 and (row[0] == gpu or row[1].startswith(gpu))]
        if not found:
            raise RuntimeError(f"no GPU is called {gpu}")
        _, self.gpu, self.driver = found[0]
        self.fields = ["clocks.sm", "power.draw", "temperature.gpu", "utilization.gpu"]
        # A field that the program does not know fails the whole question.
        known = (field for field in REASON_FIELDS if attempt(partial(self.ask, [f"--query-gpu={field}"])))
        self.fields += list(islice(known, 1))

    def facts(self) -> Facts:
        rows = attempt(lambda: self.ask(["--query-compute-apps=pid,used_memory", f"--id={self.gpu}"]))
        held = [(int(pid), number(size)) for pid, size in rows] if rows else []
        return Facts(self.driver, other_memory(held))

    def read(self) -> Reading:
        row = self.ask([f"--query-gpu={','.join(self.fields)}", f"--id={self.gpu}"])[0]
        clock, power, temperature, utilisation = map(number, row[:4])
        return Reading(clock, power, temperature, utilisation, attempt(lambda: int(row[4], 16)))


def ask_smi(question: Sequence[str]) -> list[list[str]]:
    """The answer of nvidia-smi, rows of fields. Raises OSError, RuntimeError or TimeoutExpired."""
    process = subprocess.Popen(
        ["nvidia-smi", *question, "--format=csv,noheader,nounits"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # it complains on either
        text=True,
        errors="replace",
    )
    try:
        answer, _ = process.communicate(timeout=SMI_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for: stuck in a driver it would not even die
        raise
    if process.returncode:
        raise RuntimeError(answer.strip() or f"nvidia-smi ended with {process.returncode}")
    return [[field.strip() for field in line.split(",")] for line in answer.splitlines() if line.strip()]


def other_memory(held: Sequence[tuple[int, float | None]]) -> float | None:
    """MiB that processes other than this one hold, of (pid, MiB) of each on the GPU. None where it cannot be told.

    Inside a container the driver tells the pids of outside, or of nobody. This process, which has the GPU open, is
    then not among them, and which memory is its own is not to be known.
    """
    if os.getpid() not in [pid for pid, _ in held]:
        return None
    others = [size for pid, size in held if pid != os.getpid()]
    return None if None in others else round(sum(size for size in others if size is not None), 1)


def attempt(question: Callable[[], Any]) -> Any:
    """The answer, None if the GPU or the driver has none to this question."""
    try:
        return question()
    except Exception:
        return None


def number(field: str) -> float | None:
    """A field of nvidia-smi; `[N/A]` and the like are None."""
    try:
        return float(field)
    except ValueError:
        return None


def text(value: str | bytes) -> str:
    """What older versions of the library give as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
