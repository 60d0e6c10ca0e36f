"""Attention by torch's scaled_dot_product_attention: any device, any dtype, a mask where the window cuts."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """As the package's `attend`."""
    tokens = q.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (batch, heads, tokens, head_dim)
    grouped = q.size(1) != k.size(1)
    if window >= tokens - 1:
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        mask = (band if torch.compiler.is_compiling() else kept_band)(tokens, window, q.device)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return out.transpose(1, 2)


def band(tokens: int, window: int, device: torch.device) -> Tensor:
    """Who sees whom, bool (tokens, tokens): row i is true at columns i - window to i."""
    position = torch.arange(tokens, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance <= window)


kept_band = lru_cache(maxsize=16)(band)
