"""Byte-pair encoding: trained by rustbpe, run by tiktoken, stored as JSON (never pickle).

The last ids are the special tokens; the first of them, BOS, starts every document.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoexp.model.errors import BadInput
from autoexp.model.storage import write_json

if TYPE_CHECKING:
    import tiktoken

# How text is cut before merging: the GPT-4 rule, but numbers in groups of at most two digits.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = tuple(f"<|reserved_{i}|>" for i in range(4))
BOS = SPECIAL_TOKENS[0]
DOCUMENT_CHARACTERS = 10_000  # of each document seen in training: one odd document must not rule the merges
TRAINING_CHARACTERS = 1_000_000_000

Ids = npt.NDArray[np.uint16]


class Tokenizer:
    """Text to token ids and back. `merges[i]` is the byte string of token i."""

    def __init__(self, merges: list[bytes], made_from: str = "") -> None:
        import tiktoken

        self.merges = merges
        self.made_from = made_from
        self.encoding: tiktoken.Encoding = tiktoken.Encoding(
            name="autoexp",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks={piece: rank for rank, piece in enumerate(merges)},
            special_tokens={name: len(merges) + i for i, name in enumerate(SPECIAL_TOKENS)},
        )
        self.bos: int = self.encoding.encode_single_token(BOS)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return len(self.merges) + len(SPECIAL_TOKENS)

    def encode(self, text: str) -> Ids:
        """Token ids of one text, BOS first. Text that looks like a special token stays text."""
        return self._with_bos(self.encoding.encode_ordinary(text))

    def encode_documents(self, texts: list[str], threads: int = 4) -> list[Ids]:
        """What `encode` makes of each text, by several threads. A batch of many texts gains little from them."""
        return [self._with_bos(ids) for ids in self.encoding.encode_ordinary_batch(texts, num_threads=threads)]

    def _with_bos(self, ids: list[int]) -> Ids:
        row = np.empty(len(ids) + 1, dtype=np.uint16)
        row[0] = self.bos
        row[1:] = ids
        return row

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return str(self.encoding.decode([int(each) for each in ids]))

    def token_bytes(self, reference: bool = False) -> npt.NDArray[np.int32]:
        """Length in bytes of each token, shape (vocab_size,); 0 for a special token, which is no text.

        A token is as long as its bytes, so the lengths over a text add up to its UTF-8 size. With `reference` a
        token that is no UTF-8 by itself is counted after U+FFFD (3 bytes) took the place of what is broken: that
        is what karpathy/autoresearch counts, and only a side-by-side comparison wants it.
        """
        lengths = [len(piece.decode("utf-8", "replace").encode()) if reference else len(piece) for piece in self.merges]
        return np.array(lengths + [0] * len(SPECIAL_TOKENS), dtype=np.int32)

    def save(self, path: Path) -> None:
        """Write as JSON by rename."""
        pieces = [base64.b64encode(piece).decode() for piece in self.merges]
        made = {"version": 1, "made_from": self.made_from, "pattern": SPLIT_PATTERN, "special": list(SPECIAL_TOKENS)}
        write_json(path, {**made, "merges": pieces})

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote. Raises BadInput if it is something else."""
        try:
            stored = json.loads(path.read_text())
            if stored["pattern"] != SPLIT_PATTERN or tuple(stored["special"]) != SPECIAL_TOKENS:
                raise ValueError("made with another split pattern or other special tokens")
            return cls([base64.b64decode(piece) for piece in stored["merges"]], made_from=stored["made_from"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path} is no tokenizer of this version: {error}", f"delete {path} and prepare again"
            ) from None


def excerpts(texts: Iterable[str]) -> Iterator[str]:
    """The part of `texts` that the tokenizer learns from."""
    left = TRAINING_CHARACTERS
    for text in texts:
        part = text[:DOCUMENT_CHARACTERS]
        yield part
        left -= len(part)
        if left <= 0:
            return


def train_tokenizer(texts: Iterable[str], vocab_size: int, made_from: str = "") -> Tokenizer:
    """Learn merges from `texts`. The result has fewer ids than `vocab_size` if the text has too few pairs."""
    import rustbpe  # type: ignore[import-untyped,unused-ignore]

    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(excerpts(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    ranked = sorted(learner.get_mergeable_ranks(), key=lambda item: item[1])
    del learner
    give_back_memory()
    return Tokenizer([bytes(piece) for piece, _rank in ranked], made_from=made_from)


def give_back_memory() -> None:
    """Return freed memory to the system: the learner's counts take a gigabyte, which glibc would keep for later."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
