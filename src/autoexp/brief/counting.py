"""Counting tokens without a network: a byte-pair vocabulary of our own, run by tiktoken.

The encodings that tiktoken knows by name are fetched from the internet, so none of them is used. Ours has 8,192 pieces,
where the models' own have 100,000 and more: for the same text it needs more tokens than they do, so that a brief that
fits by this count fits by theirs. It is a count and no promise: text in a script that ours does not know (it falls
back to single bytes there, which no byte-level vocabulary can do worse than) is counted high, and odd text may be
counted lower than by a vocabulary that cuts it otherwise.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

COUNTER = "autoexp-8k"
"""Name of the counter, as `autoexp brief` tells it."""
VOCABULARY = Path(__file__).with_name("vocabulary.txt")
"""The pieces in base64, one a line, in the order in which they were learned; benchmarks/token_counter.py makes it."""
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""How text is cut before merging: as the models' vocabularies do, but with numbers in groups of two digits."""
PIECE = 1000
"""Characters that are counted at once: merging a word of a million letters would take for ever."""


def count(text: str) -> int:
    """Tokens of `text`. Each line is counted by itself, so the counts of texts that end with a newline add up."""
    pieces = [
        line[at : at + PIECE] for line in fit(text).splitlines(keepends=True) for at in range(0, len(line), PIECE)
    ]
    return sum(len(_encoding().encode_ordinary(piece)) for piece in pieces)


def fit(text: str) -> str:
    """`text` without what no UTF-8 file can hold."""
    return text.encode(errors="replace").decode() if not text.isascii() else text


@cache
def _encoding() -> tiktoken.Encoding:
    import tiktoken

    ranks = {base64.b64decode(line): rank for rank, line in enumerate(VOCABULARY.read_text().split())}
    return tiktoken.Encoding(name=COUNTER, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
