"""Windowed attention against a masked one in plain float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from autoexp.model.attention import attend


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Scores of everything with everything, and minus infinity outside the window."""
    groups = q.size(2) // k.size(2)
    k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(-1))
    for i in range(q.size(1)):
        for j in range(q.size(1)):
            if not 0 <= i - j <= window:
                scores[:, :, i, j] = -math.inf
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


@pytest.mark.parametrize("window", [1, 5, 22, 23, 24, 1000])
@pytest.mark.parametrize("key_heads", [2, 4])
def test_same_as_the_plain_one_forward_and_backward(window: int, key_heads: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 24, heads, 16, requires_grad=True) for heads in (4, key_heads, key_heads))
    weight = torch.randn(2, 24, 4, 16)
    results = []
    for function in (attend, attend_plainly):
        out = function(q, k, v, window)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (q, k, v))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("window", [64, 128, 256])
def test_compiled_on_cuda(window: int) -> None:
    from autoexp.model import attention

    device = torch.device("cuda")
    assert attention.prepare(256, [window], device, compiled=True) == "flex_attention"
    q, k, v = (torch.randn(2, 256, 4, 64, device=device, requires_grad=True) for _ in range(3))
    ours = torch.compile(attend, dynamic=False)(q, k, v, window)
    torch.testing.assert_close(ours, attend_plainly(q, k, v, window), atol=2e-2, rtol=2e-2)
    ours.sum().backward()
    assert q.grad is not None and torch.isfinite(q.grad).all()
