"""Replacing text, whatever the line ends are."""

from __future__ import annotations

import pytest

from autoexp.errors import ProposalError
from autoexp.workspace.edits import replaced_text


@pytest.mark.parametrize(
    ("text", "old", "new", "after"),
    [
        ("a\nb\nc\n", "b", "x", "a\nx\nc\n"),
        ("a\r\nb\r\nc\r\n", "a\nb", "x\ny", "x\r\ny\r\nc\r\n"),
        ("a\r\nb\r\nc\r\n", "a\r\nb", "x\r\ny", "x\r\ny\r\nc\r\n"),
        ("a\r\nb\r\n", "b", "x\ny", "a\r\nx\r\ny\r\n"),
        ("a\r\nb\r\n", "b\n", "", "a\r\n"),
        ("a\nb\n", "a\r\nb", "x\r\ny", "x\ny\n"),
        ("a\r\nb\nc\n", "a\nb", "x\ny", "x\ny\nc\n"),
        ("a\r\nb\nb\r\nb\n", "b\r\nb", "x", "a\r\nb\nx\n"),
        ("a", "a", "x\ny", "x\ny"),
        ("a.c abc\n", "a.c", r"\1\n", r"\1\n" + " abc\n"),
    ],
)
def test_line_ends_are_the_files(text: str, old: str, new: str, after: str) -> None:
    assert replaced_text(text, old, new) == after


@pytest.mark.parametrize(("old", "times"), [("x", 0), ("a", 2), ("a\nb", 2)])
def test_what_is_not_there_once_is_refused(old: str, times: int) -> None:
    with pytest.raises(ProposalError, match=f"occurs {times} times, not once"):
        replaced_text("a\r\nb\r\na\r\nb\r\n", old, "y")
