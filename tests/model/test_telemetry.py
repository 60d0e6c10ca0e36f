"""Telemetry with GPUs that are made up at the seam where they are asked; real threads, a real program as nvidia-smi."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoexp.model.devices import Device, open_device
from autoexp.model.sources import Nvml, Smi, ask_smi, find, other_memory
from autoexp.model.telemetry import FAILURES, Facts, Reading, Telemetry, gpu_name, watch

UUIDS = ("GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-22222222-aaaa-bbbb-cccc-000000000000")


class Made:
    """A source that gives the readings it was made with, then the last one again; an exception is raised."""

    name = "made"
    every = 0.001

    def __init__(self, *readings: Reading | Exception) -> None:
        self.left = list(readings)
        self.asked = 0

    def facts(self) -> Facts:
        return Facts("570.1", 12.5)

    def read(self) -> Reading:
        self.asked += 1
        reading = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(reading, Exception):
            raise reading
        return reading


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    for _ in range(int(200 * seconds)):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


@pytest.fixture
def started() -> Iterator[Callable[[Made], Telemetry]]:
    """Starts telemetry of a source, and ends it after the test."""
    running = []

    def start(source: Made) -> Telemetry:
        running.append(Telemetry(lambda: source))
        running[-1].start()
        return running[-1]

    yield start
    for telemetry in running:
        telemetry.stop()
        until(lambda telemetry=telemetry: not telemetry.thread.is_alive())  # type: ignore[misc]


# -- the thread -------------------------------------------------------------------------------------------------------


def test_the_readings_in_short(started: Callable[[Made], Telemetry]) -> None:
    source = Made(
        Reading(1980, 500, 40, 100, 0),
        Reading(1400, 700, 60, 90, 0x4 | 0x20),
        Reading(1755, None, 55, 99, 0x4),
    )
    telemetry = started(source)
    until(lambda: len(telemetry.readings) >= 3)
    telemetry.stop()
    until(lambda: not telemetry.thread.is_alive())
    telemetry.readings = telemetry.readings[:3]

    report = telemetry.report()
    shares = report.pop("throttle")
    assert shares == {"power_cap": pytest.approx(2 / 3, abs=1e-3), "thermal_slowdown": pytest.approx(1 / 3, abs=1e-3)}
    assert report == {
        "source": "made",
        "samples": 3,
        "sm_clock_mhz": {"median": 1755, "min": 1400, "max": 1980},
        "power_w": {"median": 600, "min": 500, "max": 700},
        "temperature_c": {"median": 55, "min": 40, "max": 60},
        "utilisation_percent": {"median": 99, "min": 90, "max": 100},
        "other_memory_mb": 12.5,
        "driver": "570.1",
        "reason": None,
    }


def test_nothing_counts_before_the_start_and_after_the_stop() -> None:
    source = Made(Reading(1))
    telemetry = Telemetry(lambda: source)
    until(lambda: telemetry.source == "made")
    assert source.asked == 0
    telemetry.start()
    until(lambda: source.asked > 0)
    telemetry.stop()
    until(lambda: not telemetry.thread.is_alive())
    asked = source.asked
    assert len(telemetry.report()) == 10 and telemetry.report()["samples"] == asked


def test_it_is_stopped_without_having_been_started() -> None:
    telemetry = Telemetry(lambda: Made(Reading(1)))
    telemetry.stop()
    until(lambda: not telemetry.thread.is_alive())
    assert telemetry.report()["samples"] <= 1 and telemetry.report()["throttle"] is None


def test_a_failure_is_told_and_a_row_of_them_ends_it(started: Callable[[Made], Telemetry]) -> None:
    lost = Made(Reading(1000), RuntimeError("GPU is\nlost"))
    telemetry = started(lost)
    until(lambda: not telemetry.thread.is_alive())
    assert lost.asked == 1 + FAILURES
    assert telemetry.report()["reason"] == "RuntimeError: GPU is lost" and telemetry.report()["samples"] == 1

    shaky = Made(OSError("busy"), OSError("busy"), Reading(1000))
    telemetry = started(shaky)
    until(lambda: len(telemetry.readings) > 3)
    assert telemetry.report()["reason"] == "OSError: busy"


def test_no_source_is_a_reason_and_no_failure() -> None:
    def none() -> Made:
        raise RuntimeError("nvml: no module; nvidia-smi: not found")

    telemetry = Telemetry(none)
    telemetry.start()
    telemetry.stop()
    report = telemetry.report()
    assert report.pop("reason") == "RuntimeError: nvml: no module; nvidia-smi: not found"
    assert report.pop("samples") == 0 and set(report.values()) == {None}


def test_a_source_that_hangs_holds_nobody_up() -> None:
    import threading

    stuck = threading.Event()
    telemetry = Telemetry(lambda: (stuck.wait(60), Made(Reading(1)))[1])  # type: ignore[func-returns-value]
    telemetry.start()
    telemetry.stop()
    assert telemetry.thread.is_alive() and telemetry.thread.daemon
    assert telemetry.report()["samples"] == 0
    stuck.set()
    until(lambda: not telemetry.thread.is_alive())


# -- which GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "visible", "uuid", "name"),
    [
        (0, None, None, "0"),
        (1, None, None, "1"),
        (0, "3", None, "3"),
        (1, "3, 5", None, "5"),
        (0, "GPU-1111", None, "GPU-1111"),
        (0, "MIG-abc", "11111111-aaaa", "MIG-abc"),
        (0, "3", "11111111-aaaa", "GPU-11111111-aaaa"),
        (0, None, "GPU-11111111-aaaa", "GPU-11111111-aaaa"),
    ],
)
def test_the_name_of_a_gpu(index: int, visible: str | None, uuid: str | None, name: str) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpu_name(index, environ, uuid) == name


def test_only_gpus_of_nvidia_are_watched() -> None:
    assert watch(open_device({"AUTOEXP_DEVICE": "cpu", "AUTOEXP_THREADS": "1"})) is None
    amd = Device(torch.device("cuda:0"), torch.bfloat16, True, 0, None, "AMD Instinct MI300X", capability=None)
    assert watch(amd) is None


def test_a_slice_has_no_clock_of_its_own() -> None:
    with pytest.raises(RuntimeError, match="MIG"):
        find("MIG-abc")


# -- NVML -------------------------------------------------------------------------------------------------------------


def library(**changes: Any) -> Any:
    """Two GPUs as the module pynvml shows them."""

    def lost(*args: Any) -> Any:
        raise RuntimeError("not supported")

    answers: dict[str, Any] = {
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlSystemGetDriverVersion": lambda: b"535.1",
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=500 * 2**20),
            SimpleNamespace(pid=1, usedGpuMemory=300 * 2**20),
        ],
        "nvmlDeviceGetClockInfo": lambda handle, clock: 1500 + handle,
        "nvmlDeviceGetPowerUsage": lambda handle: 345_600,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=97, memory=50),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 4,
    }
    return SimpleNamespace(**{**answers, **{name: lost if value is None else value for name, value in changes.items()}})


def test_nvml() -> None:
    assert Nvml("1", library()).read().sm_clock_mhz == 1501
    source = Nvml("GPU-2222", library())  # a beginning is enough

    assert source.facts() == Facts("535.1", 300)
    assert source.read() == Reading(1501, 345.6, 61, 97, 4)
    with pytest.raises(RuntimeError, match="no GPU is called GPU-9"):
        Nvml("GPU-9", library())


def test_nvml_without_some_answers() -> None:
    some = library(
        nvmlDeviceGetCurrentClocksEventReasons=None,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 8,
        nvmlDeviceGetPowerUsage=None,
        nvmlDeviceGetComputeRunningProcesses=None,
    )
    assert Nvml("0", some).read() == Reading(1500, None, 61, 97, 8)
    assert Nvml("0", some).facts() == Facts("535.1", None)
    with pytest.raises(RuntimeError, match="not supported"):
        Nvml("0", library(nvmlDeviceGetClockInfo=None)).read()


def test_memory_of_others_is_told_only_where_this_process_can_be_told_from_them() -> None:
    me = os.getpid()
    assert other_memory([(me, 500.0)]) == 0
    assert other_memory([(me, None), (1, 10.0), (2, 20.5)]) == 30.5
    assert other_memory([(me, 500.0), (1, None)]) is None
    assert other_memory([(1, 10.0)]) is None
    assert other_memory([]) is None


# -- nvidia-smi -------------------------------------------------------------------------------------------------------


def answers(known: str, power: str = "345.60") -> Callable[[Sequence[str]], list[list[str]]]:
    """nvidia-smi of a driver that calls the reasons `known`."""

    def ask(question: Sequence[str]) -> list[list[str]]:
        asked = question[0].partition("=")[2].split(",")
        if asked[0] == "index":
            return [[str(index), uuid, "570.1"] for index, uuid in enumerate(UUIDS)]
        if asked[0] == "pid":
            assert question[1] == f"--id={UUIDS[1]}"
            return [[str(os.getpid()), "500"], ["1", "300"]]
        row = {"clocks.sm": "1500", "power.draw": power, "temperature.gpu": "61", "utilization.gpu": "97"}
        row[known] = "0x0000000000000004"
        if unknown := [field for field in asked if field not in row]:
            raise RuntimeError(f'Field "{unknown[0]}" is not a valid field to query.')
        return [[row[field] for field in asked]]

    return ask


@pytest.mark.parametrize("known", ["clocks_event_reasons.active", "clocks_throttle_reasons.active"])
def test_nvidia_smi(known: str) -> None:
    for gpu in ("1", UUIDS[1], "GPU-2222"):
        source = Smi(gpu, answers(known))
        assert source.facts() == Facts("570.1", 300)
        assert source.read() == Reading(1500, 345.6, 61, 97, 4)
    with pytest.raises(RuntimeError, match="no GPU is called 2"):
        Smi("2", answers(known))


def test_nvidia_smi_without_some_answers() -> None:
    assert Smi("1", answers("neither", power="[N/A]")).read() == Reading(1500, None, 61, 97, None)


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program called nvidia-smi, the only one there is."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_the_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, 'echo "$1, $2"; echo; echo "a,  b"')
    assert ask_smi(["--query-gpu=index"]) == [["--query-gpu=index", "--format=csv", "noheader", "nounits"], ["a", "b"]]

    smi(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    with pytest.raises(RuntimeError, match="No devices were found"):
        ask_smi(["--query-gpu=index"])


def test_the_reasons_of_all_sources_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"nvml: .*pynvml.*; nvidia-smi: FileNotFoundError: "):
        find("0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_of_this_machine() -> None:
    telemetry = watch(open_device({"AUTOEXP_DEVICE": "cuda"}))
    if telemetry is None:
        pytest.skip("not a GPU of NVIDIA")
    until(lambda: telemetry.source is not None or telemetry.reason is not None)
    if telemetry.source is None:
        pytest.skip(f"no source: {telemetry.reason}")
    telemetry.start()
    until(lambda: bool(telemetry.readings) or telemetry.reason is not None)
    telemetry.stop()
    report = telemetry.report()
    assert report["driver"] and report["sm_clock_mhz"]["max"] > 0, report
