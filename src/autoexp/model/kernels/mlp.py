"""The MLP with relu² in one operator: relu(x @ up.T)² @ down.

The hidden layer is the widest tensor of a block. Fused, it is written once in the forward pass and once in the
backward pass: relu² is applied where the first product leaves the matrix units, and its derivative, 2 relu(h), is
2 sqrt(relu(h)²), so that only the squares are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from autoexp.model.kernels.available import compute_dtype, fused


def relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x (..., width), up and down both (hidden, width) -> (..., width)."""
    dtype = compute_dtype(x)
    if not fused(x, dtype) or x.size(-1) % 8 or up.size(0) % 8:  # rows of 16 bytes, or the copy engine cannot
        return plain(x, up, down)
    out: Tensor = mlp(x.reshape(-1, x.size(-1)).to(dtype), up.to(dtype), down.to(dtype))[0]
    return out.view(x.shape)


def plain(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    return torch.matmul(torch.nn.functional.relu(torch.nn.functional.linear(x, up)).square(), down)


@custom_op("autoexp::relu2_mlp", mutates_args=())
def mlp(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """x (n, width) -> the result (n, width) and the squares (n, hidden)."""
    from autoexp.model.kernels.triton_mlp import product

    squares = product(x, up)
    return squares @ down, squares


@mlp.register_fake
def _(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.size(0), up.size(0))


@custom_op("autoexp::relu2_mlp_backward", mutates_args=())
def mlp_backward(grad: Tensor, x: Tensor, up: Tensor, down: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """grad (n, width) -> gradients of x, up and down."""
    from autoexp.model.kernels.triton_mlp import product

    hidden = product(grad, down, squares)  # the gradient before relu², (n, hidden)
    return hidden @ up, hidden.T @ x, squares.T @ grad


@mlp_backward.register_fake
def _(grad: Tensor, x: Tensor, up: Tensor, down: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(up), torch.empty_like(down)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, grad: Tensor, _squares: Any) -> tuple[Tensor, Tensor, Tensor]:
    return mlp_backward(grad.contiguous(), *ctx.saved_tensors)  # type: ignore[no-any-return]


mlp.register_autograd(_backward, setup_context=_save)
