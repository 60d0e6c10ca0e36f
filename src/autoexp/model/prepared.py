"""A folder of prepared data: what is in it, where it lies, how to find it.

<cache>/prepared/<dataset>-<profile>-<hash8>/
    meta.json          written last, by rename: while it is missing the folder is not ready
    tokenizer.json     merges, base64
    token_bytes.npy    int32 (vocab_size,)
    train.rows         uint16 (rows, seq_len + 1), raw little-endian
    val.rows           likewise
    test.rows          likewise; what no decision ever sees, of documents that are in no other split. Folders of older
                       releases have none, or one that does not count (`has`), nor has one whose text was too little
    encoded-<hash8>/   only while it is prepared: see encoding.py

meta.json: version, request (hash of what was asked for), made_from (the same in words, with the names and sizes of the
shards and the sha256 of the tokenizer) and its hash, the sizes, and of each split: rows, tokens, bytes of text, kept
(the part of the text of the documents taken that is in the rows, 0 to 1).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoexp.model.errors import BadInput, Missing
from autoexp.model.storage import sha256_file

FORMAT = 2  # 2: what meta.json says of its making; empty documents and short validation texts as the reference
META, TOKENIZER, TOKEN_BYTES = "meta.json", "tokenizer.json", "token_bytes.npy"
ROWS = {"train": "train.rows", "val": "val.rows", "test": "test.rows"}
ALWAYS = ("train", "val")  # the splits that every folder has
OWN_DOCUMENTS = "own documents"  # what meta.json says of a test split of one's own text

Rows = npt.NDArray[np.uint16]


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """`$AUTOEXP_CACHE`, else `$XDG_CACHE_HOME/autoexp`, else `~/.cache/autoexp`; absolute, perhaps not yet there."""
    if named := environ.get("AUTOEXP_CACHE"):
        return Path(named).expanduser().absolute()
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser().absolute() / "autoexp"
    try:
        return (Path.home() / ".cache").absolute() / "autoexp"
    except RuntimeError:  # a user without a name and a home, as in a container
        return Path(tempfile.gettempdir()).absolute() / "autoexp"


def folder_name(dataset: str, profile: str, hash8: str) -> str:
    """The name of a prepared folder. A dataset that is a path is named after its last part."""
    short = re.sub(r"[^A-Za-z0-9_.]+", "_", Path(dataset).name).strip("._")[:40] or "text"
    return f"{short}-{profile}-{hash8}"


@dataclass(frozen=True)
class Prepared:
    """One ready folder. Sizes in tokens and bytes; `seq_len` is the context, so a row holds one token more."""

    folder: Path
    meta: Mapping[str, Any]

    @property
    def vocab_size(self) -> int:
        return int(self.meta["vocab_size"])

    @property
    def seq_len(self) -> int:
        return int(self.meta["seq_len"])

    @property
    def eval_rows(self) -> int:
        """How many rows of the validation split are evaluated; of the test split as many, if it has them."""
        return int(self.meta["eval_rows"])

    def has(self, split: str) -> bool:
        """Whether there is this split. Older releases made a test split of one's own text of documents that validation
        uses too, as meta.json tells: that one is none."""
        if split != "test" or split not in self.meta:
            return split in self.meta
        source = self.meta["made_from"]["source"]
        return "files" not in source or source.get("test") == OWN_DOCUMENTS

    def rows(self, split: str) -> Rows:
        """The rows of `train`, `val` or `test`, memory-mapped, shape (rows, seq_len + 1).

        Raises Missing for the test split where there is none.
        """
        if not self.has(split):
            raise Missing(
                f"{self.folder} has no {split} split of its own documents",
                "prepare the data again: python -m autoexp.model.prepare",
            )
        return rows_of(self.folder / ROWS[split], int(self.meta[split]["rows"]), self.seq_len)

    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of files of the folder. Raises BadInput for one that is not what was prepared: numbers of before
        and after do not compare."""
        found = {name: sha256_file(self.folder / name) for name in names}
        prepared = self.meta.get("sha256", {})
        for name, digest in found.items():
            if prepared.get(name, digest) != digest:
                raise BadInput(
                    f"{self.folder / name} is not what was prepared",
                    f"rm {self.folder / META}, then: autoexp prepare",
                )
        return found

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """Bytes of text that each token stands for, shape (vocab_size,)."""
        return np.asarray(np.load(self.folder / TOKEN_BYTES, allow_pickle=False), dtype=np.int32)


def read_prepared(folder: Path, splits: Iterable[str] = tuple(ROWS)) -> Prepared | None:
    """The folder if it is ready: a whole meta.json of this format and row files of the size it says. Else None.

    Only those of `splits` are looked at.
    """
    try:
        meta = json.loads((folder / META).read_text())
        if meta["version"] != FORMAT:
            return None
        for split in splits:
            if split not in ALWAYS and split not in meta:
                continue
            if (folder / ROWS[split]).stat().st_size != meta[split]["rows"] * (meta["seq_len"] + 1) * 2:
                return None
        if not ((folder / TOKEN_BYTES).is_file() and (folder / TOKENIZER).is_file()):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Prepared(folder, meta)


def find_prepared(profile: str, environ: Mapping[str, str] = os.environ) -> Prepared:
    """The folder that a training uses: `$AUTOEXP_DATA`, else the newest ready one of the cache for `profile`.

    A training that others evaluate (AUTOEXP_EVALUATION=judge) needs no validation rows, and may not see them.
    Raises Missing if there is none, BadInput if `$AUTOEXP_DATA` names a folder that is not ready.
    """
    splits = ("train",) if environ.get("AUTOEXP_EVALUATION") == "judge" else tuple(ROWS)
    command = f"python -m autoexp.model.prepare --dataset bundled --profile {profile}"
    if named := environ.get("AUTOEXP_DATA"):
        ready = read_prepared(Path(named).expanduser().absolute(), splits)
        if ready is None:
            raise Missing(f"AUTOEXP_DATA={named} holds no data that is ready", f"{command} --out {named}")
        return ready
    found: list[tuple[float, str, Prepared]] = []
    for meta in (cache_folder(environ) / "prepared").glob(f"*/{META}"):
        ready = read_prepared(meta.parent, splits)
        if ready is not None and ready.meta.get("profile") == profile:
            found.append((meta.stat().st_mtime, str(meta), ready))
    if not found:
        raise Missing(f"no data is prepared for the profile {profile} in {cache_folder(environ)}", command)
    return max(found, key=lambda item: item[:2])[2]


def rows_of(path: Path, count: int, seq_len: int) -> Rows:
    """A file of `count` rows, memory-mapped."""
    return np.memmap(path, dtype="<u2", mode="r", shape=(count, seq_len + 1))


def spread(there: int, wanted: int) -> npt.NDArray[np.int64]:
    """Which rows of a split of `there` rows are evaluated: `wanted` of them, from the first to the last."""
    return np.linspace(0, there - 1, wanted).round().astype(np.int64)


def check_vocabulary(size: int) -> None:
    """Raise BadInput if ids up to `size` do not fit a row file."""
    if not 260 <= size <= 65_536:
        raise BadInput(f"a vocabulary of {size} does not fit: 260 to 65536", "choose another profile")
