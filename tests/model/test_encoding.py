"""Shards encoded by several processes: the reference's rows, whatever the number of processes and interruptions."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from autoexp.model import encoding, shards
from autoexp.model.climbmix import VAL_SHARD, shard_name
from autoexp.model.console import Progress
from autoexp.model.encoding import read_encoded, write_encoded
from autoexp.model.errors import BadInput
from autoexp.model.prepare import plan, prepare
from autoexp.model.prepared import Prepared, read_prepared
from autoexp.model.profiles import H100
from autoexp.model.tokenizer import Tokenizer

from .conftest import TINY, environment

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

# So many validation rows that the text has to be read more than once.
PROFILE = dataclasses.replace(TINY, eval_tokens=32 * 3000)
GROUP = 300  # documents in a row group: two batches of 128 and one of 44


@pytest.fixture
def cache(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three shards of documents of all lengths, some of them empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shards, "BLOCK_BYTES", 20_000)
    folder = tmp_path / "cache" / "climbmix"
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for number, count in ((0, 1700), (1, 1000), (VAL_SHARD, 1300)):
        starts = [rng.randrange(len(text) - 500) for _ in range(count)]
        texts = [text[start : start + rng.choice((0, 3, 20, 60, 100, 200, 400))] for start in starts]
        parquet.write_table(arrow.table({"text": texts}), folder / shard_name(number), row_group_size=GROUP)
    return tmp_path / "cache"


def prepared(cache: Path, workers: int, remainders: bool = False) -> Prepared:
    request = plan("climbmix", PROFILE, cache=cache, shards=2, remainders=remainders)
    prepare(request, Progress(), workers)
    found = read_prepared(request.folder)
    assert found is not None
    return found


def documents_for_ever(cache: Path, numbers: list[int], tokenizer: Tokenizer) -> Iterator[tuple[int, list[list[int]]]]:
    """(epoch, batch): the documents of shard after shard, row group after row group, 128 at a time."""
    for epoch in range(1000):
        for number in numbers:
            file = parquet.ParquetFile(cache / "climbmix" / shard_name(number))
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group).column("text").to_pylist()
                for start in range(0, len(texts), 128):
                    batch = texts[start : start + 128]
                    yield epoch, [[tokenizer.bos, *tokenizer.encoding.encode_ordinary(text)] for text in batch]


def rows_by_the_rule(cache: Path, numbers: list[int], tokenizer: Tokenizer, count: int | None) -> list[list[int]]:
    """The reference's rows by its rule written out plainly: `count` of them, or those of the first epoch."""
    stream = documents_for_ever(cache, numbers, tokenizer)
    waiting: list[list[int]] = []
    rows: list[list[int]] = []
    capacity = PROFILE.seq_len + 1
    while count is None or len(rows) < count:
        row: list[int] = []
        while len(row) < capacity:
            while len(waiting) < 1000:
                epoch, batch = next(stream)
                if count is None and epoch > 0:
                    return rows
                waiting.extend(batch)
            room = capacity - len(row)
            fitting = [at for at, document in enumerate(waiting) if len(document) <= room]
            if fitting:
                at = max(fitting, key=lambda at: len(waiting[at]))  # the first of the longest
            else:
                at = min(range(len(waiting)), key=lambda at: len(waiting[at]))
            row += waiting.pop(at)[:room]
        rows.append(row)
    return rows


def test_rows_are_the_references_and_the_same_for_any_number_of_processes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = prepared(cache, 1)
    tokenizer = Tokenizer.load(alone.folder / "tokenizer.json")
    train = rows_by_the_rule(cache, [0, 1], tokenizer, None)
    assert len(train) > 500 and alone.rows("train")[: len(train)].tolist() == train
    val = rows_by_the_rule(cache, [VAL_SHARD], tokenizer, 3000)
    assert alone.eval_rows == 3000 and alone.rows("val").tolist() == val
    assert not list(alone.folder.glob("encoded-*"))
    files = {path.name: path.read_bytes() for path in alone.folder.iterdir()}

    monkeypatch.setattr(encoding, "FEW_BYTES", 0)
    for path in alone.folder.iterdir():
        path.unlink()
    together = prepared(cache, 3)
    assert {path.name: path.read_bytes() for path in together.folder.iterdir()} == files


def test_the_validation_rows_are_as_many_as_the_reference_evaluates() -> None:
    tokens, rows, context = 40 * 524_288, 128, 2048
    assert H100.seq_len == context and H100.eval_tokens // H100.seq_len == tokens // (rows * context) * rows


