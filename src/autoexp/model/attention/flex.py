"""Attention by torch's flex_attention, which skips the blocks outside the window. Only in compiled code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# (tokens, window) -> BlockMask. Filled by `prepare` before the model is compiled: a compiled graph only looks it up.
BLOCK_MASKS: dict[tuple[int, int], Any] = {}


def prepare(tokens: int, windows: Iterable[int], device: torch.device) -> None:
    """Make the block masks of `windows` for sequences of `tokens` tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    for window in set(windows):

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor, window: int = window) -> Tensor:
            return (key <= query) & (query - key <= window)

        BLOCK_MASKS[tokens, window] = create_block_mask(visible, None, None, tokens, tokens, device=str(device))


def serves(q: Tensor, window: int) -> bool:
    """Whether `prepare` made the mask for `q`, (batch, tokens, heads, head_dim), and `window`."""
    return (q.size(1), window) in BLOCK_MASKS


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """As the package's `attend`, where `serves` says yes."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = BLOCK_MASKS[q.size(1), window]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (batch, heads, tokens, head_dim)
    out: Tensor = flex_attention(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))
    return out.transpose(1, 2)
