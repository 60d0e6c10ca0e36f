"""Precision, compiling and peak of any card, asked through a made-up machine; loss scaling; this machine's CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from autoexp.model import devices
from autoexp.model.cards import TERAFLOPS, peak_of
from autoexp.model.devices import MACHINE, Query, open_device
from autoexp.model.errors import BadInput, TrainingFailed
from autoexp.model.scaling import LossScaler

GIB = 2**30
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def machine(name: str, capability: tuple[int, int], architecture: str = "", triton: bool = True) -> Query:
    """A machine with one such card."""
    return Query(
        cuda_available=lambda: True,
        mps_available=lambda: False,
        triton_importable=lambda: triton,
        use=lambda device: torch.device(device.type, device.index or 0),
        device_name=lambda device: name,
        capability=lambda device: capability,
        architecture=lambda device: architecture,
        memory=lambda device: (30 * GIB, 40 * GIB),
    )


@pytest.mark.parametrize(
    ("name", "capability", "dtype", "compiles", "peak"),
    [
        ("NVIDIA B200", (10, 0), torch.bfloat16, True, 2250e12),
        ("NVIDIA GeForce RTX 5090", (12, 0), torch.bfloat16, True, 209.5e12),
        ("NVIDIA H100 80GB HBM3", (9, 0), torch.bfloat16, True, 989.5e12),
        ("NVIDIA L4", (8, 9), torch.bfloat16, True, 121e12),
        ("NVIDIA A100-SXM4-40GB", (8, 0), torch.bfloat16, True, 312e12),
        ("Tesla T4", (7, 5), torch.float16, True, 65e12),
        ("Tesla V100-SXM2-16GB", (7, 0), torch.float16, True, 125e12),
        ("Tesla P100-PCIE-16GB", (6, 0), torch.float16, False, None),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), torch.float16, False, None),
        ("Tesla M40", (5, 2), torch.float32, False, None),
    ],
)
def test_a_card_of_any_generation(
    name: str, capability: tuple[int, int], dtype: torch.dtype, compiles: bool, peak: float | None
) -> None:
    device = open_device({}, query=machine(name, capability))

    assert (device.torch_device, device.name, device.capability) == (torch.device("cuda:0"), name, capability)
    assert (device.dtype, device.compiles, device.peak_flops) == (dtype, compiles, peak)
    assert device.scales_loss == (dtype == torch.float16)
    assert (device.free_memory(), device.total_memory(), device.threads) == (30 * GIB, 40 * GIB, 0)


@pytest.mark.parametrize(
    ("name", "architecture", "dtype", "compiles", "peak"),
    [
        ("AMD Instinct MI300X", "gfx942", torch.bfloat16, True, 1307.4e12),
        ("AMD Instinct MI250X", "gfx90a", torch.bfloat16, True, 191.5e12),
        ("AMD Instinct MI250X / MI250", "gfx90a", torch.bfloat16, True, None),
        ("AMD Radeon RX 6800", "gfx1030", torch.float16, False, None),
        ("AMD Instinct MI50", "gfx906", torch.float16, False, None),
    ],
)
def test_a_card_of_amd(name: str, architecture: str, dtype: torch.dtype, compiles: bool, peak: float | None) -> None:
    # ROCm's answer to the question for a capability is no CUDA capability: a gfx906 says 9.0
    device = open_device({}, query=machine(name, (9, 0), architecture))

    assert (device.dtype, device.compiles, device.peak_flops) == (dtype, compiles, peak)
    assert device.capability is None and device.scales_loss == (dtype == torch.float16)


def test_without_triton_or_when_told_so_nothing_is_compiled() -> None:
    assert not open_device({}, query=machine("NVIDIA A30", (8, 0), triton=False)).compiles
    assert not open_device({"AUTOEXP_COMPILE": "0"}, query=machine("NVIDIA A30", (8, 0))).compiles


def test_which_device_is_taken() -> None:
    card = machine("NVIDIA A40", (8, 6))
    apple = replace(card, cuda_available=lambda: False, mps_available=lambda: True)
    neither = replace(apple, mps_available=lambda: False)

    assert open_device({}, query=card).torch_device.type == "cuda"
    assert open_device({"AUTOEXP_DEVICE": "cuda:3"}, query=card).torch_device == torch.device("cuda:3")
    mps = open_device({}, query=apple)
    assert (mps.torch_device.type, mps.dtype, mps.compiles, mps.name) == ("mps", torch.float32, False, "mps")
    assert (mps.peak_flops, mps.scales_loss, mps.free_memory()) == (None, False, 30 * GIB)
    cpu = open_device({"AUTOEXP_THREADS": "1"}, query=neither)
    assert (cpu.torch_device.type, cpu.dtype, cpu.threads, cpu.name) == ("cpu", torch.float32, 1, "cpu")
    assert open_device({"AUTOEXP_THREADS": "1"}, "cpu", card).torch_device.type == "cpu"


def test_a_device_that_is_not_there_is_named() -> None:
    for name in ("cuda:77", "nonsense"):
        with pytest.raises(BadInput, match=f"AUTOEXP_DEVICE={name} cannot be used"):
            open_device({"AUTOEXP_DEVICE": name})


def test_this_machine_answers_for_its_cpu() -> None:
    device = open_device({"AUTOEXP_DEVICE": "cpu", "AUTOEXP_THREADS": "1"})

    assert device.query is MACHINE and (device.free_memory(), device.total_memory()) == (None, None)
    assert device.peak_memory_mb() > 10
    assert isinstance(MACHINE.triton_importable(), bool)


@NEEDS_CUDA
def test_this_machine_answers_for_its_gpu() -> None:
    device = open_device({"AUTOEXP_DEVICE": "cuda"})

    assert device.torch_device.index is not None and device.name
    free, total = device.free_memory(), device.total_memory()
    assert free is not None and total is not None and 0 < free <= total
    assert device.scales_loss == (device.dtype == torch.float16)
    with device.autocast():
        product = torch.ones(8, 8, device=device.torch_device) @ torch.ones(8, 8, device=device.torch_device)
    assert product.dtype == device.dtype


# -- peaks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA H20", 148),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA A30", 165),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A4000", 76.7),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 438.9),
        ("NVIDIA GeForce RTX 3080", 59.5),
        ("NVIDIA GeForce RTX 3080 Ti", 68.2),
        ("GeForce RTX 2080 Ti", 53.8),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 88.2),
        ("NVIDIA GeForce RTX 4090 D", 147.1),
        ("Tesla V100S-PCIE-32GB", 130),
        ("Tesla V100-PCIE-32GB", 112),
        ("AMD Instinct MI300X VF", 1307.4),
    ],
)
def test_the_peak_of_a_card(name: str, tera: float) -> None:
    assert peak_of(name, torch.float16) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "GeForce RTX 2080 with Max-Q Design",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "GRID A100-10C",
        "NVIDIA L40S-48Q",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA A16",
        "NVIDIA T400",
        "Quadro P6000",
        "Tesla P100-SXM2-16GB",
        "NVIDIA GeForce RTX 9999",
        "",
    ],
)
def test_what_is_not_known_is_not_guessed(name: str) -> None:
    assert peak_of(name, torch.bfloat16) is None


def test_no_peak_is_known_of_fp32_and_each_in_the_table_is_possible() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3", torch.float32) is None
    assert all(tera is None or 10 < tera < 3000 for tera in TERAFLOPS.values())


# -- threads ----------------------------------------------------------------------------------------------------------


def test_more_threads_are_taken_only_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(devices, "time_threads", lambda threads: 1.0)
        assert devices.choose_threads({}) == 1 == torch.get_num_threads()
        monkeypatch.setattr(devices, "time_threads", lambda threads: 1.0 / min(threads, 4))
        assert devices.choose_threads({}) == 4 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


# -- loss scaling -----------------------------------------------------------------------------------------------------


def gradients(scaler: LossScaler, bad: float = 0.0, device: str = "cpu") -> tuple[list[torch.Tensor], bool]:
    """The gradients that a small model is left with after a scaled backward pass, and whether to take the step."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(device)
    half = nn.Parameter(torch.ones(3, dtype=torch.float16, device=device))
    unused = nn.Parameter(torch.ones(2, device=device))
    loss = (model(torch.ones(2, 4, device=device)) * half).square().mean() + bad * model.bias.sum()
    scaler.scale(loss).backward()
    params = [*model.parameters(), half, unused]
    taken = scaler.unscale(params)
    return [param.grad for param in params if param.grad is not None], taken


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_scaled_gradients_come_back_as_they_were(device: str) -> None:
    plain, taken = gradients(LossScaler(wanted=False), device=device)
    assert taken
    scaler = LossScaler(wanted=True, factor=2.0**8)
    scaled, taken = gradients(scaler, device=device)

    assert taken and (scaler.factor, scaler.good) == (256, 1)
    assert {grad.dtype for grad in scaled} == {torch.float32, torch.float16}
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 if one.dtype == torch.float32 else 2e-3, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_step_that_is_not_finite_is_not_taken_and_halves_the_factor(bad: float, device: str) -> None:
    scaler = LossScaler(wanted=True)
    _, taken = gradients(scaler, bad, device)

    assert not taken and (scaler.factor, scaler.good) == (2.0**15, 0)
    assert gradients(scaler)[1] and scaler.good == 1


def test_a_row_of_good_steps_doubles_the_factor() -> None:
    scaler = LossScaler(wanted=True, factor=4.0, patience=2)
    factors = []
    for _ in range(5):
        assert gradients(scaler)[1]
        factors.append(scaler.factor)

    assert factors == [4, 8, 8, 16, 16]


def test_gradients_that_no_factor_helps_fail_the_training() -> None:
    scaler = LossScaler(wanted=True, factor=2.0)
    gradients(scaler, float("nan"))
    with pytest.raises(TrainingFailed, match="not finite"):
        gradients(scaler, float("nan"))


def test_unwanted_it_lets_everything_pass() -> None:
    scaler = LossScaler(wanted=False)
    loss = torch.ones(())

    assert scaler.scale(loss) is loss and scaler.factor == 1
    assert gradients(scaler, float("nan"))[1]
