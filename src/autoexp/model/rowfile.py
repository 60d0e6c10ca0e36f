"""One split packed into its file of rows, with what it keeps of the text; what climbmix's leaves is its test split."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoexp.model.console import Progress
from autoexp.model.encoding import Encoded
from autoexp.model.errors import BadInput
from autoexp.model.packing import Packer
from autoexp.model.prepared import ALWAYS
from autoexp.model.storage import replacing
from autoexp.model.tokenizer import Ids

ROWS_AT_A_TIME = 256  # written in one go


@dataclass
class Rate:
    """How fast rows come, for the line of progress."""

    split: str
    seq_len: int
    progress: Progress
    most: int | None
    started: float
    read: float = 0.0  # part of the text, 0 to 1
    readings: int = 0  # how often the text was begun, where it may be read again

    def tick(self, read: float) -> None:
        self.read = max(self.read, read)

    def show(self, rows: int) -> None:
        """One line: rows, tokens, tokens a second, and the time left where it can be told."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        tokens = rows * self.seq_len
        done = rows / self.most if self.most else self.read
        left = f", {seconds * (1 - done) / done:.0f} s left" if 0 < done < 1 and seconds > 1 else ""
        rate = f"{tokens / seconds / 1e6:.1f} M tokens/s"
        self.progress.update(f"packing {self.split}: {rows} rows, {tokens / 1e6:.1f} M tokens, {rate}{left}")


def write_rows(
    encoded: Encoded,
    split: str,
    path: Path,
    capacity: int,
    lengths: npt.NDArray[np.int32],
    progress: Progress,
    most: int | None = None,
    remainders: bool = False,
    rest: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Pack a split into `path`. Returns its counts by name: rows, tokens, bytes of text, and the part that it keeps.

    With `most` there are just so many rows, and a text that is too short for them is read again, without a break:
    that is how the reference comes to its validation rows. As many rows that come after them in the first reading go
    into `rest`, if there are any; their counts are under "rest".
    """
    rate = Rate(split, capacity - 1, progress, most, time.monotonic())
    packer = Packer(capacity, remainders=remainders)
    rows = packer.rows(again_and_again(encoded, split, rate) if most else encoded.batches(split, rate.tick))
    found = {split: fill(path, rows, rate, lengths, most)}
    if found[split]["rows"] == 0 and split in ALWAYS:
        raise BadInput(
            f"{encoded.source.name} has too little text: its {split} part fills no row of {capacity} tokens",
            "add text (a few hundred kilobytes at least), or use --dataset bundled",
        )
    found[split]["kept"] = kept(packer) if found[split]["rows"] else 0.0
    if rest is not None and most is not None:
        first_reading = takewhile(lambda row: rate.readings < 2, rows)
        after = fill(rest, first_reading, rate, lengths, most)
        if after["rows"]:
            found["rest"] = {**after, "kept": kept(packer)}
        else:
            rest.unlink()
    encoded.enough(split)
    return found


def kept(packer: Packer) -> float:
    return round(packer.kept / (packer.kept + packer.dropped), 4)


def fill(
    path: Path, rows: Iterator[npt.NDArray[np.uint16]], rate: Rate, lengths: npt.NDArray[np.int32], most: int | None
) -> dict[str, Any]:
    """Write rows, `most` at most, into a file by rename. Returns their counts."""
    count = text_bytes = 0
    with replacing(path) as file:
        while most is None or count < most:
            block = list(islice(rows, ROWS_AT_A_TIME if most is None else min(ROWS_AT_A_TIME, most - count)))
            if not block:
                break
            stacked = np.stack(block).astype("<u2", copy=False)  # (n, capacity)
            file.write(stacked.data)
            count += len(block)
            text_bytes += int(lengths[stacked[:, 1:]].sum())
            rate.show(count)
    return {"rows": count, "tokens": count * rate.seq_len, "bytes": text_bytes}


def again_and_again(encoded: Encoded, split: str, rate: Rate) -> Iterator[list[Ids]]:
    """The batches of a split for ever, or none if there is none."""
    found = True
    while found:
        found = False
        rate.readings += 1
        for batch in encoded.batches(split, rate.tick):
            found = True
            yield batch
