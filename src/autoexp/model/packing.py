"""Documents into rows: best fit, no padding.

Every row holds exactly `capacity` tokens and starts with a document's first token (BOS). A row is filled with the
longest waiting document that still fits; when none fits, the shortest waiting one is cut to fill the rest. Among
equals the one that has waited longest goes first. At least `waiting` documents wait before each placement until the
stream ends, so the choice is the same whatever the size of the corpus, and memory is bounded.

What becomes of the rest of a document that was cut: it is dropped, and then no more than `capacity` tokens are kept
of a document, since no row can hold more. Or, with `remainders`, it goes back among the waiting documents behind a
BOS of its own, and no text is lost but the little that is left when the stream ends.
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

    def __init__(self, keep: int | None) -> None:
        self.keep = keep  # tokens of a document that are stored; None: all
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
        # A copy: a view would keep the whole block alive that the document came in.
        queue.append(np.array(tokens[: self.keep], dtype=np.uint16))
        self.count += 1

    def take(self, room: int) -> tuple[int, Row]:
        """Remove the longest document of at most `room` tokens, else the shortest one. Returns its length and ids."""
        at = bisect_right(self.lengths, room) - 1
        at = max(at, 0)  # nothing fits: the shortest of all
        length = self.lengths[at]
        queue = self.by_length[length]
        tokens = queue.popleft()
        if not queue:
            del self.by_length[length], self.lengths[at]
        self.count -= 1
        return length, tokens


class Packer:
    """Makes rows of `capacity` tokens, 2 or more, and counts the tokens of text (BOS is none) that they keep."""

    def __init__(self, capacity: int, waiting: int = 1000, remainders: bool = False) -> None:
        self.capacity = capacity
        self.waiting = waiting
        self.remainders = remainders
        self.kept = 0  # tokens in the rows so far
        self.dropped = 0  # tokens of cut documents that got into none

    def rows(self, batches: Iterable[Sequence[Sequence[int] | Row]]) -> Iterator[Row]:
        """Yield the rows of batches of tokenized documents.

        Documents arrive a batch at a time, as the batches come: a batch's size decides when the next one is asked
        for, so it belongs to the packing order. When the stream ends the waiting documents are used up; a last row
        that cannot be filled is dropped.
        """
        source = iter(batches)
        capacity, waiting = self.capacity, self.waiting
        documents = WaitingDocuments(keep=None if self.remainders else capacity)
        ended = False
        while True:
            row = np.empty(capacity, dtype=np.uint16)
            filled = parts = 0
            while filled < capacity:
                while documents.count < waiting and not ended:
                    batch = next(source, None)
                    if batch is None:
                        ended = True
                    else:
                        for tokens in batch:
                            documents.add(tokens)
                if documents.count == 0:
                    self.dropped += filled - parts
                    return
                room = capacity - filled
                length, tokens = documents.take(room)
                parts += 1
                if length <= room:
                    row[filled : filled + length] = tokens
                    filled += length
                    continue
                row[filled:] = tokens[:room]
                filled = capacity
                if self.remainders:
                    documents.add(np.concatenate([tokens[:1], tokens[room:]]))
                else:
                    self.dropped += length - room
            self.kept += capacity - parts
            yield row
