"""Stands in for the package `kernels` where it, or the kernel that it would download, cannot be had.

The reference asks it for FlashAttention 3; here that one call is answered by the fastest back end of autoexp. Copied
to the reference's side under the name `kernels.py`; which back end it was is printed, and said in the table.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from autoexp.model import attention

ASKED = "AUTOEXP_SHIM_ASKED"


def get_kernel(repository: str, *_: Any, **__: Any) -> SimpleNamespace:
    """The one function of the package that the reference calls.

    The back ends of autoexp ask the package too, for FlashAttention 3, in processes of their own: ImportError to them.
    """
    if ASKED in os.environ:
        raise ImportError(f"{repository} cannot be had here")
    os.environ[ASKED] = "1"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = int(os.environ["AUTOEXP_SHIM_TOKENS"])
    windows = [int(window) for window in os.environ["AUTOEXP_SHIM_WINDOWS"].split(",")]
    name = attention.prepare(tokens, windows, device, device.type == "cuda")
    print(f"attention: {name} of autoexp in place of {repository}", flush=True)
    return SimpleNamespace(flash_attn_interface=SimpleNamespace(flash_attn_func=flash_attn_func))


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window_size: tuple[int, int] = (-1, -1)
) -> Tensor:
    """Causal attention, q, k, v (rows, tokens, heads, head_dim), to at most window_size[0] tokens back (-1: all)."""
    if not causal:
        raise NotImplementedError("the reference only calls it with causal=True")
    window = window_size[0] if window_size[0] >= 0 else q.size(1)
    return attention.attend(q.to(v.dtype), k.to(v.dtype), v, window)
