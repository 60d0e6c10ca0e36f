"""Texts to token ids by several processes, kept in files until the rows are written.

A block of a shard becomes one file in the folder `encoded-<hash>` beside the rows, by rename: a file that is there is
whole, and a preparation that was killed goes on with the blocks that have none. The ids pass from process to process
as these files and are read in the order of the text, so the rows are the same whatever the number of processes.
The folder is as large as the rows; `Encoded.remove` deletes it when they are written.

Processes, and not threads: the ids of a text are made without the interpreter's lock, but the list that they come in
needs it, and that is a good part of the work.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np

from autoexp.model.datasets import Source
from autoexp.model.errors import BadInput
from autoexp.model.shards import Block
from autoexp.model.storage import replacing
from autoexp.model.tokenizer import Ids, Tokenizer

SPLITS = ("val", "test", "train")  # in the order in which they are packed
MOST_WORKERS = 16  # each takes some 100 MB, and one packer keeps up with no more
BYTES_AT_A_TIME = 500_000_000  # of text in the blocks that are encoded at once; a process takes three times its block
FEW_BYTES = 16_000_000  # of text that are encoded before further processes have started


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_encoded(path: Path, batches: Iterator[list[Ids]]) -> None:
    """Write batches of documents by rename: three counts, the sizes of the batches, the lengths, and all ids."""
    sizes: list[int] = []
    documents: list[Ids] = []
    for batch in batches:
        sizes.append(len(batch))
        documents += batch
    lengths = np.fromiter(map(len, documents), "<i4", len(documents))
    with replacing(path) as file:
        file.write(np.array([len(sizes), len(documents), int(lengths.sum())], "<i8").tobytes())
        file.write(np.array(sizes, "<i4").tobytes())
        file.write(lengths.tobytes())
        for document in documents:
            file.write(document.astype("<u2", copy=False).tobytes())


def read_encoded(path: Path) -> Iterator[list[Ids]]:
    """The batches that were written."""
    with path.open("rb") as file:
        batches, documents, tokens = np.fromfile(file, "<i8", 3)
        sizes = np.fromfile(file, "<i4", batches)
        ends = np.cumsum(np.fromfile(file, "<i4", documents), dtype=np.int64).tolist()
        ids = np.fromfile(file, "<u2", tokens)
    if len(ids) != tokens:
        raise BadInput(f"{path} is cut off", f"delete {path.parent} and prepare again")
    starts = [0, *ends]
    first = 0
    for size in sizes.tolist():
        yield [ids[starts[number] : ends[number]] for number in range(first, first + size)]
        first += size


def encode_block(block: Block, path: Path, tokenizer: Tokenizer) -> None:
    """Encode one block into its file. Raises BadInput if the shard cannot be read."""
    try:
        write_encoded(path, ([tokenizer.encode(text) for text in batch] for batch in block.batches()))
    except (ValueError, KeyError, OSError) as error:  # pyarrow's errors are kinds of these
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk and the like
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"{block.path} cannot be read: {reason}", "run the same command again: it checks it") from None


# --- in the worker processes --------------------------------------------------------------------------------------

_tokenizer: Tokenizer


def start_worker(line: Connection, path: Path) -> None:
    """Make this process ready. It ends when the other end of `line` is closed, so also when its parent is killed."""
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def end_with_parent() -> None:
        line.poll(None)
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
    _tokenizer = Tokenizer.load(path)


def work(block: Block, path: Path) -> None:
    encode_block(block, path, _tokenizer)


# --- in the preparing process -------------------------------------------------------------------------------------


class Encoded:
    """The ids of a source, made by `workers` processes where it is divided into blocks. Ends them as a context manager.

    A source that is not divided is encoded by this process, and leaves no files.
    """

    def __init__(self, folder: Path, tokenizer: Path, source: Source, workers: int) -> None:
        self.folder = folder
        self.source = source
        self.workers = workers
        self.tokenizer = Tokenizer.load(tokenizer)
        self.splits = tuple(split for split in SPLITS if split != "test" or source.own_test)
        self.blocks = {split: source.blocks(split) for split in self.splits}
        self.jobs: dict[Path, Future[None]] = {}
        self.pool: ProcessPoolExecutor | None = None
        left = [block for split in self.splits for block in self.blocks[split] if not self.path(block).exists()]
        largest = max((block.size for block in left), default=1)  # a file may be a single row group
        workers = min(workers, MOST_WORKERS, len(left), BYTES_AT_A_TIME // largest)
        if workers < 2 or sum(block.size for block in left) < FEW_BYTES:
            return  # this process encodes them when they are asked for
        # Not forked: a fork copies the locks of other threads as they are.
        context = multiprocessing.get_context("spawn")
        line, self.line = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(workers, context, start_worker, (line, tokenizer))
        for block in left:  # in the order in which they are packed
            self.jobs[self.path(block)] = self.pool.submit(work, block, self.path(block))

    def path(self, block: Block) -> Path:
        return self.folder / f"{block.name}.ids"

    def batches(self, split: str, tick: Callable[[float], None] = lambda done: None) -> Iterator[list[Ids]]:
        """The documents of a split in order. `tick` hears what part of the blocks was handed on, 0 to 1."""
        blocks = self.blocks[split]
        if not blocks:
            for texts in self.source.documents(split):
                yield self.tokenizer.encode_documents(texts, min(8, self.workers))
        total, done = sum(block.size for block in blocks), 0
        for block in blocks:
            path = self.path(block)
            try:
                if path in self.jobs:
                    self.jobs[path].result()
                elif not path.exists():
                    encode_block(block, path, self.tokenizer)
            except BrokenProcessPool:
                raise BadInput("an encoding process was killed (out of memory?)", "use --workers 1") from None
            yield from read_encoded(path)
            done += block.size
            tick(done / total)

    def enough(self, split: str) -> None:
        """No more of this split is wanted: do not start on what is left of it."""
        for block in self.blocks[split]:
            if self.path(block) in self.jobs:
                self.jobs[self.path(block)].cancel()

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pool is not None:
            if error is not None:
                self.line.close()  # what is half done is not waited for
            self.pool.shutdown(cancel_futures=True)
            self.line.close()
