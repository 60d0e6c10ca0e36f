"""How long an agent's words say that its server asked to wait."""

from __future__ import annotations

import pytest

from autoexp.agents.waiting import OUTAGE, wait_in, wait_told


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Rate limit reached for m. Please try again in 11.054s. Visit https://x", 11.054),
        ("429: retry after 20 seconds", 20.0),
        ("try again in 1m30s", 90.0),
        ("You've hit your usage limit. Try again in 3 hours 42 minutes.", 3 * 3600.0 + 42 * 60.0),
        ("try again in 2 days, 1 hour and 5 minutes", 2 * 86400.0 + 3600.0 + 300.0),
        ("please retry in 350ms", 0.35),
        ("Retry-After: 7", 7.0),
        ("retry-after=7", 7.0),
        ("stream error, retrying in 2s; stream error, retrying in 4s", 4.0),
        ("try again in a while", None),
        ("try again", None),
        ("in 20 seconds", None),
        ("", None),
    ],
)
def test_what_is_told(said: str, seconds: float | None) -> None:
    assert wait_told(said) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_what_headers_say(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_in(headers) == seconds


@pytest.mark.parametrize("said", ["You've hit your usage limit.", "429 Too Many Requests", "Overloaded", "502"])
def test_what_passes(said: str) -> None:
    assert OUTAGE.search(said)
