"""FlashAttention 3 and 4 as operators of torch: opaque to torch.compile, differentiable, the same in every process.

Called plainly, the packages break a compiled graph in two or are traced into, and what is traced cannot be cached.
Here each is a pair of operators, `autoexp::fa3` and `autoexp::fa3_backward`, with a schema that never changes; the
package behind a pair is looked up in KERNELS only when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16)
HEAD_DIMS = (64, 96, 128)

FORWARD = "(Tensor q, Tensor k, Tensor v, SymInt window) -> (Tensor, Tensor)"
BACKWARD = (
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, SymInt window) -> (Tensor, Tensor, Tensor)"
)


class Kernel(Protocol):
    """A package's own functions. q, k, v are (batch, tokens, heads, head_dim), strided in all but the last dimension.

    `window` is how many tokens before itself a token sees, None for all of them.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        """The answer, contiguous in q's shape, and the log of the softmax's sum, float32 (batch, heads, tokens)."""

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and v, contiguous, from `grad`, that of `out`, and what `forward` gave."""


KERNELS: dict[str, Kernel] = {}


def serves(q: Tensor) -> bool:
    """Whether the kernels take a tensor like `q`, (batch, tokens, heads, head_dim)."""
    return q.dtype in DTYPES and q.size(-1) in HEAD_DIMS


def define(name: str) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """Register the operators of the package `name` and return the function that runs them, q, k, v, window -> out."""

    def forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
        return KERNELS[name].forward(q, k, v, cut(window, q))

    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return KERNELS[name].backward(grad.contiguous(), q, k, v, out, lse, cut(window, q))

    def like_forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
        batch, tokens, heads, _ = q.shape
        return q.new_empty(q.shape), q.new_empty((batch, heads, tokens), dtype=torch.float32)

    def like_backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.window = inputs
        ctx.save_for_backward(q, k, v, *output)

    def differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward_op(grad, *ctx.saved_tensors, ctx.window), None)

    forward_op = torch.library.custom_op(f"autoexp::{name}", forward, mutates_args=(), schema=FORWARD)
    backward_op = torch.library.custom_op(f"autoexp::{name}_backward", backward, mutates_args=(), schema=BACKWARD)
    forward_op.register_fake(like_forward)
    backward_op.register_fake(like_backward)
    forward_op.register_autograd(differentiate, setup_context=keep)

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        out: Tensor = forward_op(q, k, v, window)[0]
        return out

    return attend


def cut(window: int, q: Tensor) -> int | None:
    """`window` if it hides any of the tokens of `q` from any other; else None, for which the kernels are quicker."""
    return window if window < q.size(1) - 1 else None


OPS = {name: define(name) for name in ("fa3", "fa4")}
