"""Causal attention with a sliding window, one function over four back ends.

    fa3     FlashAttention 3: CUDA 8.x and 9.0, from the `kernels` package or a local build
    fa4     FlashAttention 4: CUDA 9.0 and 10.x, the optional extra `fa4`
    flex    torch's flex_attention: CUDA from 8.0, inside a compiled model only
    sdpa    torch's scaled_dot_product_attention: everywhere, with a mask where the window cuts

`prepare` takes the first of them that can serve, or the one that `AUTOEXP_ATTENTION` names, and says which. What it
chose it chose for one device: tensors of another device, and those that a kernel does not take, go to sdpa.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from autoexp.model.attention import fa3, fa4, flash, flex, sdpa
from autoexp.model.attention.choose import BACK_ENDS, Place, choose, obstacle

__all__ = ["BACK_ENDS", "Place", "absent", "attend", "obstacle", "prepare"]

LOADERS = {"fa3": fa3.load, "fa4": fa4.load}


@dataclass(frozen=True)
class Choice:
    """What `attend` uses, on tensors of which kind of device."""

    back_end: str
    device: str


chosen = Choice("sdpa", "cpu")


def prepare(
    tokens: int,
    windows: Iterable[int],
    device: torch.device,
    compiled: bool,
    *,
    dtype: torch.dtype = torch.bfloat16,
    head_dim: int = 128,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Choose the back end for sequences of `tokens` tokens, make what it needs and return its name.

    `windows` are those that `attend` will be called with, `dtype` is that of q, k and v as it gets them. Call it
    before the model is compiled: a compiled graph keeps what was chosen. Raises BadInput if `AUTOEXP_ATTENTION` names
    no back end, or one that cannot serve here.
    """
    global chosen
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    place = Place(device.type, capability, dtype, head_dim, compiled)
    chosen = Choice(choose(place, absent, environ.get("AUTOEXP_ATTENTION", "")), device.type)
    if chosen.back_end == "flex":
        flex.prepare(tokens, windows, device)
    kernel = flash.KERNELS.get(chosen.back_end)
    if isinstance(kernel, fa4.FlashAttention4):
        kernel.prepare(tokens, windows, dtype, head_dim, device)
    return chosen.back_end


@cache
def absent(back_end: str) -> str:
    """Why the software of `back_end` cannot be used in this process, empty if it can; fa3 and fa4 get loaded."""
    if back_end == "flex":
        return "" if find_spec("triton") else "triton is not installed"
    if back_end in LOADERS:
        if torch.version.hip is not None:
            return "it is made for NVIDIA's cards"
        try:
            flash.KERNELS[back_end] = LOADERS[back_end]()
        except Exception as error:  # a binary package of another's: whatever it raises, training goes on without it
            return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of every token to itself and the `window` tokens before it, scale 1/sqrt(head_dim).

    q, k, v are (batch, tokens, heads, head_dim), k and v perhaps with fewer heads that divide q's; the answer has
    q's shape. They may be views of one tensor: only the last dimension must be contiguous. A window of tokens - 1 or
    more is plain causal attention.
    """
    if q.device.type == chosen.device:
        if chosen.back_end in flash.OPS and flash.serves(q):
            return flash.OPS[chosen.back_end](q, k, v, window)
        if chosen.back_end == "flex" and torch.compiler.is_compiling() and flex.serves(q, window):
            return flex.attend(q, k, v, window)
    return sdpa.attend(q, k, v, window)
