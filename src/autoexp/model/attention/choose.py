"""Which attention back end serves where: pure, so that every machine can be tested on any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from autoexp.model.attention.flash import DTYPES, HEAD_DIMS
from autoexp.model.errors import BadInput

# Best first. fa3 before fa4: as fast on Hopper to a few percent, and it has nothing to import for seconds or to JIT.
BACK_ENDS = ("fa3", "fa4", "flex", "sdpa")

# Major compute capabilities. fa4's backward knows 11.x and 12.x too, its speed and window there are not known to us.
SERVED = {"fa3": (8, 9), "fa4": (9, 10)}


@dataclass(frozen=True)
class Place:
    """Where attention runs and on what. `capability` is CUDA's (major, minor), (0, 0) on other devices."""

    device: str
    capability: tuple[int, int]
    dtype: torch.dtype
    head_dim: int
    compiled: bool


def obstacle(back_end: str, place: Place) -> str:
    """Why `back_end` cannot serve at `place` whatever is installed, empty if it can."""
    if back_end == "sdpa":
        return ""
    if place.device != "cuda":
        return f"{back_end} needs a CUDA device, this is {place.device}"
    major, minor = place.capability
    if back_end == "flex":
        if not place.compiled:
            return "flex needs a compiled model"
        return "" if major >= 8 else f"flex needs compute capability 8.0, this device has {major}.{minor}"
    if major not in SERVED[back_end]:
        known = " and ".join(f"{major}.x" for major in SERVED[back_end])
        return f"{back_end} needs compute capability {known}, this device has {major}.{minor}"
    if place.dtype not in DTYPES:
        return f"{back_end} takes bfloat16 and float16, not {place.dtype}".replace("torch.", "")
    if place.head_dim not in HEAD_DIMS:
        return f"{back_end} takes heads of {', '.join(map(str, HEAD_DIMS))} channels, not {place.head_dim}"
    return ""


def choose(place: Place, absent: Callable[[str], str], wanted: str = "") -> str:
    """The best back end that can serve at `place`, or `wanted` if it can.

    `absent` says why a back end's software cannot be used, empty if it can; it may take seconds and is asked only
    about those that nothing else rules out. Raises BadInput for a `wanted` that is none or cannot serve.
    """
    if wanted and wanted not in BACK_ENDS:
        raise BadInput(
            f"AUTOEXP_ATTENTION={wanted} names no attention back end", f"choose {', '.join(BACK_ENDS)}, or unset it"
        )
    for back_end in (wanted,) if wanted else BACK_ENDS:
        reason = obstacle(back_end, place) or absent(back_end)
        if not reason:
            return back_end
    raise BadInput(f"AUTOEXP_ATTENTION={wanted} cannot be used: {reason}", "unset it for the best that can")
