"""Imports the packages behind the attention back ends before a device is asked which of them it will be."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from autoexp.model import attention
from autoexp.model.attention.choose import BACK_ENDS
from autoexp.model.attention.fa3 import LOCAL_BUILDS

FLEX = ("torch.nn.attention.flex_attention", "torch._inductor.kernel.flex")


def import_ahead(environ: Mapping[str, str]) -> None:
    """Import what the back end wants that `AUTOEXP_ATTENTION` names, else what the first installed one may want.

    FlashAttention 3 is loaded for a device, so only its package is imported; whether the hub's cache has a kernel of
    it for this device is not known here, so FlashAttention 4, which would be next, is imported too.
    """
    wanted = environ.get("AUTOEXP_ATTENTION")
    for back_end in (wanted,) if wanted else BACK_ENDS:
        if back_end == "fa3" and _fa3() and not wanted:
            return
        if back_end == "fa4" and not attention.absent("fa4"):
            return
        if back_end == "flex" and not attention.absent("flex"):
            for name in FLEX:
                with suppress(ImportError):
                    import_module(name)
            return


def _fa3() -> bool:
    """Import the package that has FlashAttention 3. Whether that settles it: a local build does."""
    for name in (*LOCAL_BUILDS, "kernels"):
        with suppress(Exception):  # another's binary package: whatever it raises is told when it is used
            if find_spec(name.partition(".")[0]) and find_spec(name):
                import_module(name)
                return name in LOCAL_BUILDS
    return False
