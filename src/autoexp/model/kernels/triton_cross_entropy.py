"""The Triton kernels behind cross_entropy.py: one program a row, the row in blocks.

With r = 1 / (1 + exp(2 l / cap)) for a raw logit l: the capped logit less the cap is -2 cap r, and its derivative by l
is 4 r (1 - r). Two exponentials and one reciprocal a logit, no tanh.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = 1.4426950408889634
BLOCK = 8192  # ids of the vocabulary at a time


@triton.jit
def loss_kernel(logits, targets, loss, lse, vocab, cap, two_log2e_over_cap, two_cap_log2e, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * vocab
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, vocab, BLOCK):
        column = start + tl.arange(0, BLOCK)
        raw = tl.load(line + column, mask=column < vocab, other=float("-inf")).to(tl.float32)
        r = 1.0 / (1.0 + tl.exp2(raw * two_log2e_over_cap))
        total += tl.where(column < vocab, tl.exp2(-two_cap_log2e * r), 0.0)
    target = tl.load(targets + row)
    raw = tl.load(line + target).to(tl.float32)
    below = 2.0 * cap / (1.0 + tl.exp2(raw * two_log2e_over_cap))  # the cap less the target's logit
    log_sum = tl.log(tl.sum(total, axis=0))  # logsumexp less the cap
    tl.store(loss + row, log_sum + below)
    tl.store(lse + row, log_sum + cap)


@triton.jit
def gradient_kernel(
    logits, targets, lse, grad, out, vocab, cap, two_log2e_over_cap, two_cap_log2e, log2e, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    line, to = logits + row * vocab, out + row * vocab
    target = tl.load(targets + row)
    scale = tl.load(grad + row)
    shift = (tl.load(lse + row) - cap) * log2e
    for start in range(0, vocab, BLOCK):
        column = start + tl.arange(0, BLOCK)
        raw = tl.load(line + column, mask=column < vocab, other=0.0).to(tl.float32)
        r = 1.0 / (1.0 + tl.exp2(raw * two_log2e_over_cap))
        p = tl.exp2(-two_cap_log2e * r - shift)
        p = tl.where(column == target, p - 1.0, p)
        tl.store(to + column, (scale * p * (4.0 * r * (1.0 - r))).to(out.dtype.element_ty), mask=column < vocab)


def _scalars(softcap: float) -> tuple[float, float, float]:
    return softcap, 2 * LOG2E / softcap, 2 * softcap * LOG2E


def _block(vocab: int) -> int:
    return min(BLOCK, 1 << (vocab - 1).bit_length())


def losses(logits: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """logits (n, vocab) without the cap, targets (n,) -> loss and logsumexp, each (n,) float32."""
    rows, vocab = logits.shape
    loss = torch.empty(rows, dtype=torch.float32, device=logits.device)
    lse = torch.empty_like(loss)
    loss_kernel[(rows,)](logits, targets, loss, lse, vocab, *_scalars(softcap), BLOCK=_block(vocab), num_warps=8)
    return loss, lse


def logit_gradients(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, softcap: float) -> Tensor:
    """The gradient of the raw logits, (n, vocab) in their precision, for the losses' gradient `grad` (n,)."""
    rows, vocab = logits.shape
    out = torch.empty_like(logits)
    gradient_kernel[(rows,)](
        logits, targets, lse, grad, out, vocab, *_scalars(softcap), LOG2E, BLOCK=_block(vocab), num_warps=8
    )
    return out
