"""Documents into rows: best fit, no padding.

Every row holds exactly `capacity` tokens and starts with a document's first token (BOS). A row is filled with the
longest waiting document that still fits; when none fits, the shortest waiting one is cut to fill the rest, and its
remainder is dropped. Among equals the one that has waited longest goes first. At least `waiting` documents wait at
any time until the stream ends, so the choice is the same whatever the size of the corpus, and memory is bounded:
no more than `capacity` tokens are kept of a document, since no row can hold more.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.uint16]


class WaitingDocuments:
    """Documents by length, first come first served within a length."""

    def __init__(self, keep: int) -> None:
        self.keep = keep  # tokens
        self.by_length: dict[int, deque[Row]] = {}
        self.lengths: list[int] = []  # the distinct lengths, ascending
        self.count = 0

    def add(self, tokens: Sequence[int] | Row) -> None:
        """Add one document. An empty one is ignored."""
        length = len(tokens)
        if length == 0:
            return
        queue = self.by_length.get(length)
        if queue is None:
            queue = self.by_length[length] = deque()
            insort(self.lengths, length)
        queue.append(np.asarray(tokens[: self.keep], dtype=np.uint16))
        self.count += 1

    def take(self, room: int) -> Row:
        """Remove and return the longest document of at most `room` tokens, else the shortest one cut to `room`."""
        at = bisect_right(self.lengths, room) - 1
        at = max(at, 0)  # nothing fits: the shortest of all
        length = self.lengths[at]
        queue = self.by_length[length]
        tokens = queue.popleft()
        if not queue:
            del self.by_length[length], self.lengths[at]
        self.count -= 1
        return tokens[:room]


def pack(batches: Iterable[Sequence[Sequence[int] | Row]], capacity: int, waiting: int = 1000) -> Iterator[Row]:
    """Yield rows of `capacity` tokens from batches of tokenized documents.

    Documents arrive a batch at a time, as the batches come: a batch's size decides when the next one is asked for,
    so it belongs to the packing order. When the stream ends the waiting documents are used up; a last row that
    cannot be filled is dropped.
    """
    source = iter(batches)
    documents = WaitingDocuments(keep=capacity)
    ended = False
    while True:
        row = np.empty(capacity, dtype=np.uint16)
        filled = 0
        while filled < capacity:
            while documents.count < waiting and not ended:
                batch = next(source, None)
                if batch is None:
                    ended = True
                else:
                    for tokens in batch:
                        documents.add(tokens)
            if documents.count == 0:
                return
            part = documents.take(capacity - filled)
            row[filled : filled + len(part)] = part
            filled += len(part)
        yield row
