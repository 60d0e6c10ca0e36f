"""Batches from the packed rows: memory-mapped, shuffled by the seed, moved to the device without waiting.

A row of seq_len + 1 tokens gives seq_len inputs and, one place later, seq_len targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoexp.model.prepared import Rows


class Batches:
    """An endless stream of optimizer steps, each cut into equal parts that fit the device.

    `rows_per_step` rows make a step, of which every one of `world` processes takes its share; `rows_per_part`, which
    divides the share, go through the model at once.
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
    ) -> None:
        if rows_per_step % (rows_per_part * world):
            raise ValueError(f"{rows_per_part} rows at a time do not divide a step of {rows_per_step} by {world}")
        self.rank, self.world = rank, world
        self.rows = rows  # (rows, seq_len + 1)
        self.rows_per_step = rows_per_step
        self.rows_per_part = rows_per_part
        self.seed = seed
        self.device = device
        self.rewind()

    @property
    def parts(self) -> int:
        """Forward and backward passes in a step of one process."""
        return self.rows_per_step // self.rows_per_part // self.world

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * (int(self.rows.shape[1]) - 1)

    def rewind(self) -> None:
        """Start again from the first batch."""
        self.epoch = 0
        self.order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers of the next `count` rows. Every epoch visits every row once, in an order of its own."""
        while len(self.order) < count:
            shuffled = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.rows))
            self.order = np.concatenate([self.order, shuffled])
            self.epoch += 1
        chosen, self.order = self.order[:count], self.order[count:]
        return chosen

    def step(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of one optimizer step: inputs and targets, each (rows_per_part, seq_len) int64 on the device."""
        for _ in range(self.parts):
            everyones = self.take(self.rows_per_part * self.world)  # the same rows a step, however many share them
            yield to_device(self.rows[np.sort(everyones[self.rank :: self.world])], self.device)


def to_device(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets of `rows` (n, seq_len + 1), each (n, seq_len) int64 on `device`."""
    # Torch knows few operations on uint16: carry the bits as int16 and widen them on the device.
    packed = torch.from_numpy(np.array(rows).view(np.int16))  # a copy: the map is read-only
    if device.type == "cuda":
        packed = packed.pin_memory()
    ids = packed.to(device, non_blocking=True).long() & 0xFFFF
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def rows_at_a_time(rows_per_step: int, most: int, row_bytes: float = 0, free: int | None = None) -> int:
    """The largest divisor of `rows_per_step` that is at most `most` and, at `row_bytes` each, fits `free` bytes."""
    if free is not None and row_bytes > 0:
        most = min(most, int(0.8 * free / row_bytes))
    return next(n for n in range(max(1, min(most, rows_per_step)), 0, -1) if rows_per_step % n == 0)
