"""Causal attention with a sliding window, one function over several back ends.

    flex_attention    CUDA, inside a compiled model: skips the blocks outside the window
    sdpa              everywhere else: torch's scaled_dot_product_attention, with a mask where the window cuts

A further kernel (FlashAttention 3 or 4) is one more function here and one more line in `attend`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# (tokens, window) -> BlockMask. Filled by `prepare` before the model is compiled: a compiled graph only looks it up.
BLOCK_MASKS: dict[tuple[int, int], Any] = {}


def prepare(tokens: int, windows: Iterable[int], device: torch.device, compiled: bool) -> str:
    """Make what the back end needs for sequences of `tokens` tokens and return the back end's name."""
    if not (compiled and device.type == "cuda"):
        return "sdpa"
    from torch.nn.attention.flex_attention import create_block_mask

    for window in set(windows):

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor, window: int = window) -> Tensor:
            return (key <= query) & (query - key <= window)

        BLOCK_MASKS[tokens, window] = create_block_mask(visible, None, None, tokens, tokens, device=str(device))
    return "flex_attention"


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of every token to itself and the `window` tokens before it, scale 1/sqrt(head_dim).

    q, k, v are (batch, tokens, heads, head_dim), k and v perhaps with fewer heads that divide q's; the answer has
    q's shape. A window of tokens - 1 or more is plain causal attention.
    """
    tokens = q.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (batch, heads, tokens, head_dim)
    grouped = q.size(1) != k.size(1)
    if torch.compiler.is_compiling() and (tokens, window) in BLOCK_MASKS:
        from torch.nn.attention.flex_attention import flex_attention

        out: Tensor = flex_attention(q, k, v, block_mask=BLOCK_MASKS[tokens, window], enable_gqa=grouped)
    elif window >= tokens - 1:
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=band(tokens, window, q.device), enable_gqa=grouped)
    return out.transpose(1, 2)


@lru_cache(maxsize=16)
def band(tokens: int, window: int, device: torch.device) -> Tensor:
    """Who sees whom, bool (tokens, tokens): row i is true at columns i - window to i."""
    position = torch.arange(tokens, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance <= window)