def test_remainders_lose_no_text_and_stay_out_of_validation(cache: Path) -> None:
    dropped, kept = prepared(cache, 1), prepared(cache, 1, remainders=True)
    assert dropped.folder != kept.folder and dropped.meta["hash"] != kept.meta["hash"]
    assert dropped.rows("val").tolist() == kept.rows("val").tolist()
    assert 0.2 < dropped.meta["train"]["kept"] < 0.9 < 0.999 < kept.meta["train"]["kept"] <= 1
    assert kept.meta["train"]["bytes"] > 1.2 * dropped.meta["train"]["bytes"]


def test_encoded_blocks_are_used_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation that ends in the middle of packing leaves its blocks, and the next one encodes none of them."""
    whole = prepared(cache, 1)
    files = {path.name: path.read_bytes() for path in whole.folder.iterdir()}
    for name in ("meta.json", "train.rows", "tokenizer.json"):
        (whole.folder / name).unlink()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("autoexp.model.prepare.sha256_file", full_disk)
        with pytest.raises(BadInput, match="No space left"):
            prepared(cache, 1)
    blocks: list[str] = []
    encode = encoding.encode_block
    with monkeypatch.context() as broken:
        broken.setattr("autoexp.model.prepare.write_json", full_disk)
        broken.setattr("autoexp.model.encoding.Encoded.remove", lambda _: None)
        with pytest.raises(BadInput, match="No space left"):
            prepared(cache, 1)
    left = sorted(whole.folder.glob("encoded-*/*.ids"))
    assert len(left) > 5
    left[2].unlink()

    def noted(block: shards.Block, path: Path, tokenizer: Tokenizer) -> None:
        blocks.append(path.name)
        encode(block, path, tokenizer)

    monkeypatch.setattr(encoding, "encode_block", noted)
    prepared(cache, 1)
    assert blocks == [left[2].name]
    assert {path.name: path.read_bytes() for path in whole.folder.iterdir()} == files


def test_another_size_of_a_shard_is_another_preparation(cache: Path) -> None:
    first = prepared(cache, 1)
    request = plan("climbmix", PROFILE, cache=cache, shards=2)
    shard = cache / "climbmix" / shard_name(1)
    (cache / "away").mkdir()
    moved = shard.rename(cache / "away" / shard.name)
    assert prepare(request, Progress())["hash"] == first.meta["hash"]  # what was used may be gone
    parquet.write_table(arrow.table({"text": ["Another text altogether. " * 20] * 500}), shard)
    second = prepared(cache, 1)
    assert second.folder == first.folder and second.meta["hash"] != first.meta["hash"]
    assert moved.exists()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_is_ended(cache: Path, tmp_path: Path, sent: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from autoexp.model import encoding, shards\n"
        "from autoexp.model.climbmix import ClimbMix\n"
        "if __name__ == '__main__':\n"
        "    encoding.FEW_BYTES, shards.BLOCK_BYTES = 0, 20_000\n"
        f"    cache = Path({str(cache)!r})\n"
        "    encoded = encoding.Encoded(cache / 'ids', cache / 'tokenizer.json', ClimbMix(cache, 2), 2)\n"
        "    with encoded:\n"
        "        next(encoded.batches('val'))\n"
        "        print('going', flush=True)\n"
        "        time.sleep(60)\n"
    )
    folder = prepared(cache, 1).folder
    os.link(folder / "tokenizer.json", cache / "tokenizer.json")
    run = subprocess.Popen(
        [sys.executable, str(program)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert run.stdout is not None and run.stdout.readline() == "going\n"
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 2
    run.send_signal(sent)
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 30
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < until, "a worker outlives its parent"
        time.sleep(0.02)


def test_an_unreadable_block_is_named(cache: Path, tmp_path: Path) -> None:
    folder = prepared(cache, 1).folder
    shard = cache / "climbmix" / shard_name(0)
    [block, *_] = shards.blocks_of(shard)
    content = bytearray(shard.read_bytes())
    content[100:8000] = bytes(7900)
    shard.write_bytes(content)
    with pytest.raises(BadInput, match="shard_00000"):
        encoding.encode_block(block, tmp_path / "x.ids", Tokenizer.load(folder / "tokenizer.json"))
    assert not list(tmp_path.glob("*.ids")) and not list(tmp_path.glob(".*.tmp"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    batches = [[[1, 2, 65_535], []], [], [[7]]]
    write_encoded(tmp_path / "x.ids", iter([[np.array(ids, np.uint16) for ids in batch] for batch in batches]))
    assert [[ids.tolist() for ids in batch] for batch in read_encoded(tmp_path / "x.ids")] == batches
    cut = (tmp_path / "x.ids").read_bytes()[:-2]
    (tmp_path / "x.ids").write_bytes(cut)
    with pytest.raises(BadInput, match="cut off"):
        list(read_encoded(tmp_path / "x.ids"))
