"""Batches: the same rows in the same order whichever way they reach the device."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autoexp.model import data
from autoexp.model.data import Batches, Order, to_device
from autoexp.model.prepared import Rows, read_prepared
from autoexp.model.streaming import ReadAhead

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ROWS: Rows = (np.arange(23, dtype=np.uint16)[:, None] * 1000 + np.arange(9, dtype=np.uint16)).astype(np.uint16)


def numbers(batches: Batches, steps: int) -> list[list[int]]:
    """The row numbers of each step."""
    found = []
    for _ in range(steps):
        parts = list(batches.step())
        for inputs, targets in parts:
            assert inputs.shape == targets.shape == (batches.rows_per_part, 8)
            assert inputs.dtype == targets.dtype == torch.int64
            assert inputs.is_contiguous() and targets.is_contiguous()
            assert torch.equal(inputs[:, 1:], targets[:, :-1])
        found.append([int(row) // 1000 for inputs, _ in parts for row in inputs[:, 0]])
    return found


def test_order_is_a_function_of_seed_and_place() -> None:
    order = Order(23, seed=5)
    straight = order.numbers(0, 100)
    assert sorted(straight[:23]) == sorted(straight[23:46]) == list(range(23))
    assert straight[:23].tolist() != straight[23:46].tolist()
    for start, count in ((90, 10), (0, 1), (20, 50), (22, 1)):
        assert order.numbers(start, count).tolist() == straight[start : start + count].tolist()
    with pytest.raises(ValueError, match="no rows"):
        Order(0, 1)


@pytest.mark.parametrize("rows_per_part", [1, 2, 4, 12])
@pytest.mark.parametrize("way", ["map", "on device", "read ahead"])
def test_the_same_rows_in_every_way_and_cut(way: str, rows_per_part: int) -> None:
    batches = Batches(ROWS, 12, rows_per_part, 3, CPU, on_device=way == "on device")
    batches.read_ahead = way == "read ahead"
    expected = Order(23, 3).numbers(0, 120).reshape(10, 12).tolist()
    assert batches.epoch == 0
    assert numbers(batches, 10) == expected
    assert batches.epoch == 6 and batches.tokens_per_step == 96 and batches.parts == 12 // rows_per_part
    batches.rewind()
    assert batches.epoch == 0 and numbers(batches, 3) == expected[:3]
    batches.close()
    assert numbers(batches, 1) == expected[3:4]
    batches.close()


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_share_what_one_process_would_take(world: int) -> None:
    alone = numbers(Batches(ROWS, 12, 2, 3, CPU), 5)
    ranks = [Batches(ROWS, 12, 2, 3, CPU, rank, world) for rank in range(world)]
    assert all(each.tokens_per_step == 96 and each.parts == 6 // world for each in ranks)
    shares = [numbers(each, 5) for each in ranks]
    together = [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == [sorted(step) for step in alone]
    assert len({each.epoch for each in ranks}) == 1


def test_smaller_steps_take_fewer_rows_and_miss_none() -> None:
    batches = Batches(ROWS, 12, 2, 3, CPU)
    taken = [int(row) // 1000 for parts in (1, None, 2) for inputs, _ in batches.step(parts) for row in inputs[:, 0]]
    assert taken == Order(23, 3).numbers(0, 2 + 12 + 4).tolist()
    assert batches.tokens == 18 * 8


@pytest.mark.parametrize(
    ("step", "part", "rank", "world"), [(12, 5, 0, 1), (12, 4, 0, 5), (12, 4, 0, 2), (12, 4, 3, 3)]
)
def test_what_does_not_divide_is_refused(step: int, part: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match=r"do not divide|no rank"):
        Batches(ROWS, step, part, 3, CPU, rank, world)


def test_the_thread_ends_and_its_errors_are_raised() -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield torch.tensor([1, 2])
        raise OSError("the disk is gone")

    before = threading.active_count()
    reader = ReadAhead(data.as_tensor(ROWS), 2, broken(), CPU)
    assert reader.take()[:, 0].tolist() == [1000, 2000]
    with pytest.raises(OSError, match="disk is gone"):
        reader.take()
    reader.close()
    assert threading.active_count() == before


def test_a_part_that_was_taken_stays_as_it_is() -> None:
    batches = Batches(ROWS, 2, 1, 3, CPU)
    batches.read_ahead = True
    taken = [part for _ in range(10) for part in batches.step()]
    expected = Order(23, 3).numbers(0, 20).tolist()
    assert [int(inputs[0, 0]) // 1000 for inputs, _ in taken] == expected
    batches.close()


def test_rows_of_a_prepared_folder_are_not_copied(tiny_data: Path) -> None:
    prepared = read_prepared(tiny_data)
    assert prepared is not None
    rows = prepared.rows("train")
    assert data.as_tensor(rows).data_ptr() == rows.ctypes.data
    inputs, targets = to_device(rows[3:5], CPU)
    assert inputs.tolist() == rows[3:5, :-1].tolist() and targets.tolist() == rows[3:5, 1:].tolist()


def test_rows_lie_on_a_gpu_with_ten_times_as_much_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert data.fits(100, torch.device("cuda")) and not data.fits(101, torch.device("cuda"))
    assert not data.fits(1, CPU) and not data.fits(1, torch.device("mps"))


@CUDA
@pytest.mark.parametrize("on_device", [True, False])
def test_the_same_rows_on_a_gpu(on_device: bool) -> None:
    batches = Batches(ROWS, 12, 4, 3, torch.device("cuda"), on_device=on_device)
    assert numbers(batches, 10) == Order(23, 3).numbers(0, 120).reshape(10, 12).tolist()
    batches.rewind()
    assert numbers(batches, 1) == [Order(23, 3).numbers(0, 12).tolist()]
    batches.close()
