"""The Triton kernels behind heads.py: a program takes some tokens of one head, both halves of it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 32  # of a program


@triton.jit
def normed(first, second, DIM: tl.constexpr, EPS: tl.constexpr):
    """1 / RMS of each token's head, (tokens, 1)."""
    square = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    return tl.rsqrt(square / DIM + EPS)[:, None]


@triton.jit
def forward_kernel(qkv, cos, sin, q, k, v, tokens, heads, DIM: tl.constexpr, EPS: tl.constexpr, TOKENS: tl.constexpr):
    HALF: tl.constexpr = DIM // 2
    head = tl.program_id(1)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None]
    column = tl.arange(0, HALF)[None, :]
    angle = (token % tokens) * HALF + column
    c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
    place = (token.to(tl.int64) * heads + head) * DIM + column
    source = (token.to(tl.int64) * 3 * heads + head) * DIM + column
    for part in tl.static_range(2):
        at = qkv + source + part * heads * DIM
        first, second = tl.load(at).to(tl.float32), tl.load(at + HALF).to(tl.float32)
        scale = normed(first, second, DIM, EPS)
        first, second = first * scale, second * scale
        out = q if part == 0 else k
        tl.store(out + place, (first * c + second * s).to(tl.bfloat16))
        tl.store(out + place + HALF, (second * c - first * s).to(tl.bfloat16))
    at = qkv + source + 2 * heads * DIM
    tl.store(v + place, tl.load(at))
    tl.store(v + place + HALF, tl.load(at + HALF))


@triton.jit
def backward_kernel(
    dq, dk, dv, qkv, cos, sin, out, tokens, heads, DIM: tl.constexpr, EPS: tl.constexpr, TOKENS: tl.constexpr
):
    HALF: tl.constexpr = DIM // 2
    head = tl.program_id(1)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None]
    column = tl.arange(0, HALF)[None, :]
    angle = (token % tokens) * HALF + column
    c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
    place = (token.to(tl.int64) * heads + head) * DIM + column
    target = (token.to(tl.int64) * 3 * heads + head) * DIM + column
    for part in tl.static_range(2):
        at = target + part * heads * DIM
        first, second = tl.load(qkv + at).to(tl.float32), tl.load(qkv + at + HALF).to(tl.float32)
        scale = normed(first, second, DIM, EPS)
        first, second = first * scale, second * scale
        grad = dq if part == 0 else dk
        g1, g2 = tl.load(grad + place).to(tl.float32), tl.load(grad + place + HALF).to(tl.float32)
        h1, h2 = g1 * c - g2 * s, g2 * c + g1 * s  # turned back
        along = ((tl.sum(h1 * first, axis=1) + tl.sum(h2 * second, axis=1)) / DIM)[:, None]
        tl.store(out + at, (scale * (h1 - first * along)).to(tl.bfloat16))
        tl.store(out + at + HALF, (scale * (h2 - second * along)).to(tl.bfloat16))
    at = out + target + 2 * heads * DIM
    tl.store(at, tl.load(dv + place))
    tl.store(at + HALF, tl.load(dv + place + HALF))


def _launch(qkv: Tensor, eps: float) -> tuple[tuple[int, int], dict[str, float]]:
    rows, tokens, _three, heads, dim = qkv.shape
    return (rows * tokens // TOKENS, heads), {"DIM": dim, "EPS": eps, "TOKENS": TOKENS}


def forward(qkv: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (rows, tokens, 3, heads, dim), rows * tokens a multiple of 32 -> q, k, v."""
    rows, tokens, _three, heads, dim = qkv.shape
    q, k, v = (torch.empty(rows, tokens, heads, dim, dtype=qkv.dtype, device=qkv.device) for _ in range(3))
    grid, constants = _launch(qkv, eps)
    forward_kernel[grid](qkv.contiguous(), cos, sin, q, k, v, tokens, heads, num_warps=4, **constants)
    return q, k, v


def backward(dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Gradients of q, k, v, each (rows, tokens, heads, dim) -> that of qkv."""
    _rows, tokens, _three, heads, _dim = qkv.shape
    out = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grid, constants = _launch(qkv, eps)
    backward_kernel[grid](dq, dk, dv, qkv.contiguous(), cos, sin, out, tokens, heads, num_warps=4, **constants)
    return out
