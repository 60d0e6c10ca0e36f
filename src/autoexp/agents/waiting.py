"""What an agent's words tell of a trouble that passes: that it is one, and how long its server asked to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

OUTAGE = re.compile(
    r"\b(?:429|5\d\d)\b|rate.?limit|usage.?limit|too many requests|overloaded|server.?error|bad gateway|unavailable"
    r"|connection ?(?:refused|reset|error|failed)|unable to connect|cannot connect|ECONNREFUSED|ECONNRESET|ETIMEDOUT"
    r"|ENOTFOUND|EAI_AGAIN|waiting for network|socket hang up|network error",
    re.IGNORECASE,
)
"""In the words of an agent: the trouble is one of those that pass."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = r"(\d+(?:\.\d+)?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\b"
_TOLD = re.compile(
    rf"(?:try again|retry|retrying|resets?)(?:[ -](?:in|after))[:= ]*(?:about )?((?:{_AMOUNT}[\s,]*(?:and )?)+|\d+)",
    re.IGNORECASE,
)
_COMPACT = re.compile(r"(\d)([a-z]+)(?=\d)", re.IGNORECASE)
"""`2m30s`: a unit with the next number right behind it."""


def wait_told(said: str) -> float | None:
    """Seconds, of `try again in 1m30s`, `retry after 20 seconds` or `Retry-After: 7`; the last that is told, if any."""
    told = [match[1] for match in _TOLD.finditer(_COMPACT.sub(r"\1\2 ", said))]
    if not told:
        return None
    parts = re.findall(_AMOUNT, told[-1], re.IGNORECASE)
    if not parts:
        return float(told[-1])
    return sum(float(amount) * _scale(unit.lower()) for amount, unit in parts)


def _scale(unit: str) -> float:
    if unit == "ms" or unit.startswith("milli"):
        return 0.001
    return _SECONDS[unit[0]]


def wait_in(headers: Mapping[str, Any]) -> float | None:
    """Seconds, of the headers of a reply, in any of the forms: milliseconds, seconds, a date."""
    named = {str(name).lower(): str(value) for name, value in headers.items()}
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(named.get(name, "")) * scale
        except ValueError:
            continue
        return seconds if 0 <= seconds < 1e6 else None
    try:
        return max(0.0, parsedate_to_datetime(named["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None
