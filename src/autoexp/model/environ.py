"""Numbers from the environment."""

from __future__ import annotations

from collections.abc import Mapping

from autoexp.model.errors import BadInput


def whole_number(environ: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    """An environment variable as a whole number of at least `least`. Raises BadInput."""
    text = environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise BadInput(f"{name}={text} is no whole number of {least} or more", f"give {least} or more, or unset it")
    return int(text)


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    """An environment variable as a positive number of seconds. Raises BadInput."""
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise BadInput(f"{name}={text} is no number of seconds", "give a number above 0, or unset it")
    return value
