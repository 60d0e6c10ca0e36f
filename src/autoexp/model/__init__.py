"""The GPT trainer: what a train.py imports. Everything else of the package is run as `python -m autoexp.model.…`."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoexp.model.attention import attend
    from autoexp.model.kernels import relu2_mlp, rotated_heads, softcap_cross_entropy
    from autoexp.model.observer import Step
    from autoexp.model.trial import Trial

__all__ = ["Step", "Trial", "attend", "relu2_mlp", "rotated_heads", "softcap_cross_entropy"]


def __getattr__(name: str) -> Any:  # torch takes seconds to import, and preparing data needs none of it
    if name == "attend":
        from autoexp.model.attention import attend

        return attend
    if name in ("relu2_mlp", "rotated_heads", "softcap_cross_entropy"):
        from autoexp.model import kernels

        return getattr(kernels, name)
    if name in ("Step", "Trial"):
        from autoexp.model import trial

        gc.freeze()  # its million objects are there to stay: no collection need look through them, not even the last
        return getattr(trial, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
