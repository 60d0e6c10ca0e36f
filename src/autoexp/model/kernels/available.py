"""What runs the operators of this package: settled once for a device, before anything is compiled."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

HOPPER = (9, 0)  # where the kernels were measured to be faster than what the compiler makes
SETTLED = {"fused": False, "compiled": False}


def settle(device: torch.device, compiles: bool = False) -> bool:
    """Use the Triton kernels from now on if `device` is a GPU that they are written for; `AUTOEXP_KERNELS=0` says no.

    `compiles` says whether the twins that stand outside all compiled regions are to be compiled.
    """
    SETTLED["compiled"] = compiles
    SETTLED["fused"] = (
        os.environ.get("AUTOEXP_KERNELS", "1") != "0"
        and device.type == "cuda"
        and torch.version.hip is None  # an AMD card may say (9, 0) of itself
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
