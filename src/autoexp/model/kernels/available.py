"""Whether the Triton kernels of this package are used: settled once for a device, before anything is compiled."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

HOPPER = (9, 0)  # where the kernels were measured to be faster than what the compiler makes
SETTLED = {"fused": False}


def settle(device: torch.device) -> bool:
    """Use the kernels from now on if `device` is a GPU that they are written for. `AUTOEXP_KERNELS=0` says no."""
    SETTLED["fused"] = (
        os.environ.get("AUTOEXP_KERNELS", "1") != "0"
        and device.type == "cuda"
        and torch.cuda.get_device_capability(device) == HOPPER
        and importlib.util.find_spec("triton") is not None
    )
    return SETTLED["fused"]


def fused(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether to use the kernels on `x`, to be computed in `dtype`."""
    return SETTLED["fused"] and x.is_cuda and dtype == torch.bfloat16


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision of matrix products with `x`: autocast's where it is on, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
