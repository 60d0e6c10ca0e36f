"""Edits of a text that hold whatever its line ends are."""

from __future__ import annotations

import re

from autoexp.errors import ProposalError

_END = re.compile(r"\r?\n")


def replaced_text(text: str, old: str, new: str) -> str:
    """`text` with `old`, which must occur exactly once, replaced by `new`, which takes on the line ends of `text`.

    Who proposes may not know that a file has CRLF: the line ends of `old` need not be those of `text`.
    Raises ProposalError.
    """
    places = [match.span() for match in re.finditer(re.escape(old), text)]
    if not places:
        pattern = r"\r?\n".join(re.escape(line) for line in _END.split(old))
        places = [match.span() for match in re.finditer(pattern, text)]
    if len(places) != 1:
        raise ProposalError(f"the text to replace occurs {len(places)} times, not once", "autoexp propose --help")
    start, end = places[0]
    ends = set(_END.findall(text))
    if len(ends) == 1:  # in a file with both kinds nobody can say which is meant
        one = ends.pop()
        new = _END.sub(lambda match: one, new)
    return text[:start] + new + text[end:]
