"""autoexp: research on a program by experiment, overnight, that can be trusted in the morning.

`from autoexp import hookimpl` is all that a plugin needs to register itself. The import is lazy, so that
`autoexp.model` runs on a machine that has torch and none of the command's own packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoexp.spec.markers import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    if name == "hookimpl":
        from autoexp.spec.markers import hookimpl

        return hookimpl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
