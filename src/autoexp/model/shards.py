"""Parquet files of text: read in batches, checked, and divided into blocks for several processes.

The text is the column "text". A batch never crosses a row group: that is part of the packing order.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event, Thread

BATCH = 128  # documents that are handed on at a time
BLOCK_BYTES = 8_000_000  # of text in a block: one or two seconds of encoding


@dataclass(frozen=True)
class Block:
    """Some row groups of a file: what one process encodes at a time. Small enough to be sent to it."""

    path: Path
    groups: range
    size: int  # bytes of text, about

    @property
    def name(self) -> str:
        return f"{self.path.stem}-{self.groups.start:06d}"

    def batches(self) -> Iterator[list[str]]:
        """Its texts in batches."""
        return batches(self.path, self.groups)


def blocks_of(path: Path) -> list[Block]:
    """The whole file in blocks of about `BLOCK_BYTES`, in order, found by its footer alone."""
    from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]

    footer = parquet.read_metadata(path)
    blocks: list[Block] = []
    start = size = 0
    for group in range(footer.num_row_groups):
        size += footer.row_group(group).total_byte_size
        if size >= BLOCK_BYTES or group == footer.num_row_groups - 1:
            blocks.append(Block(path, range(start, group + 1), size))
            start, size = group + 1, 0
    return blocks


def in_batches(texts: Iterable[str], size: int = BATCH) -> Iterator[list[str]]:
    """Lists of `size` texts, the last one shorter."""
    source = iter(texts)
    while batch := list(islice(source, size)):
        yield batch


def batches(path: Path, groups: Iterable[int] | None = None) -> Iterator[list[str]]:
    """The texts of a file, or of some of its row groups, in batches."""
    for texts in parquet_texts(path, groups):
        yield from in_batches(texts)


def parquet_texts(path: Path, groups: Iterable[int] | None = None) -> Iterator[list[str]]:
    """The texts of a file, one list a row group: of `groups`, or of all. A null is an empty text."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups) if groups is None else groups:
            column = file.read_row_group(group, columns=["text"]).column("text")
            yield [text or "" for text in column.to_pylist()]


def damage(path: Path) -> str | None:
    """What is wrong with a file, or None. Reads all of its text, without the interpreter's lock: use threads."""
    from pyarrow import compute, parquet

    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            raw.seek(-4, 2)
            if head != b"PAR1" or raw.read(4) != b"PAR1":
                return "no parquet file, or cut off"
        size = 0
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for part in file.iter_batches(1024, columns=["text"], use_threads=False):
                column = part.column("text")
                column.validate(full=True)  # is it UTF-8?
                size += compute.sum(compute.binary_length(column)).as_py() or 0
        return None if size else "no text in it"
    except Exception as error:  # pyarrow raises many kinds for bytes that make no sense
        return " ".join(str(error).split())[:120] or type(error).__name__


def ahead(batches: Iterator[list[str]], most: int = 128) -> Iterator[list[str]]:
    """The same batches, read by a thread that is at most `most` of them ahead. Its errors are raised here."""
    ready: queue.Queue[list[str] | BaseException | None] = queue.Queue(most)
    unwanted = Event()

    def put(item: list[str] | BaseException | None) -> bool:
        while not unwanted.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            if all(put(batch) for batch in batches):
                put(None)
        except BaseException as error:
            put(error)

    reader = Thread(target=read, name="read ahead", daemon=True)
    reader.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        unwanted.set()
        reader.join()
