"""Where text comes from: the bundled addresses, or a file or folder of one's own. (climbmix.py: the big one.)

A source gives whole documents, each in exactly one of its splits. What is held out is decided for the whole
document before it is cut into pieces, so no sentence is trained on whose neighbour is validated on.

The test split, which no decision sees, is whole documents of its own too. Of climbmix those are documents of the
validation shard that come after all that validation takes, so that its validation rows are the reference's.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from autoexp.model.console import Progress
from autoexp.model.errors import BadInput, Missing
from autoexp.model.prepared import OWN_DOCUMENTS
from autoexp.model.shards import Block, in_batches, parquet_texts

HELD_OUT_OF = 12  # one document of so many is validation, and another is test
GROUP_CHARACTERS = 3000  # a single text file is grouped into documents of about this size
FEW_FILES = 24  # of fewer text files each is grouped, of more each is one document


class Source(Protocol):
    """What prepare.py needs of a dataset."""

    name: str
    own_test: bool  # whether there are documents of the split `test`

    def fingerprint(self) -> dict[str, Any]:
        """What was asked for, cheap to find out; Missing or BadInput if there is nothing to read."""

    def content(self) -> dict[str, int]:
        """Name and size in bytes of the files that were fetched and are here, if the fingerprint does not tell."""

    def fetch(self, progress: Progress) -> None:
        """Bring here what is not here yet."""

    def documents(self, split: str) -> Iterator[list[str]]:
        """Batches of texts of `train`, `val` or its own `test`, always the same ones in the same order."""

    def blocks(self, split: str) -> list[Block]:
        """The same batches in parts for several processes; empty if the text is too little to be divided."""


def pieces(text: str, characters: int) -> Iterator[str]:
    """Cut `text` at sentence and line ends into pieces of at most `characters`, so that packing drops little."""
    piece: list[str] = []
    size = 0
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text):
        for part in cut_at_spaces(sentence, characters):
            if piece and size + len(part) > characters:
                yield " ".join(piece)
                piece, size = [], 0
            piece.append(part)
            size += len(part) + 1
    if piece:
        yield " ".join(piece)


def cut_at_spaces(text: str, characters: int) -> Iterator[str]:
    """Parts of at most `characters`, cut at spaces where there are any; nothing for an empty text."""
    text = text.strip()
    while len(text) > characters:
        at = text.rfind(" ", 1, characters + 1)
        at = characters if at < 0 else at
        yield text[:at]
        text = text[at:].lstrip()
    if text:
        yield text


def split_of(number: int) -> str:
    """The split of a document, by its place among all."""
    return {0: "test", HELD_OUT_OF // 2: "val"}.get(number % HELD_OUT_OF, "train")


class Bundled:
    """The State of the Union addresses that come with the package; by date every twelfth validates, another tests."""

    name = "bundled"
    own_test = True

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.path = Path(__file__).with_name("bundled") / "sotu-1790-2021.txt.xz"

    def fingerprint(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise Missing(f"{self.path} is not there", "reinstall autoexp")
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"sha256": digest, "characters": self.characters, "held_out_of": HELD_OUT_OF, "test": "every twelfth"}

    def content(self) -> dict[str, int]:
        return {}

    def fetch(self, progress: Progress) -> None:
        """Nothing: it is here."""

    def blocks(self, split: str) -> list[Block]:
        return []

    def addresses(self) -> Iterator[tuple[str, str]]:
        """(header, text) of every address by date; the header is `YEAR. Speaker.`."""
        with lzma.open(self.path, "rt", encoding="utf-8") as file:
            lines = (line.rstrip("\n") for line in file if line.strip())
            yield from zip(lines, lines, strict=True)

    def documents(self, split: str) -> Iterator[list[str]]:
        chosen = (text for number, (_, text) in enumerate(self.addresses()) if split_of(number) == split)
        return in_batches(piece for text in chosen for piece in pieces(text, self.characters))


class OwnText:
    """A .txt, .jsonl (key "text") or .parquet (column "text") file, or a folder of them."""

    own_test = True

    def __init__(self, path: Path, characters: int) -> None:
        self.name = str(path)
        self.path = path
        self.characters = characters

    def files(self) -> list[Path]:
        """Every readable file below the path, sorted."""
        if not self.path.exists():
            raise Missing(f"{self.path} is not there", "give --dataset a file or a folder, or: --dataset bundled")
        kinds = (".txt", ".jsonl", ".parquet")
        found = [self.path] if self.path.is_file() else sorted(p for p in self.path.rglob("*") if p.is_file())
        files = [path for path in found if path.suffix.lower() in kinds]
        if not files:
            raise BadInput(
                f"{self.path} has no .txt, .jsonl or .parquet file", "give --dataset a file or folder of text"
            )
        return files

    def fingerprint(self) -> dict[str, Any]:
        stats = [(str(path), path.stat()) for path in self.files()]
        files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return {"files": files, "characters": self.characters, "held_out_of": HELD_OUT_OF, "test": OWN_DOCUMENTS}

    def content(self) -> dict[str, int]:
        return {}

    def fetch(self, progress: Progress) -> None:
        """Nothing: it is here."""

    def blocks(self, split: str) -> list[Block]:
        return []

    def whole_documents(self) -> Iterator[tuple[str, str]]:
        """(split, text) of every document."""
        files = self.files()
        grouped = sum(path.suffix.lower() == ".txt" for path in files) < FEW_FILES
        number = 0
        for path in files:
            kind = path.suffix.lower()
            try:
                if kind == ".txt" and grouped:
                    # Of few large files single documents are far between: count, so that the held-out ones are spread.
                    for text in paragraph_groups(path):
                        yield split_of(number), text
                        number += 1
                else:
                    for text in read_documents(path, kind):
                        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
                        # 0 has been validation before there was a test split, and stays it
                        yield split_of(int.from_bytes(digest[:8], "big") + HELD_OUT_OF // 2), text
            except (UnicodeDecodeError, ValueError, KeyError, TypeError, OSError) as error:
                raise BadInput(
                    f"{path} cannot be read: {error}", 'UTF-8 text, JSON lines or parquet with "text"'
                ) from None

    def documents(self, split: str) -> Iterator[list[str]]:
        chosen = (text for of, text in self.whole_documents() if of == split and text.strip())
        return in_batches(piece for text in chosen for piece in pieces(text, self.characters))


def paragraph_groups(path: Path) -> Iterator[str]:
    """Paragraphs of a text file (blank lines between them), joined up to `GROUP_CHARACTERS`; streamed."""
    group: list[str] = []
    size = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            if (not line.strip() and size >= GROUP_CHARACTERS) or size >= 8 * GROUP_CHARACTERS:
                yield "".join(group)
                group, size = [], 0
            group.append(line)
            size += len(line)
    if size:
        yield "".join(group)


def read_documents(path: Path, kind: str) -> Iterator[str]:
    """The documents of one file as they are."""
    if kind == ".txt":
        yield path.read_text(encoding="utf-8")
    elif kind == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield str(json.loads(line)["text"])
    else:
        for batch in parquet_texts(path):
            yield from batch
