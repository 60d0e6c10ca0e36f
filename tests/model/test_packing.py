"""Best-fit packing against the rule written out plainly."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from autoexp.model.packing import Packer

BOS = 999


def pack(batches: Any, capacity: int, waiting: int = 1000, remainders: bool = False) -> Iterator[Any]:
    return Packer(capacity, waiting, remainders).rows(batches)


def pack_plainly(batches: list[list[list[int]]], capacity: int, waiting: int) -> list[list[int]]:
    """Longest that fits, first among equals; else the shortest, cut. Linear searches over one list."""
    rows: list[list[int]] = []
    buffer: list[list[int]] = []
    left = [list(batch) for batch in batches]
    while True:
        row: list[int] = []
        while len(row) < capacity:
            while len(buffer) < waiting and left:
                buffer.extend(left.pop(0))
            if not buffer:
                return rows
            room = capacity - len(row)
            best = -1
            for index, document in enumerate(buffer):
                if len(document) <= room and (best < 0 or len(document) > len(buffer[best])):
                    best = index
            if best < 0:
                best = min(range(len(buffer)), key=lambda index: len(buffer[index]))
            row.extend(buffer.pop(best)[:room])
        rows.append(row)


def documents(seed: int, count: int, longest: int) -> list[list[list[int]]]:
    """Batches of documents whose tokens tell them apart."""
    rng = random.Random(seed)
    made = [[BOS, *((number * 7 + i) % 900 for i in range(rng.randint(0, longest)))] for number in range(count)]
    return [made[start : start + 13] for start in range(0, count, 13)]


@pytest.mark.parametrize(("seed", "longest"), [(0, 20), (1, 60), (2, 200), (3, 5)])
def test_same_rows_as_the_plain_rule(seed: int, longest: int) -> None:
    batches = documents(seed, 600, longest)
    rows = [row.tolist() for row in pack(batches, capacity=33, waiting=50)]
    assert rows == pack_plainly(batches, capacity=33, waiting=50)
    assert len(rows) > 10


def test_rows_are_full_and_start_with_the_first_token_of_a_document() -> None:
    rows = list(pack(documents(4, 500, 100), capacity=65))
    assert all(row.shape == (65,) and row.dtype == np.uint16 and row[0] == BOS for row in rows)


def test_too_little_text_gives_no_row() -> None:
    assert list(pack([[[BOS, 1, 2]]], capacity=9)) == []
    assert list(pack([], capacity=9)) == []


def test_a_huge_document_is_kept_only_as_far_as_a_row_reaches() -> None:
    rows = list(pack([[range(60_000)], [[BOS, 1]]], capacity=8))
    assert [row.tolist() for row in rows] == [[BOS, 1, 0, 1, 2, 3, 4, 5]]


def test_what_is_kept_and_dropped_is_counted() -> None:
    batches = documents(5, 600, 100)
    packer = Packer(33, waiting=50)
    rows = list(packer.rows(batches))
    assert packer.kept == sum(int((row != BOS).sum()) for row in rows)
    assert packer.kept + packer.dropped == sum(len(document) - 1 for batch in batches for document in batch)


@pytest.mark.parametrize(("seed", "longest"), [(0, 20), (1, 60), (2, 500)])
def test_remainders_go_into_other_rows_behind_a_bos_of_their_own(seed: int, longest: int) -> None:
    batches = documents(seed, 600, longest)
    packer = Packer(33, waiting=50, remainders=True)
    rows = [row.tolist() for row in packer.rows(batches)]
    assert all(len(row) == 33 and row[0] == BOS for row in rows)
    given = sorted(token for batch in batches for document in batch for token in document if token != BOS)
    found = sorted(token for row in rows for token in row if token != BOS)
    assert packer.dropped < 33 and len(given) - len(found) == packer.dropped
    assert packer.dropped or found == given


def test_a_document_that_is_cut_goes_on_where_it_stopped() -> None:
    rows = [row.tolist() for row in pack([[[BOS, *range(20)]]], capacity=8, remainders=True)]
    assert rows == [[BOS, *range(7)], [BOS, *range(7, 14)]]


def test_a_document_is_in_one_row_only() -> None:
    """So rows that come after others are of other documents: climbmix's test split of the shard that validates."""
    rng = np.random.default_rng(0)
    documents = [[0, *[number] * int(size)] for number, size in enumerate(rng.integers(5, 90, size=3000), 1)]
    rows = list(Packer(33).rows(documents[start : start + 128] for start in range(0, len(documents), 128)))
    owners = [set(row.tolist()) - {0} for row in rows]
    assert sum(map(len, owners)) == len(set.union(*owners)) > 1000
