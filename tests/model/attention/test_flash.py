"""The operators around FlashAttention, with a stand-in for the package: what torch and its compiler make of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from autoexp.model import attention
from autoexp.model.attention import attend, flash, sdpa

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of its own

HEADS = [4, 2, 2]


class StandIn:
    """What a package does, by plain formulas: nothing of it can be seen from outside, as with a real kernel."""

    windows: list[int | None]

    def __init__(self) -> None:
        self.windows = []

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        self.windows.append(window)
        probabilities, lse = self.probabilities(q, k, window)
        return torch.einsum("bhqk,bkhd->bqhd", probabilities, self.spread(v, q)).to(q.dtype).contiguous(), lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert grad.is_contiguous()
        probabilities, again = self.probabilities(q, k, window)
        torch.testing.assert_close(lse, again)
        grad, scale = grad.float(), q.size(-1) ** -0.5
        dv = torch.einsum("bhqk,bqhd->bkhd", probabilities, grad)
        dp = torch.einsum("bqhd,bkhd->bhqk", grad, self.spread(v, q))
        drop = (grad * out.float()).sum(-1).transpose(1, 2)[..., None]  # (batch, heads, tokens, 1)
        ds = probabilities * (dp - drop) * scale
        dq = torch.einsum("bhqk,bkhd->bqhd", ds, self.spread(k, q))
        dk = torch.einsum("bhqk,bqhd->bkhd", ds, q.float())
        batch, tokens, heads, channels = k.shape
        dk, dv = (t.view(batch, tokens, heads, -1, channels).sum(3) for t in (dk, dv))
        return dq.to(q.dtype).contiguous(), dk.to(q.dtype).contiguous(), dv.to(q.dtype).contiguous()

    def probabilities(self, q: Tensor, k: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        tokens = q.size(1)
        scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), self.spread(k, q)) * q.size(-1) ** -0.5
        seen = sdpa.band(tokens, tokens if window is None else window, q.device)
        scores = scores.masked_fill(~seen, -torch.inf)
        return scores.softmax(-1), scores.logsumexp(-1)

    def spread(self, x: Tensor, q: Tensor) -> Tensor:
        """Keys or values, one for each head of `q`."""
        return x.float().repeat_interleave(q.size(2) // x.size(2), dim=2)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in behind `autoexp::fa4`, and `attend` using it on the CPU."""
    kernel = StandIn()
    monkeypatch.setitem(flash.KERNELS, "fa4", kernel)
    monkeypatch.setattr(attention, "chosen", attention.Choice("fa4", "cpu"))
    torch._dynamo.reset()
    yield kernel
    torch._dynamo.reset()


def views(dtype: torch.dtype, head_dim: int = 64) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A tensor (2, 24, 8, head_dim) that wants a gradient, and its parts q, k and v."""
    torch.manual_seed(0)
    fused = torch.randn(2, 24, sum(HEADS), head_dim).to(dtype).requires_grad_()
    return fused, fused.split(HEADS, dim=2)


@pytest.mark.parametrize("window", [5, 24])
def test_the_operators_keep_torchs_rules(kernel: StandIn, window: int) -> None:
    """Schema, gradient, strides of what is promised while tracing, dynamic shapes: torch's own checks."""
    _, (q, k, v) = views(torch.float32)
    torch.library.opcheck(torch.ops.autoexp.fa4.default, (q, k, v, window))
    q, k, v = q.detach(), k.detach(), v.detach()
    out, lse = kernel.forward(q, k, v, flash.cut(window, q))
    arguments = (torch.ones_like(out), q, k, v, out, lse, window)
    torch.library.opcheck(torch.ops.autoexp.fa4_backward.default, arguments)


@pytest.mark.parametrize("window", [1, 5, 22, 23, 1000])
def test_same_as_sdpa_forward_and_backward(kernel: StandIn, window: int) -> None:
    fused, (q, k, v) = views(torch.float32)
    weight = torch.randn(2, 24, 4, 64)
    results = []
    for function in (flash.OPS["fa4"], sdpa.attend):
        out = function(q, k, v, window)
        results.append((out, torch.autograd.grad((out * weight).sum(), fused, retain_graph=True)[0]))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-4)
    assert kernel.windows == [window if window < 23 else None]


def test_one_graph_and_the_same_numbers_compiled(kernel: StandIn) -> None:
    fused, (q, k, v) = views(torch.bfloat16)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=False)
    results = []
    for function in (compiled, attend):
        out = function(q, k, v, 5)
        results.append((out, torch.autograd.grad(out.float().square().sum(), fused, retain_graph=True)[0]))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert kernel.windows == [5, 5]


def test_the_graph_holds_the_operator_and_its_views(kernel: StandIn) -> None:
    """Neither a copy of q, k and v for their strides' sake, nor anything of the package's."""
    graphs: list[torch.fx.GraphModule] = []

    def see(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def layer(fused: Tensor) -> Tensor:
        return attend(*fused.split(HEADS, dim=2), 5)

    fused, _ = views(torch.bfloat16)
    torch.compile(layer, fullgraph=True, backend=see, dynamic=False)(fused)
    (graph,) = graphs
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert torch.ops.autoexp.fa4.default in called
    assert not {"contiguous", "clone"} & {str(node.target) for node in graph.graph.nodes}


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 64), (torch.bfloat16, 32)])
def test_what_the_kernels_do_not_take_goes_to_sdpa(kernel: StandIn, dtype: torch.dtype, head_dim: int) -> None:
    _, (q, k, v) = views(dtype, head_dim)
    assert torch.equal(attend(q, k, v, 5), sdpa.attend(q, k, v, 5))
    assert kernel.windows == []


def test_tensors_of_another_device_go_to_sdpa(kernel: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "chosen", attention.Choice("fa4", "cuda"))
    _, (q, k, v) = views(torch.bfloat16)
    assert torch.equal(attend(q, k, v, 5), sdpa.attend(q, k, v, 5))
    assert kernel.windows == []
