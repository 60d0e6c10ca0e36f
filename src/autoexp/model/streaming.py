"""Rows read ahead by a thread, so that a GPU never waits for them.

The thread gathers the rows of each part from the memory map into one of a few page-locked buffers, without the
interpreter's lock. The copy from there to the device is queued behind the work that the GPU has, and the buffer is
filled again when the copy is over. A part is half a megabyte: the copy takes some 30 microseconds, so it needs no
stream of its own.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from threading import Thread

import torch
from torch import Tensor

BUFFERS = 3  # one being filled, one full, one being copied


class Buffer:
    """Room for one part, and how to know when the copy from it is over."""

    def __init__(self, rows: int, width: int, cuda: bool) -> None:
        self.packed = torch.empty((rows, width), dtype=torch.int16, pin_memory=cuda)
        self.copied = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call,unused-ignore]

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def copy_to(self, device: torch.device) -> Tensor:
        if self.copied is None:
            return self.packed.to(device, copy=True)
        packed = self.packed.to(device, non_blocking=True)
        self.copied.record(torch.cuda.current_stream(device))
        return packed


class ReadAhead:
    """The parts whose row numbers `numbers` gives without end. One thread takes them; `close` it at the end."""

    def __init__(self, packed: Tensor, rows_per_part: int, numbers: Iterator[Tensor], device: torch.device) -> None:
        self.packed = packed  # (rows, seq_len + 1) int16
        self.numbers = numbers  # of a part: (rows_per_part,) int64
        self.device = device
        self.free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self.full: queue.SimpleQueue[Buffer | BaseException] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self.free.put(Buffer(rows_per_part, packed.shape[1], device.type == "cuda"))
        self.thread = Thread(target=self._read, name="read ahead", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for chosen in self.numbers:
                buffer = self.free.get()
                if buffer is None:
                    return
                buffer.wait()
                torch.index_select(self.packed, 0, chosen, out=buffer.packed)
                self.full.put(buffer)
        except BaseException as error:
            self.full.put(error)

    def take(self) -> Tensor:
        """The next part on the device, (rows_per_part, seq_len + 1) int16. Raises what the thread ran into."""
        buffer = self.full.get()
        if isinstance(buffer, BaseException):
            raise buffer
        packed = buffer.copy_to(self.device)
        self.free.put(buffer)
        return packed

    def close(self) -> None:
        """End the thread; what it has read is forgotten."""
        self.free.put(None)
        self.thread.join()
