"""The ClimbMix text in parquet shards: which ones, where they may lie already, and how they get here.

Shards 0, 1, 2, … train; one shard, always the same, validates. A download continues where it broke off, and a shard
counts only after every row group of it was read.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from autoexp.model.console import Progress
from autoexp.model.errors import BadInput, Missing
from autoexp.model.shards import Block, batches, blocks_of, damage

BASE_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
VAL_SHARD = 6542  # the last one
TRIES = 6  # in a row that brought no byte
BACKOFF_SECONDS = 0.5  # doubles with every try in a row
TIMEOUT_SECONDS = 30
CHUNK = 1 << 20  # bytes
AT_A_TIME = 4  # downloads


def shard_name(number: int) -> str:
    return f"shard_{number:05d}.parquet"


class ClimbMix:
    """The dataset, `shards` training shards of it. `folders` are searched before anything is downloaded."""

    name = "climbmix"
    own_test = False

    def __init__(self, cache: Path, shards: int, url: str = BASE_URL, others: list[Path] | None = None) -> None:
        if not 1 <= shards <= VAL_SHARD:
            raise BadInput(f"--shards {shards}: there are 1 to {VAL_SHARD} training shards", "give another number")
        self.folder = cache / "climbmix"
        others = [Path.home() / ".cache" / "autoresearch" / "data"] if others is None else others
        self.folders = [self.folder, *others]
        self.checked: set[Path] = set()
        self.unusable: set[Path] = set()  # damaged files of another program, which are left as they are
        self.shards = shards
        self.url = url.rstrip("/")

    def fingerprint(self) -> dict[str, Any]:
        other = {"url": self.url} if self.url != BASE_URL else {}
        return {"shards": self.shards, "val": VAL_SHARD, "test": "rest of val", **other}

    def numbers(self, split: str) -> list[int]:
        return [VAL_SHARD] if split == "val" else list(range(self.shards))

    def find(self, number: int) -> Path | None:
        """The shard's file if one is here."""
        paths = [folder / shard_name(number) for folder in self.folders]
        return next((path for path in paths if path.is_file() and path not in self.unusable), None)

    def content(self) -> dict[str, int]:
        paths = [self.find(number) for number in self.numbers("val") + self.numbers("train")]
        return {path.name: path.stat().st_size for path in paths if path is not None}

    def fetch(self, progress: Progress) -> None:
        """Download the shards that are not here, or are damaged. Raises Missing if one cannot be had."""
        wanted = self.numbers("val") + self.numbers("train")
        self.check(wanted, progress)
        missing = [number for number in wanted if self.find(number) is None]
        if not missing:
            return
        progress.say(f"climbmix: {len(missing)} of {len(wanted)} shards to fetch from {self.url}")
        meter = Meter(progress, len(missing))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            jobs = [pool.submit(download, self.url, number, self.folder, meter) for number in missing]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                meter.cancelled = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def check(self, numbers: list[int], progress: Progress) -> None:
        """Name the damaged shards among `numbers` and put them aside: our own file is deleted, another's not used."""
        while here := [path for path in map(self.find, numbers) if path is not None and path not in self.checked]:
            with ThreadPoolExecutor() as pool:
                problems = pool.map(damage, here)
                for count, (path, problem) in enumerate(zip(here, problems, strict=True), 1):
                    progress.update(f"climbmix: {count}/{len(here)} shards checked")
                    if problem is None:
                        self.checked.add(path)
                    elif path.parent == self.folder:
                        progress.say(f"{path.name} is damaged ({problem}); fetching it again")
                        path.unlink()
                    else:
                        progress.say(f"{path} is damaged ({problem}) and is not used")
                        self.unusable.add(path)

    def path(self, number: int) -> Path:
        """The shard's file. Raises Missing if there is none."""
        path = self.find(number)
        if path is None:
            raise Missing(f"{shard_name(number)} is not there", "python -m autoexp.model.prepare --dataset climbmix")
        return path

    def documents(self, split: str) -> Iterator[list[str]]:
        for number in self.numbers(split):
            yield from batches(self.path(number))

    def blocks(self, split: str) -> list[Block]:
        return [block for number in self.numbers(split) for block in blocks_of(self.path(number))]


class Meter:
    """Bytes and files so far, counted by several downloads."""

    def __init__(self, progress: Progress, files: int) -> None:
        self.progress = progress
        self.files = files
        self.done = 0
        self.bytes = 0
        self.cancelled = False
        self.lock = Lock()

    def add(self, count: int = 0, file: bool = False) -> None:
        with self.lock:
            self.bytes += count
            self.done += file
            self.progress.update(f"climbmix: {self.done}/{self.files} shards, {self.bytes / 1e6:.1f} MB")

    def say(self, text: str) -> None:
        with self.lock:
            self.progress.say(text)


def download(url: str, number: int, folder: Path, meter: Meter) -> None:
    """Bring one shard into `folder`, by rename. Continues its `.part` file. Raises Missing after too many tries."""
    name = shard_name(number)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    failures = 0
    reason = ""
    while failures < TRIES:
        if failures:
            time.sleep(BACKOFF_SECONDS * 2 ** (failures - 1))
        before = part.stat().st_size if part.exists() else 0
        try:
            complete = receive(f"{url}/{name}", part, meter)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404, 410):
                raise Missing(f"{url}/{name}: {error.code} {error.reason}", "check --url and --shards") from None
            reason, complete = f"{error.code} {error.reason}", False
        except (OSError, http.client.HTTPException) as error:
            reason, complete = str(error) or type(error).__name__, False
        if meter.cancelled:
            return
        if complete:
            problem = damage(part)
            if problem is None:
                part.replace(folder / name)
                meter.add(file=True)
                return
            meter.say(f"{name} came damaged ({problem}); fetching it again")
            part.unlink()
            reason = problem
        after = part.stat().st_size if part.exists() else 0
        failures = 1 if after > before else failures + 1  # a line that breaks but moves on is not given up
    command = "python -m autoexp.model.prepare --dataset climbmix  (continues where it stopped)"
    raise Missing(f"{name} could not be fetched from {url}: {reason}", command)


def receive(address: str, part: Path, meter: Meter) -> bool:
    """Append what is missing of `address` to `part`. True once all of it is there; OSError on a broken line."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing after what we have: it is whole, unless it is longer than the file, and then `damage` will say so.
        return True
    with answer:
        resumed = answer.status == 206
        if not resumed:
            have = 0  # the server sends it all
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                meter.add(len(chunk))
                if meter.cancelled:
                    return False
    if total is not None and have < total:
        raise OSError(f"the connection broke after {have} of {total} bytes")
    return True
