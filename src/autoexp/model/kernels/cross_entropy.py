"""The head and its loss in one: soft-capped logits and the cross-entropy of every target, in nats.

    logits = softcap * tanh(x @ weight.T / softcap)
    loss   = logsumexp(logits) - logits[target]

As separate operations this reads and writes the logits, by far the largest tensor of a training step (4 GB at 262,144
tokens and 8192 ids), again and again in float32. Here they are written once in bf16 and read twice. A soft-capped
logit is at most `softcap`, so the sum of exponentials needs no running maximum and one pass is enough.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from autoexp.model.kernels.available import SETTLED, compute_dtype, fused

CHUNK = 32_768  # tokens of the backward pass at a time: their logits' gradient is the one large temporary


def softcap_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Loss of every target, float32 in the shape of `targets`.

    x is (..., width), weight (vocab, width), targets (...) int64 below vocab.
    """
    dtype = compute_dtype(x)
    if not fused(x, dtype):
        if SETTLED["compiled"] and not torch.compiler.is_compiling():  # the cap as a tensor: another compiles nothing
            answer: Tensor = compiled()(x, weight, targets, torch.tensor(softcap))
            return answer
        return plain(x, weight, targets, softcap)
    flat = x.reshape(-1, x.size(-1)).to(dtype)
    loss: Tensor = head_loss(flat, weight.to(dtype), targets.reshape(-1), softcap)[0]
    return loss.view(targets.shape)


@cache
def compiled() -> Any:
    """`plain`, compiled."""
    return torch.compile(plain, dynamic=False)


def plain(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | Tensor) -> Tensor:
    """The same in plain PyTorch."""
    logits = torch.nn.functional.linear(x, weight).float()
    capped = softcap * torch.tanh(logits / softcap)
    loss = torch.nn.functional.cross_entropy(capped.flatten(0, -2), targets.flatten(), reduction="none")
    return loss.view(targets.shape)


@custom_op("autoexp::head_loss", mutates_args=())
def head_loss(x: Tensor, weight: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, width), weight (vocab, width), targets (n,) -> loss (n,) and logsumexp (n,) float32, logits (n, vocab)."""
    from autoexp.model.kernels.triton_cross_entropy import losses

    logits = x @ weight.T
    loss, lse = losses(logits, targets, softcap)
    return loss, lse, logits


@head_loss.register_fake
def _(x: Tensor, weight: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor, Tensor]:
    loss = x.new_empty(x.size(0), dtype=torch.float32)
    return loss, torch.empty_like(loss), x.new_empty(x.size(0), weight.size(0))


@custom_op("autoexp::head_loss_backward", mutates_args=())
def head_loss_backward(
    grad: Tensor, x: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, logits: Tensor, softcap: float
) -> tuple[Tensor, Tensor]:
    """grad (n,) float32 of the losses -> gradients of x and weight."""
    from autoexp.model.kernels.triton_cross_entropy import logit_gradients

    dx = torch.empty_like(x)
    parts = []  # of the weight's gradient, one a chunk: summed in float32, so that chunks cost no precision
    for start in range(0, x.size(0), CHUNK):
        part = slice(start, start + CHUNK)
        dlogits = logit_gradients(logits[part], targets[part], lse[part], grad[part], softcap)
        torch.mm(dlogits, weight, out=dx[part])
        parts.append(dlogits.T @ x[part])
    return dx, torch.stack(parts).sum(dim=0, dtype=torch.float32).to(weight.dtype)


@head_loss_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, logits: Tensor, softcap: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # or a gradient of the logits, all zeros, would be made
    x, weight, targets, ctx.softcap = inputs
    _loss, lse, logits = output
    ctx.mark_non_differentiable(lse, logits)
    ctx.save_for_backward(x, weight, targets, lse, logits)


def _backward(ctx: Any, grad: Tensor, _lse: Any, _logits: Any) -> tuple[Tensor, Tensor, None, None]:
    x, weight, targets, lse, logits = ctx.saved_tensors
    dx, dweight = head_loss_backward(grad.contiguous(), x, weight, targets, lse, logits, ctx.softcap)
    return dx, dweight, None, None


head_loss.register_autograd(_backward, setup_context=_save)
