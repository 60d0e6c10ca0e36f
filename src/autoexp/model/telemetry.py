"""The GPU while it trains: clocks, power, temperature, load, and what held the clocks back.

A thread asks every few seconds. Nothing it meets disturbs the training: what goes wrong becomes `reason` in the report.
Sources, the first that works: NVML by nvidia-ml-py (a call takes well under a millisecond, so every 2 s), the program
nvidia-smi (a process each time, so every 10 s). There is none for AMD, MPS and the CPU.

    telemetry = watch(device)       starts the thread, which finds a source
    telemetry.start()               from now on it counts
    telemetry.stop()
    telemetry.report()              None where there is nothing to ask
"""

from __future__ import annotations

import os
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from autoexp.model.devices import Device
from autoexp.model.sources import Facts, Reading, Source, find, told

FAILURES = 3  # in a row until it gives up
STOP_SECONDS = 0.2  # that the training waits for the thread, at most

# Bits of NVML's "clocks event reasons" (nvml.h), which older drivers call throttle reasons.
REASONS = {
    0x001: "idle",
    0x002: "application_clocks",
    0x004: "power_cap",
    0x008: "hardware_slowdown",
    0x010: "sync_boost",
    0x020: "thermal_slowdown",
    0x040: "hardware_thermal_slowdown",
    0x080: "power_brake",
    0x100: "display_clocks",
}


class Telemetry:
    """Readings of one GPU. `find` is called in the thread and returns its source or raises, with the reason."""

    def __init__(self, find: Callable[[], Source]) -> None:
        self.find = find
        self.readings: list[Reading] = []
        self.facts = Facts()
        self.source: str | None = None
        self.reason: str | None = None  # of the last thing that went wrong
        self.begin, self.end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self.thread.start()

    def start(self) -> None:
        self.begin.set()

    def stop(self) -> None:
        """End it. A source that hangs is left behind: the thread dies with the process."""
        self.end.set()
        self.begin.set()
        self.thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            source = self.find()
            self.facts, self.source = source.facts(), source.name
        except Exception as error:
            self.reason = told(error)
            return
        failures = 0
        self.begin.wait()
        while not self.end.wait(source.every) and failures < FAILURES:
            try:
                self.readings.append(source.read())
                failures = 0
            except Exception as error:
                self.reason = told(error)
                failures += 1

    def report(self) -> dict[str, Any]:
        """The readings in short, as docs/reference/report.md has it under `telemetry`."""
        readings = list(self.readings)
        reasons = [reading.reasons for reading in readings if reading.reasons is not None]
        seen = Counter(name for bits in reasons for bit, name in REASONS.items() if bits & bit)
        return {
            "source": self.source,
            "samples": len(readings),
            "sm_clock_mhz": spread([reading.sm_clock_mhz for reading in readings]),
            "power_w": spread([reading.power_w for reading in readings]),
            "temperature_c": spread([reading.temperature_c for reading in readings]),
            "utilisation_percent": spread([reading.utilisation_percent for reading in readings]),
            "throttle": {name: round(count / len(reasons), 3) for name, count in seen.items()} if reasons else None,
            "other_memory_mb": self.facts.other_memory_mb,
            "driver": self.facts.driver,
            "reason": self.reason,
        }


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Median, least and most of what was said; None if nothing was."""
    said = [value for value in values if value is not None]
    if not said:
        return None
    return {"median": round(statistics.median(said), 1), "min": round(min(said), 1), "max": round(max(said), 1)}


def watch(device: Device, environ: Mapping[str, str] = os.environ) -> Telemetry | None:
    """Telemetry of `device`, to be started; None where there is no NVIDIA GPU to ask."""
    if device.torch_device.type != "cuda" or device.capability is None:
        return None
    name = gpu_name(device.torch_device.index or 0, environ, uuid_of(device.torch_device))
    return Telemetry(lambda: find(name))


def uuid_of(device: torch.device) -> str | None:
    """What identifies the GPU whatever it is numbered, None where torch does not tell."""
    try:
        return str(torch.cuda.get_device_properties(device).uuid)
    except (AttributeError, AssertionError, RuntimeError):
        return None


def gpu_name(index: int, environ: Mapping[str, str], uuid: str | None = None) -> str:
    """The GPU that torch numbers `index`, by a name for the driver: its number, or GPU-… or MIG-… .

    Torch counts the GPUs in `CUDA_VISIBLE_DEVICES`, which has numbers or (beginnings of) names. Its own knowledge of
    the card's name, `uuid`, is better: the numbers of CUDA, fastest first, may not be those of the driver.
    """
    visible = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    named = visible[index] if index < len(visible) else str(index)
    if named.startswith("MIG"):
        return named
    if uuid is not None:
        return f"GPU-{uuid.removeprefix('GPU-')}"
    return named
