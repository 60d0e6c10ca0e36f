"""Whether the Triton kernels of this package are used for a tensor."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import torch
from torch import Tensor

HOPPER = (9, 0)  # where the kernels were measured to be faster than what the compiler makes


@lru_cache(maxsize=1)
def triton_is_there() -> bool:
    return importlib.util.find_spec("triton") is not None


@lru_cache(maxsize=16)
def capable(device: torch.device) -> bool:
    """Whether `device` is a GPU that the kernels are written for."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER


def fused(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether to use the kernels on `x`, to be computed in `dtype`. `AUTOEXP_KERNELS=0` says no to all."""
    wanted = os.environ.get("AUTOEXP_KERNELS", "1") != "0"
    return wanted and dtype == torch.bfloat16 and x.is_cuda and triton_is_there() and capable(x.device)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision of matrix products with `x`: autocast's where it is on, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
