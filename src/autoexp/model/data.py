"""Batches from the packed rows, shuffled by the seed, ready on the device before they are wanted.

A row of seq_len + 1 tokens gives seq_len inputs and, one place later, seq_len targets. Three ways to the device:
rows that take at most a tenth of a GPU's free memory lie on it as a whole (`on_device`), others are read ahead by a
thread into page-locked memory (streaming.py), and on a CPU they are taken from the memory map as they are wanted.
The rows of a step are the same in all three: they depend on nothing but the seed and the number of the step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoexp.model.prepared import Rows
from autoexp.model.streaming import ReadAhead

RESIDENT_SHARE = 0.1  # of the free memory of a GPU may hold the rows


class Order:
    """An endless sequence of row numbers: epoch after epoch, each visiting every row once in an order of its own."""

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise ValueError("there are no rows")
        self.rows = rows
        self.seed = seed
        self.epoch = -1  # whose order is kept
        self.shuffled: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def of_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """The row numbers of epoch 0, 1, …"""
        if epoch != self.epoch:
            self.shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            self.epoch = epoch
        return self.shuffled

    def numbers(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """The numbers at the places `start` to `start + count` of the sequence."""
        parts = []
        while count > 0:
            epoch, place = divmod(start, self.rows)
            part = self.of_epoch(epoch)[place : place + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Batches:
    """An endless stream of optimizer steps, each cut into equal parts that fit the device.

    `rows_per_step` rows make a step. Each of the `world` processes takes an equal share of them, the one of its
    `rank`; `rows_per_part`, which divides the share, go through the model at once. `on_device` says whether the rows
    lie on the device; None leaves it to the rule above.
    """

    def __init__(
        self,
        rows: Rows,
        rows_per_step: int,
        rows_per_part: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        on_device: bool | None = None,
    ) -> None:
        if rows_per_step % world:
            raise ValueError(f"{world} processes do not divide a step of {rows_per_step} rows")
        if not 0 <= rank < world:
            raise ValueError(f"there is no rank {rank} among {world} processes")
        self.share = rows_per_step // world
        if self.share % rows_per_part:
            raise ValueError(f"{rows_per_part} rows at a time do not divide a step of {self.share}")
        self.rows = rows  # (rows, seq_len + 1)
        self.rows_per_step = rows_per_step
        self.rows_per_part = rows_per_part
        self.seed = seed
        self.device = device
        self.rank, self.world = rank, world
        self.order = Order(len(rows), seed)
        self.taken = 0  # parts of this process so far
        self.packed = as_tensor(rows)
        self.on_device = fits(rows.nbytes, device) if on_device is None else on_device
        if self.on_device:
            self.packed = self.packed.to(device)
            self.epoch_on_device = -1
            self.shuffled = torch.empty(0, dtype=torch.int64, device=device)
        self.read_ahead = device.type == "cuda" and not self.on_device
        self.reader: ReadAhead | None = None

    @property
    def parts(self) -> int:
        """Forward and backward passes of this process in a step."""
        return self.share // self.rows_per_part

    @property
    def tokens_per_step(self) -> int:
        """Of all processes."""
        return self.rows_per_step * (int(self.rows.shape[1]) - 1)

    @property
    def tokens(self) -> int:
        """Taken so far, by all processes."""
        return self.taken * self.rows_per_part * self.world * (int(self.rows.shape[1]) - 1)

    @property
    def epoch(self) -> int:
        """The epoch that the last step reached, counted from 1; 0 before the first step."""
        return -(-self.taken * self.rows_per_part * self.world // len(self.rows))

    def rewind(self) -> None:
        """Start again from the first batch."""
        self.close()
        self.taken = 0

    def close(self) -> None:
        """End the thread that reads ahead, if there is one. The next step starts another."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def place(self, part: int) -> int:
        """Where in the order a part of this process begins. The processes take turns, so that the parts that they
        take together lie together, however many of them make a step."""
        return (part * self.world + self.rank) * self.rows_per_part

    def step(self, parts: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of one optimizer step: inputs and targets, each (rows_per_part, seq_len) int64 on the device.

        A smaller step has fewer `parts` than a whole one. Take all of them before the next step.
        """
        for _ in range(self.parts if parts is None else parts):
            part, self.taken = self.taken, self.taken + 1
            if self.on_device:
                yield inputs_and_targets(self.packed.index_select(0, self.numbers_on_device(self.place(part))))
            elif self.read_ahead:
                if self.reader is None:
                    self.reader = ReadAhead(self.packed, self.rows_per_part, self.numbers_from(part), self.device)
                yield inputs_and_targets(self.reader.take())
            else:
                chosen = torch.from_numpy(self.order.numbers(self.place(part), self.rows_per_part))
                yield inputs_and_targets(self.packed.index_select(0, chosen).to(self.device))

    def numbers_from(self, part: int) -> Iterator[Tensor]:
        """The row numbers of every part of this process from `part` on, for the thread: it has an order of its own."""
        order = Order(len(self.rows), self.seed)
        while True:
            yield torch.from_numpy(order.numbers(self.place(part), self.rows_per_part))
            part += 1

    def numbers_on_device(self, place: int) -> Tensor:
        """Row numbers of one part, on the device: an epoch's order goes there as a whole, so that no part waits."""
        epoch, start = divmod(place, len(self.rows))
        if start + self.rows_per_part > len(self.rows):
            return torch.from_numpy(self.order.numbers(place, self.rows_per_part)).to(self.device)
        if epoch != self.epoch_on_device:
            self.shuffled = torch.from_numpy(self.order.of_epoch(epoch)).to(self.device)
            self.epoch_on_device = epoch
        return self.shuffled[start : start + self.rows_per_part]


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of rows should lie on the device: a GPU with ten times as much free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size <= RESIDENT_SHARE * free


def as_tensor(rows: Rows) -> Tensor:
    """The bits of `rows` as int16, for torch knows few operations on uint16. No copy: it is not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(rows).view(np.int16))


def inputs_and_targets(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets of rows (n, seq_len + 1) int16, each (n, seq_len) int64, contiguous, on the same device."""
    return widened(packed[:, :-1]), widened(packed[:, 1:])


def widened(packed: Tensor) -> Tensor:
    """Token ids, int64, of their lower 16 bits."""
    return packed.to(torch.int64, memory_format=torch.contiguous_format).bitwise_and_(0xFFFF)


def to_device(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets of `rows` (n, seq_len + 1), each (n, seq_len) int64 on `device`."""
    packed = as_tensor(rows)
    if device.type == "cuda":
        packed = packed.pin_memory()
    return inputs_and_targets(packed.to(device, non_blocking=True))


def rows_at_a_time(rows_per_step: int, most: int, row_bytes: float = 0, free: int | None = None) -> int:
    """The largest divisor of `rows_per_step` that is at most `most` and, at `row_bytes` each, fits `free` bytes."""
    if free is not None and row_bytes > 0:
        most = min(most, int(0.8 * free / row_bytes))
    return next(n for n in range(max(1, min(most, rows_per_step)), 0, -1) if rows_per_step % n == 0)
