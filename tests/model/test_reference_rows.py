"""What the packing shares with karpathy/autoresearch where it is easy to lose: empty texts, and a short shard's end."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from autoexp.model.datasets import parquet_texts
from autoexp.model.packing import endless, pack


def test_an_empty_text_keeps_its_place(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a", "", None, "b"]}), tmp_path / "shard.parquet")
    assert list(parquet_texts(tmp_path / "shard.parquet")) == [["a", "", "", "b"]]


def test_a_stream_without_end_packs_its_documents_again_and_never_runs_dry() -> None:
    documents = [[0, *range(1, 2 + number % 5)] for number in range(40)]
    rows = list(islice(pack(endless(lambda: [documents[:20], documents[20:]]), 8, waiting=30), 100))
    assert len(rows) == 100 and all(row[0] == 0 for row in rows)
    once = list(pack([documents[:20], documents[20:]], 8, waiting=30))
    assert len(once) < 25 and np.array_equal(rows[0], once[0])


def test_a_stream_of_nothing_ends() -> None:
    assert list(endless(lambda: iter(()))) == []
