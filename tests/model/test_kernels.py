"""The fused operators against their plain twins: values and gradients.

The Triton kernels themselves need a Hopper GPU. What surrounds them (operators, gradients, chunks, shapes for the
compiler) is tested anywhere, with plain PyTorch in the kernels' place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoexp.model.kernels import available, cross_entropy, heads, mlp

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == available.HOPPER
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the Triton kernels need a GPU of compute capability 9.0")


def product(x: Tensor, w: Tensor, squares: Tensor | None = None) -> Tensor:
    raw = x @ w.T
    return torch.relu(raw).square() if squares is None else raw * 2 * squares.sqrt()


def losses(logits: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    capped = softcap * torch.tanh(logits.float() / softcap)
    lse = capped.logsumexp(dim=-1)
    return lse - capped.gather(1, targets[:, None])[:, 0], lse


def logit_gradients(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, softcap: float) -> Tensor:
    shape = torch.tanh(logits.float() / softcap)
    p = (softcap * shape - lse[:, None]).exp() - torch.nn.functional.one_hot(targets, logits.size(1))
    return (grad[:, None] * p * (1 - shape.square())).to(logits.dtype)


def heads_forward(qkv: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = heads.plain(qkv, cos, sin)
    return q.contiguous(), k.contiguous(), v.clone()


def heads_backward(dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    cos, sin = cos[:, None, :], sin[:, None, :]
    parts = []
    for grad, x in ((dq, qkv[:, :, 0]), (dk, qkv[:, :, 1])):
        one, two = grad.chunk(2, dim=-1)
        back = torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1)
        scale = (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
        parts.append(scale * (back - x * scale * (back * x * scale).mean(dim=-1, keepdim=True)))
    return torch.stack([*parts, dv], dim=2)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain PyTorch where the Triton kernels would be."""
    package = "autoexp.model.kernels."
    for name, functions in (
        ("triton_mlp", {"product": product}),
        ("triton_cross_entropy", {"losses": losses, "logit_gradients": logit_gradients}),
        ("triton_heads", {"forward": heads_forward, "backward": heads_backward}),
    ):
        monkeypatch.setitem(sys.modules, package + name, SimpleNamespace(**functions))


def case_of_mlp(device: str, dtype: torch.dtype, rows: int = 333) -> tuple[list[Tensor], tuple[Any, ...]]:
    x, up, down = torch.randn(rows, 64), torch.randn(264, 64) / 8, torch.randn(264, 64) / 16
    return [t.to(device, dtype) for t in (x, up, down)], ()


def case_of_cross_entropy(device: str, dtype: torch.dtype, rows: int = 333) -> tuple[list[Tensor], tuple[Any, ...]]:
    targets = torch.randint(0, 700, (rows,), device=device)
    return [t.to(device, dtype) for t in (3 * torch.randn(rows, 64), torch.randn(700, 64) / 8)], (targets, 15.0)


def case_of_heads(device: str, dtype: torch.dtype, rows: int = 4) -> tuple[list[Tensor], tuple[Any, ...]]:
    angle = 6 * torch.rand(40, 32)
    table = [t.to(device, dtype) for t in (angle.cos(), angle.sin())]
    return [torch.randn(rows, 40, 3, 2, 64).to(device, dtype)], tuple(table)


CASES: list[tuple[Any, Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = [
    (mlp.mlp, lambda *a: mlp.mlp(*a)[0], mlp.plain, case_of_mlp),
    (cross_entropy.head_loss, lambda *a: cross_entropy.head_loss(*a)[0], cross_entropy.plain, case_of_cross_entropy),
    (heads.heads, lambda *a: torch.stack(heads.heads(*a)), lambda *a: torch.stack(heads.plain(*a)), case_of_heads),
]
NAMES = ["mlp", "cross_entropy", "heads"]


def values_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor], rest: tuple[Any, ...]) -> list[Tensor]:
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    out = function(*leaves, *rest)
    weight = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out.float() * weight).sum(), leaves)]


@pytest.mark.parametrize(("op", "ours", "plain", "case"), CASES, ids=NAMES)
def test_the_operator_has_the_values_and_gradients_of_its_twin(
    op: Any, ours: Any, plain: Any, case: Any, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 100)  # 333 rows make three whole chunks and a short one
    torch.manual_seed(0)
    inputs, rest = case("cpu", torch.float32)
    for a, b in zip(values_and_gradients(ours, inputs, rest), values_and_gradients(plain, inputs, rest), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize(("op", "ours", "plain", "case"), CASES, ids=NAMES)
def test_the_compiler_is_told_the_truth(op: Any, ours: Any, plain: Any, case: Any, stand_ins: None) -> None:
    torch.manual_seed(0)
    inputs, rest = case("cpu", torch.float32)
    leaves = [each.requires_grad_() for each in inputs]
    torch.library.opcheck(
        op, (*leaves, *rest), test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static")
    )


@needs_hopper
@pytest.mark.parametrize(("op", "ours", "plain", "case"), CASES, ids=NAMES)
def test_the_kernels_on_the_gpu(op: Any, ours: Any, plain: Any, case: Any) -> None:
    torch.manual_seed(0)
    inputs, rest = case("cuda", torch.bfloat16)
    exact_rest = tuple(r.float() if isinstance(r, Tensor) and r.is_floating_point() else r for r in rest)
    exact = values_and_gradients(plain, [each.float() for each in inputs], exact_rest)
    for a, b in zip(values_and_gradients(ours, inputs, rest), exact, strict=True):
        assert (a.float() - b).norm() < 0.01 * b.norm()


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_a_twin_outside_all_regions_is_compiled_where_the_device_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, weight), (targets, softcap) = case_of_cross_entropy("cpu", torch.float32)
    monkeypatch.setitem(available.SETTLED, "compiled", True)
    frames: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        frames.append(graph)
        return graph.forward

    monkeypatch.setattr(cross_entropy, "compiled", lambda: torch.compile(cross_entropy.plain, backend=backend))
    for cap in (softcap, 2 * softcap):
        ours = cross_entropy.softcap_cross_entropy(x, weight, targets, cap)
        torch.testing.assert_close(ours, cross_entropy.plain(x, weight, targets, cap))
    assert len(frames) == 1


def test_a_learned_table_has_its_gradient(stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "fused", lambda x, dtype: True)
    (qkv,), (cos, sin) = case_of_heads("cpu", torch.float32)
    q, _, _ = heads.rotated_heads(qkv, cos.requires_grad_(), sin)
    q.sum().backward()
    assert cos.grad is not None and cos.grad.abs().sum() > 0


def test_elsewhere_the_twins_are_used() -> None:
    assert available.settle(torch.device("cpu")) is False
    x = torch.randn(2, 8, 16)
    assert not available.fused(x, torch.bfloat16)
    torch.testing.assert_close(mlp.relu2_mlp(x, up := torch.randn(32, 16), up), mlp.plain(x, up, up))
