"""The data path's speed and memory: `python benchmarks/data.py [--shards 10] [--reference PATH] [--skip-prepare]`

Makes a synthetic set of shards as large as ClimbMix's (250 MB of text each, about 90 MB in parquet), prepares it in
a folder of its own with the real command while the memory of all its processes is watched, and times packing and
batches on the CPU. With a checkout of karpathy/autoresearch its own loader is timed on the same text.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from autoexp.model.climbmix import VAL_SHARD, shard_name
from autoexp.model.data import Batches
from autoexp.model.datasets import Bundled
from autoexp.model.encoding import processors
from autoexp.model.packing import Packer
from autoexp.model.prepared import Prepared, read_prepared
from autoexp.model.shards import batches
from autoexp.model.tokenizer import Tokenizer

SHARD_BYTES = 250_000_000  # of text
GROUP = 1024  # documents in a row group
MEDIAN_BYTES = 2200  # of a document; lengths are log-normal, their mean about 4 kB
LETTERS = np.array([a + b + c for a, b, c in itertools.product("abcdefghijklmnopqrstuvwxyz", repeat=3)], dtype=object)
Rows = np.ndarray[Any, np.dtype[np.uint16]]


def words() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The words of the bundled texts and how often each comes."""
    text = " ".join(body for _, body in Bundled(500).addresses())
    found, counts = np.unique(np.array(text.split()), return_counts=True)
    return found.astype(object), counts / counts.sum()


