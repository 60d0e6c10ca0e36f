"""The trace of a training's steps: a real one on the CPU, and kernels of a GPU by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autoexp.model.profiling import ELEMENTWISE, Kernel, StepProfiler, busy, summarize


def train(profiler: StepProfiler, steps: int, device: torch.device) -> torch.optim.Optimizer:
    """A small training with the calls that a harness makes."""
    model = torch.nn.Linear(64, 64, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for index in range(steps):
        profiler.step(index, optimizer)
        model(torch.ones(256, 64, device=device)).square().mean().backward()
        optimizer.step()
    profiler.close()
    return optimizer


def check(folder: Path) -> dict[str, Any]:
    profile: dict[str, Any] = json.loads((folder / "profile.json").read_text())
    assert profile["steps"] == 3
    assert all(profile["kinds"][kind] > 0 for kind in ("gemm", "optimizer", ELEMENTWISE))
    assert 0 < profile["busy_ms_per_step"] <= profile["ms_per_step"]
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    return profile


def test_three_steps_are_traced_and_the_optimizer_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "profile"
    profiler = StepProfiler.asked_for(torch.device("cpu"), {"AUTOEXP_PROFILE": str(folder)})
    assert profiler is not None
    optimizer = train(profiler, 20, torch.device("cpu"))
    assert "step" not in vars(optimizer)
    profile = check(folder)
    assert any(kernel["kind"] == "gemm" and kernel["name"] == "aten::addmm" for kernel in profile["kernels"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_s_kernels_are_traced(tmp_path: Path) -> None:
    train(StepProfiler(tmp_path, torch.device("cuda"), start=2), 8, torch.device("cuda"))
    check(tmp_path)


def test_nothing_is_written_unless_asked_or_when_the_training_is_too_short(tmp_path: Path) -> None:
    assert StepProfiler.asked_for(torch.device("cpu"), {}) is None
    optimizer = train(StepProfiler(tmp_path, torch.device("cpu"), start=1), 3, torch.device("cpu"))
    assert "step" not in vars(optimizer) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "gemm"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>", "gemm"),
        ("triton_tem_fused_addmm_3", "gemm"),
        ("product_kernel", "gemm"),
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash>", "attention"),
        ("cutlass_kernel_FlashAttentionForwardSm90", "attention"),
        ("triton_tem_fused_flex_attention_backward_1", "attention"),
        ("triton_red_fused__log_softmax_nll_loss_forward_tanh_0", "cross-entropy"),
        ("loss_kernel", "cross-entropy"),
        ("triton_per_fused__fused_rms_norm_add_mul_2", ELEMENTWISE),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("aten::_to_copy", "copy"),
    ],
)
def test_a_name_tells_the_kind(name: str, kind: str) -> None:
    assert Kernel(name, 0, 1, 0).kind == kind


def test_what_the_optimizer_launched_is_its_own_whatever_it_is_called() -> None:
    def event(cat: str, name: str, ts: float, dur: float, correlation: int | None = None) -> dict[str, Any]:
        args = {} if correlation is None else {"correlation": correlation}
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "args": args}

    events = [
        event("cuda_runtime", "cudaLaunchKernel", 10, 2, 1),
        event("user_annotation", "optimizer.step", 20, 10),
        event("cuda_runtime", "cudaLaunchKernel", 25, 2, 2),
        event("gpu_user_annotation", "optimizer.step", 0, 5000),
        event("kernel", "nvjet_a", 1000, 2000, 1),
        event("kernel", "nvjet_b", 2500, 1500, 2),
        {"ph": "M", "name": "process_name"},
    ]
    profile = summarize(events, steps=1, seconds=0.005)
    assert (profile["kinds"]["gemm"], profile["kinds"]["optimizer"]) == (2.0, 1.5)
    assert (profile["busy_ms_per_step"], profile["ms_per_step"]) == (3.0, 5.0)


def test_overlapping_kernels_are_busy_once() -> None:
    assert busy([Kernel("a", 0, 10, 0), Kernel("b", 2, 3, 0), Kernel("c", 8, 4, 0), Kernel("d", 20, 1, 0)]) == 13
