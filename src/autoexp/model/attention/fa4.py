"""FlashAttention 4: the package flash-attn-4, kernels written in Python that it compiles at their first use.

They are compiled once for a dtype, head_dim, ratio of heads and for with and without a window, some seconds each;
batch, tokens, number of heads and size of the window do not matter. The package can keep what it compiled on disk but
does not by default: here it does, in the cache folder, under a name made of its own sources and versions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from autoexp.model.attention import fa4_ahead
from autoexp.model.prepared import cache_folder


def load() -> FlashAttention4:
    """The kernel. Raises ImportError if the package is not installed, and whatever a broken one raises."""
    if not find_spec("flash_attn") or not find_spec("flash_attn.cute"):
        raise ImportError("flash-attn-4 is not installed: pip install 'autoexp[fa4]'")
    folder = cache_folder() / "kernels"
    # Read when the package is imported, so not a moment later. What the user has set stays.
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(folder / "fa4"))
    os.environ.setdefault("CUTE_DSL_CACHE_DIR", str(folder / "cutlass"))
    warnings.filterwarnings("ignore", message="Argument aux_data .* cannot be converted")  # a screenful a kernel
    return FlashAttention4(import_module("flash_attn.cute.interface"))


class FlashAttention4:
    """The functions below the package's own autograd, whose operators torch.compile cannot see through."""

    def __init__(self, interface: Any) -> None:
        self.run, self.differentiate = interface._flash_attn_fwd, interface._flash_attn_bwd
        self.compiling: fa4_ahead.Processes = []

    def prepare(
        self, tokens: int, windows: Iterable[int], dtype: torch.dtype, head_dim: int, device: torch.device
    ) -> None:
        """Begin to compile what will be needed, where it was not compiled before; the first `forward` waits for it."""
        self.compiling += fa4_ahead.start(tokens, windows, dtype, head_dim, device)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        fa4_ahead.wait(self.compiling)
        out, lse, *_ = self.run(q, k, v, return_lse=True, **span(window))
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
        repeatable = torch.are_deterministic_algorithms_enabled()
        self.differentiate(q, k, v, out, grad, lse, dq=dq, dk=dk, dv=dv, deterministic=repeatable, **span(window))
        return dq, dk, dv


def span(window: int | None) -> dict[str, Any]:
    """The package's words for `window`: causal is what it calls plain causal attention only."""
    return {"causal": True} if window is None else {"window_size_left": window, "window_size_right": 0}