def write_shard(path: Path, number: int, size: int) -> None:
    """A shard of made-up documents: known words as often as they come, and a tail of words seen once."""
    rng = np.random.default_rng(number)
    vocabulary, chances = words()
    edges = np.cumsum(chances)
    writer = pq.ParquetWriter(path.with_suffix(".tmp"), pa.schema({"text": pa.string()}), compression="zstd")
    written = 0
    while written < size:
        lengths = np.clip(rng.lognormal(np.log(MEDIAN_BYTES), 1.1, GROUP), 50, 400_000).astype(int) // 6 + 1
        chosen = vocabulary[np.minimum(np.searchsorted(edges, rng.random(lengths.sum())), len(edges) - 1)]
        rare = rng.random(len(chosen)) < 0.01
        endings = rng.integers(0, len(LETTERS), (2, int(rare.sum())))
        chosen[rare] = chosen[rare] + LETTERS[endings[0]] + LETTERS[endings[1]]
        ends = np.cumsum(lengths)
        texts = [" ".join(chosen[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
        writer.write_table(pa.table({"text": texts}), row_group_size=GROUP)
        written += sum(map(len, texts))
    writer.close()
    path.with_suffix(".tmp").replace(path)


def make_shards(folder: Path, count: int, size: int) -> None:
    """Write what is not there of `count` training shards and the validation shard."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [number for number in [*range(count), VAL_SHARD] if not (folder / shard_name(number)).exists()]
    with ProcessPoolExecutor() as pool:
        for job in [pool.submit(write_shard, folder / shard_name(number), number, size) for number in numbers]:
            job.result()


def prepared_with_memory(cache: Path, shards: int, more: list[str]) -> tuple[Path, dict[str, float]]:
    """Run the real command. Returns its folder, its seconds, and the peak of the resident memory of its processes."""
    command = [sys.executable, "-m", "autoexp.model.prepare", "--dataset", "climbmix", "--profile", "h100", "--json"]
    environment = {**os.environ, "HOME": str(cache / "nobody")}  # no shards of another cache
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--shards", str(shards), "--cache", str(cache), *more], stdout=subprocess.PIPE, env=environment
    )
    peak, most = 0, 0
    while process.poll() is None:
        memory, seen = 0, 0
        for each in [parent := psutil.Process(process.pid), *parent.children(recursive=True)]:
            try:
                memory, seen = memory + each.memory_info().rss, seen + 1
            except psutil.Error:
                continue  # it has just ended
        peak, most = max(peak, memory), max(most, seen)
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    assert process.stdout is not None
    facts = json.loads(process.stdout.read().splitlines()[-1])
    return Path(facts["data_dir"]), {"seconds": seconds, "peak_gb": peak / 1e9, "processes": most}


def tokens_per_second(step: Callable[[], int], seconds: float) -> float:
    """Call `step`, which says how many tokens it made, for so long after one call that is not counted."""
    step()
    tokens, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        tokens += step()
    return tokens / (time.perf_counter() - started)


def packing(ids: list[list[Rows]], capacity: int, remainders: bool) -> float:
    """Tokens a second of the packer on documents in memory."""
    packer = Packer(capacity, remainders=remainders)
    started = time.perf_counter()
    count = sum(1 for _ in packer.rows(ids))
    return count * capacity / (time.perf_counter() - started)


def step_of(batches: Batches) -> Callable[[], int]:
    """One step of batches, ready on the device, as a count of tokens."""

    def step() -> int:
        tokens = sum(targets.numel() for _, targets in batches.step())
        if batches.device.type == "cuda":
            torch.cuda.synchronize(batches.device)
        return tokens

    return step


def gather_of(rows: Rows) -> Callable[[], int]:
    """128 rows by chance, as they lie."""
    rng = np.random.default_rng(0)

    def step() -> int:
        return int(rows[rng.integers(0, len(rows), 128)].size)

    return step


def reference_step(path: Path, shard_folder: Path, tokenizer: Tokenizer, seq_len: int) -> Callable[[], int]:
    """The loader of karpathy/autoresearch as it stands, on the same shards, with CPU tensors for CUDA's."""
    reference = load_reference(path)
    reference.DATA_DIR = str(shard_folder)
    plain = torch.empty

    def on_cpu(*size: Any, **options: Any) -> torch.Tensor:
        options.pop("pin_memory", None)
        return plain(*size, **{**options, "device": "cpu"})

    loader = reference.make_dataloader(reference.Tokenizer(Named(tokenizer)), 128, seq_len, "train")

    def step() -> int:
        with mock.patch.object(torch, "empty", on_cpu):
            _, targets, _ = next(loader)
        return int(targets.numel())

    return step


def load_reference(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_prepare", path / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"requests": ModuleType("requests")}):  # it would only download
        spec.loader.exec_module(module)
    return module


class Named:
    """Our tokenizer under the names that the reference calls."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encoding = tokenizer.encoding
        self.n_vocab = tokenizer.vocab_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoding, name)


def first_documents(path: Path, count: int) -> Iterator[list[str]]:
    return itertools.islice(batches(path), count)


def measure(data: Prepared, shard_folder: Path, reference: Path | None, seconds: float) -> dict[str, float]:
    """Every speed of the data path on one process, tokens a second."""
    tokenizer = Tokenizer.load(data.folder / "tokenizer.json")
    capacity = data.seq_len + 1
    texts = list(first_documents(shard_folder / shard_name(0), 100))
    started = time.perf_counter()
    ids = [[tokenizer.encode(text) for text in batch] for batch in texts]
    encoding = sum(len(document) for batch in ids for document in batch) / (time.perf_counter() - started)
    started = time.perf_counter()
    tokens = sum(len(each) for batch in texts for each in tokenizer.encode_documents(batch, processors()))
    threaded = tokens / (time.perf_counter() - started)
    rows = data.rows("train")
    cpu = torch.device("cpu")
    found = {
        "encoding": encoding,
        f"encoding, {processors()} threads": threaded,
        "packing": packing(ids, capacity, remainders=False),
        "packing, remainders kept": packing(ids, capacity, remainders=True),
        "rows gathered": tokens_per_second(gather_of(rows), seconds),
        "batches, int64": tokens_per_second(step_of(Batches(rows, 256, 128, 0, cpu)), seconds),
    }
    if torch.cuda.is_available():
        for name, on_device in (("batches on the GPU", True), ("batches read ahead for the GPU", False)):
            stream = Batches(rows, 256, 128, 0, torch.device("cuda"), on_device=on_device)
            found[name] = tokens_per_second(step_of(stream), seconds)
            stream.close()
    if reference is not None:
        found["reference"] = tokens_per_second(
            reference_step(reference, shard_folder, tokenizer, data.seq_len), seconds
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--shards", type=int, default=10, help="training shards")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="bytes of text in each")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "autoexp-data-benchmark")
    parser.add_argument("--reference", type=Path, help="a checkout of karpathy/autoresearch")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each speed's measurement")
    parser.add_argument("--prepare-options", nargs=argparse.REMAINDER, default=[], help="for the preparation; last")
    options = parser.parse_args()
    torch.set_num_threads(1)

    console = Console()
    shard_folder = options.folder / "climbmix"
    make_shards(shard_folder, options.shards, options.shard_bytes)
    files = [path.stat().st_size for path in shard_folder.glob("*.parquet")]
    console.print(f"{len(files)} shards of {sum(files) / len(files) / 1e6:.0f} MB in {shard_folder}")
    folder, cost = prepared_with_memory(options.folder, options.shards, options.prepare_options)
    data = read_prepared(folder)
    assert data is not None
    speeds = measure(data, shard_folder, options.reference, options.seconds)

    table = Table("", "here", "reference")
    table.add_row("preparation, seconds (0 or 1: it was there already)", f"{cost['seconds']:.1f}", "")
    table.add_row(f"peak memory of its {cost['processes']:.0f} processes, GB", f"{cost['peak_gb']:.2f}", "")
    table.add_row("train rows", f"{data.meta['train']['rows']:,}", "")
    table.add_row("part of the train text kept", f"{100 * data.meta['train']['kept']:.1f} %", "")
    theirs = speeds.pop("reference", None)
    for name, speed in speeds.items():
        ratio = f"{speed / theirs:.0f} x" if theirs and name.startswith(("batches", "rows")) else ""
        table.add_row(f"{name}, M tokens/s, one process", f"{speed / 1e6:.1f}", ratio)
    if theirs:
        table.add_row("the reference's loader, M tokens/s, one process", "", f"{theirs / 1e6:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
