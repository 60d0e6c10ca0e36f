"""From the product of queries, keys and values to what attention takes: norm and rotation in one pass each way.

    q, k = rotate(norm(q)), rotate(norm(k)); v as it is

The backward pass writes the gradient of the one product that all three came from, so that nothing is put together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from autoexp.model.kernels.available import fused

EPS = 1e-6  # under the root of the norm's mean square


def rotated_heads(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (rows, tokens, 3, heads, head_dim) -> q, k and v, each (rows, tokens, heads, head_dim).

    cos and sin are (tokens, head_dim / 2): the angle by which each pair (i, i + head_dim / 2) is turned, and a scale.
    """
    learned = cos.requires_grad or sin.requires_grad  # the operator has no gradients for them
    if fused(qkv, qkv.dtype) and not learned and qkv.size(-1) in (64, 128) and qkv.size(0) * qkv.size(1) % 32 == 0:
        return heads(qkv, cos.contiguous(), sin.contiguous())  # type: ignore[no-any-return]
    return plain(qkv, cos, sin)


def plain(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain PyTorch."""
    q, k, v = qkv.unbind(2)
    return turned(q, cos, sin), turned(k, cos, sin), v


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = torch.nn.functional.rms_norm(x, (x.size(-1),), eps=EPS).chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]  # the same for all heads
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1).to(x.dtype)


@custom_op("autoexp::heads", mutates_args=())
def heads(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The fused operator behind `rotated_heads`."""
    from autoexp.model.kernels.triton_heads import forward

    return forward(qkv, cos, sin, EPS)


@heads.register_fake
def _(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, tokens, _three, count, dim = qkv.shape
    q, k, v = (qkv.new_empty(rows, tokens, count, dim) for _ in range(3))
    return q, k, v


@custom_op("autoexp::heads_backward", mutates_args=())
def heads_backward(dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Gradients of q, k and v -> that of qkv."""
    from autoexp.model.kernels.triton_heads import backward

    return backward(dq, dk, dv, qkv, cos, sin, EPS)


@heads_backward.register_fake
def _(dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(qkv)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, None, None]:
    return heads_backward(dq.contiguous(), dk.contiguous(), dv.contiguous(), *ctx.saved_tensors), None, None


heads.register_autograd(_backward, setup_context=_save)
