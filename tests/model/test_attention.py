"""Windowed attention, each back end that can run here against a masked one in plain float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autoexp.model import attention
from autoexp.model.attention import BACK_ENDS, attend


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Scores of everything with everything in float32, and minus infinity outside the window."""
    groups = q.size(2) // k.size(2)
    k, v = k.float().repeat_interleave(groups, dim=2), v.float().repeat_interleave(groups, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) / math.sqrt(q.size(-1))
    position = torch.arange(q.size(1), device=q.device)
    distance = position[:, None] - position[None, :]
    scores = scores.masked_fill((distance < 0) | (distance > window), -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def out_and_gradients(
    function: Callable[[Tensor, Tensor, Tensor, int], Tensor], fused: Tensor, heads: list[int], window: int
) -> tuple[Tensor, Tensor]:
    """What `function` makes of q, k and v, views of `fused` (batch, tokens, all heads, head_dim), and its gradient."""
    fused = fused.detach().requires_grad_()
    out = function(*fused.split(heads, dim=2), window)
    weight = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape)
    return out, torch.autograd.grad((out.float() * weight).sum(), fused)[0]


@pytest.mark.parametrize("window", [1, 5, 22, 23, 24, 1000])
@pytest.mark.parametrize("key_heads", [2, 4])
def test_same_as_the_plain_one_forward_and_backward(window: int, key_heads: int) -> None:
    torch.manual_seed(0)
    heads = [4, key_heads, key_heads]
    fused = torch.randn(2, 24, sum(heads), 16)
    ours, plain = (out_and_gradients(function, fused, heads, window) for function in (attend, attend_plainly))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_a_token_sees_itself_and_the_window_before_it() -> None:
    """Values are unit vectors, so the answer shows which tokens went into it."""
    values = torch.eye(8)[None, :, None, :]
    seen = attend(torch.zeros_like(values), torch.zeros_like(values), values, 2)[0, :, 0] > 0
    assert seen.nonzero().tolist() == [[i, j] for i in range(8) for j in range(max(0, i - 2), i + 1)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.filterwarnings("ignore")  # the packages' own, at their first compilation
@pytest.mark.parametrize("window", [64, 100, 256])
@pytest.mark.parametrize(("head_dim", "key_heads"), [(64, 4), (128, 2)])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_on_cuda(back_end: str, head_dim: int, key_heads: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and, but for flex, eager; q, k and v are views of one tensor."""
    device = torch.device("cuda")
    place = attention.Place("cuda", torch.cuda.get_device_capability(), torch.bfloat16, head_dim, True)
    if reason := attention.obstacle(back_end, place) or attention.absent(back_end):
        pytest.skip(reason)
    monkeypatch.setattr(attention, "chosen", attention.chosen)
    environ = {"AUTOEXP_ATTENTION": back_end}
    facts = {"dtype": torch.bfloat16, "head_dim": head_dim, "environ": environ}
    assert attention.prepare(256, [window], device, True, **facts) == back_end

    torch.manual_seed(0)
    heads = [4, key_heads, key_heads]
    fused = torch.randn(2, 256, sum(heads), head_dim, device=device, dtype=torch.bfloat16)
    plain = out_and_gradients(attend_plainly, fused, heads, window)
    torch._dynamo.reset()  # each case compiles anew, and torch counts how often
    compiled = torch.compile(attend, dynamic=False, fullgraph=True)
    for function in (compiled, attend):
        for one, other in zip(out_and_gradients(function, fused, heads, window), plain, strict=True):
            torch.testing.assert_close(one.float(), other.float(), atol=3e-2, rtol=3e-2)
