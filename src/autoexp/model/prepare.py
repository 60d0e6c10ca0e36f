"""Make a dataset ready for training: text to a tokenizer and two files of packed rows.

`python -m autoexp.model.prepare --dataset bundled|climbmix|PATH`. Idempotent; may be killed at any instant and
started again; two at once wait for each other. See prepared.py for what it leaves behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoexp.model.climbmix import BASE_URL, ClimbMix
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled, OwnText, Source
from autoexp.model.errors import BadInput, TrainerError, tell
from autoexp.model.packing import pack
from autoexp.model.prepared import (
    FORMAT,
    META,
    ROWS,
    TOKEN_BYTES,
    TOKENIZER,
    cache_folder,
    check_vocabulary,
    folder_name,
    read_prepared,
)
from autoexp.model.profiles import PROFILES, Profile, pick
from autoexp.model.storage import locked, remove_leftovers, replacing, sha256_file, write_json
from autoexp.model.tokenizer import Tokenizer, train_tokenizer

# The size of the pieces that documents are cut into, in characters a token of context. Two or three of such pieces
# fill a row: of the bundled text packing then keeps 92 %, and of pieces of twice the size 78 %.
PIECE_CHARACTERS_PER_TOKEN = 1.5
ROWS_AT_A_TIME = 256  # written in one go


@dataclass(frozen=True)
class Request:
    """One preparation: what from, for which profile, and where to."""

    source: Source
    profile: Profile
    folder: Path
    made_from: dict[str, Any]
    digest: str
    reference_bytes: bool


def open_source(dataset: str, profile: Profile, cache: Path, shards: int | None = None, url: str = BASE_URL) -> Source:
    """The source called `dataset`: `bundled`, `climbmix`, or a path."""
    characters = int(PIECE_CHARACTERS_PER_TOKEN * profile.seq_len)
    if dataset == "bundled":
        return Bundled(characters)
    if dataset == "climbmix":
        return ClimbMix(cache, profile.shards if shards is None else shards, url)
    return OwnText(Path(dataset).expanduser().absolute(), characters)


def plan(
    dataset: str,
    profile: Profile,
    *,
    cache: Path | None = None,
    out: Path | None = None,
    shards: int | None = None,
    url: str = BASE_URL,
    reference_bytes: bool = False,
) -> Request:
    """Decide where the prepared data goes: the folder's name holds a hash of all that its content depends on."""
    check_vocabulary(profile.vocab_size)
    cache = (cache or cache_folder()).expanduser().absolute()
    source = open_source(dataset, profile, cache, shards, url)
    made_from = {
        "version": FORMAT,
        "dataset": source.name,
        "source": source.fingerprint(),
        "vocab_size": profile.vocab_size,
        "seq_len": profile.seq_len,
        "eval_tokens": profile.eval_tokens,
        "reference_bytes": reference_bytes,
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    folder = (
        out.expanduser().absolute() if out else cache / "prepared" / folder_name(source.name, profile.name, digest[:8])
    )
    return Request(source, profile, folder, made_from, digest, reference_bytes)


def where(dataset: str, profile: Profile) -> Path:
    """The folder that `--dataset dataset` prepares by default."""
    return plan(dataset, profile).folder


def ready(request: Request) -> dict[str, Any] | None:
    """The meta.json of the folder if it is ready and was made from the same things."""
    found = read_prepared(request.folder)
    return dict(found.meta) if found is not None and found.meta.get("hash") == request.digest else None


def prepare(request: Request, progress: Progress) -> dict[str, Any]:
    """Make the folder ready and return its meta.json. Does nothing if it is."""
    lock = request.folder.with_name(f".{request.folder.name}.lock")
    try:
        with locked(
            lock, waiting=lambda: progress.say("another preparation of the same data is running; waiting for it")
        ):
            return ready(request) or build(request, progress)
    except OSError as error:
        raise BadInput(
            f"{error.filename or request.folder}: {error.strerror or error}", "free or name another --cache"
        ) from None


def build(request: Request, progress: Progress) -> dict[str, Any]:
    """Write every file, meta.json last. Call it with the lock held."""
    started = time.monotonic()
    folder = request.folder
    folder.mkdir(parents=True, exist_ok=True)
    strangers = {path.name for path in folder.iterdir()} - {META, TOKENIZER, TOKEN_BYTES, *ROWS.values()}
    if any(not name.endswith(".tmp") for name in strangers):
        raise BadInput(f"{folder} holds other files ({min(strangers)})", "name an empty or new --out")
    (folder / META).unlink(missing_ok=True)  # from here to the end the folder is not ready
    remove_leftovers(folder)
    request.source.fetch(progress)
    tokenizer = tokenizer_for(request, progress)
    lengths = tokenizer.token_bytes(reference=request.reference_bytes)
    with replacing(folder / TOKEN_BYTES) as file:
        np.save(file, lengths, allow_pickle=False)

    profile = request.profile
    eval_rows = profile.eval_tokens // profile.seq_len
    # Of climbmix just the rows that are evaluated are packed: the reference's first ones, in its order. Of the
    # others all are, and evaluation takes rows spread over them, for their documents may be sorted.
    most = {"train": None, "val": eval_rows if request.source.name == "climbmix" else None}
    counts = {
        split: write_rows(request, split, tokenizer, lengths, most[split], progress) for split in ("val", "train")
    }
    meta = {
        "version": FORMAT,
        "hash": request.digest,
        "dataset": request.source.name,
        "profile": profile.name,
        "vocab_size": tokenizer.vocab_size,
        "seq_len": profile.seq_len,
        "eval_rows": min(eval_rows, counts["val"]["rows"]),
        "reference_bytes": request.reference_bytes,
        **counts,
        "sha256": {name: sha256_file(folder / name) for name in (TOKENIZER, TOKEN_BYTES, *ROWS.values())},
        "source": request.made_from["source"],
    }
    write_json(folder / META, meta)
    seconds = time.monotonic() - started
    tokens = {split: counts[split]["tokens"] / 1e6 for split in counts}
    progress.say(f"ready in {seconds:.1f} s: {tokens['train']:.2f} M train and {tokens['val']:.2f} M validation tokens")
    return meta


def tokenizer_for(request: Request, progress: Progress) -> Tokenizer:
    """The tokenizer of an earlier, interrupted preparation of the same data, or a new one."""
    path = request.folder / TOKENIZER
    if path.exists():
        try:
            earlier = Tokenizer.load(path)
            if earlier.made_from == request.digest:
                return earlier
        except BadInput:
            pass
    progress.say(f"training a tokenizer of {request.profile.vocab_size} tokens")

    def texts() -> Iterator[str]:
        characters = 0
        for batch in request.source.documents("train"):
            characters += sum(map(len, batch))
            progress.update(f"tokenizer: {characters / 1e6:.1f} M characters read")
            yield from batch

    tokenizer = train_tokenizer(texts(), request.profile.vocab_size, made_from=request.digest)
    tokenizer.save(path)
    return tokenizer


def write_rows(
    request: Request,
    split: str,
    tokenizer: Tokenizer,
    lengths: npt.NDArray[np.int32],
    most: int | None,
    progress: Progress,
) -> dict[str, int]:
    """Pack one split into its file, at most `most` rows. Returns its counts of rows, tokens and bytes of text."""
    capacity = request.profile.seq_len + 1
    threads = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    encoded = (tokenizer.encode_documents(batch, threads) for batch in request.source.documents(split))
    rows = pack(encoded, capacity)
    count = text_bytes = 0
    with replacing(request.folder / ROWS[split]) as file:
        while most is None or count < most:
            block = list(islice(rows, ROWS_AT_A_TIME if most is None else min(ROWS_AT_A_TIME, most - count)))
            if not block:
                break
            stacked = np.stack(block)  # (n, seq_len + 1)
            file.write(stacked.astype("<u2").tobytes())
            count += len(block)
            text_bytes += int(lengths[stacked[:, 1:]].sum())
            progress.update(f"packing {split}: {count} rows, {count * (capacity - 1) / 1e6:.1f} M tokens")
        if count == 0:
            raise BadInput(
                f"{request.source.name} has too little text: its {split} part fills no row of {capacity} tokens",
                "add text (a few hundred kilobytes at least), or use --dataset bundled",
            )
    return {"rows": count, "tokens": count * (capacity - 1), "bytes": text_bytes}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m autoexp.model.prepare", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument(
        "--dataset", default=None, help="bundled, climbmix, or a file or folder of text (default: the profile's)"
    )
    parser.add_argument("--profile", default="auto", choices=["auto", *PROFILES])
    parser.add_argument("--cache", type=Path, help="folder of all data (default: $AUTOEXP_CACHE or ~/.cache/autoexp)")
    parser.add_argument("--out", type=Path, help="folder for this data (default: one of the cache)")
    parser.add_argument("--shards", type=int, help="climbmix: number of training shards")
    parser.add_argument("--url", default=BASE_URL, help="climbmix: where the shards are")
    parser.add_argument(
        "--reference-token-bytes", action="store_true", help="count bytes as karpathy/autoresearch does"
    )
    parser.add_argument("--check", action="store_true", help="only say whether it is ready (exit 0) or not (exit 3)")
    parser.add_argument("--json", action="store_true", help="end with one JSON line on stdout; the rest goes to stderr")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    options = parse(argv)
    progress = Progress(sys.stderr if options.json else sys.stdout)
    try:
        profile = pick(options.profile)
        request = plan(
            options.dataset or profile.dataset,
            profile,
            cache=options.cache,
            out=options.out,
            shards=options.shards,
            url=options.url,
            reference_bytes=options.reference_token_bytes,
        )
        meta = ready(request)
        if options.check:
            facts = {"ready": meta is not None, "data_dir": str(request.folder)}
            print(json.dumps(facts) if options.json else request.folder)
            return 0 if meta else 3
        if meta is None:
            meta = prepare(request, progress)
        progress.say(f"data is ready in {request.folder}")
    except TrainerError as error:
        progress.close()
        return tell(error)
    except KeyboardInterrupt:
        progress.close()
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if options.json:
        keys = ("dataset", "profile", "vocab_size", "seq_len", "train", "val", "hash")
        print(json.dumps({"ready": True, "data_dir": str(request.folder), **{key: meta[key] for key in keys}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
