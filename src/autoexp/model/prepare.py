"""Make a dataset ready for training: text to a tokenizer and three files of packed rows.

`python -m autoexp.model.prepare --dataset bundled|climbmix|PATH`. Idempotent; may be killed at any instant and
started again, and goes on from the tokenizer and the encoded blocks that are there (see encoding.py; they lie beside
the rows until these are written); two at once wait for each other. See prepared.py for what it leaves behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoexp.model.climbmix import BASE_URL, ClimbMix
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled, OwnText, Source
from autoexp.model.encoding import Encoded, processors
from autoexp.model.errors import Arguments, BadInput, TrainerError, tell
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
from autoexp.model.rowfile import write_rows
from autoexp.model.shards import ahead
from autoexp.model.storage import hash_of, locked, remove_leftovers, replacing, sha256_file, write_json
from autoexp.model.tokenizer import Tokenizer, train_tokenizer

# The size of the pieces that documents are cut into, in characters a token of context. Two or three of such pieces
# fill a row: of the bundled text packing then keeps 92 %, and of pieces of twice the size 78 %.
PIECE_CHARACTERS_PER_TOKEN = 1.5
PIECES = "encoded-"  # begins the name of the folder of encoded blocks


@dataclass(frozen=True)
class Request:
    """One preparation: what from, for which profile, and where to."""

    source: Source
    profile: Profile
    folder: Path
    made_from: dict[str, Any]
    digest: str
    reference_bytes: bool
    remainders: bool  # of the training split: see packing.py


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
    remainders: bool = False,
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
        "remainders": remainders,
    }
    digest = hash_of(made_from)
    folder = (
        out.expanduser().absolute() if out else cache / "prepared" / folder_name(source.name, profile.name, digest[:8])
    )
    return Request(source, profile, folder, made_from, digest, reference_bytes, remainders)


def where(dataset: str, profile: Profile) -> Path:
    """The folder that `--dataset dataset` prepares by default."""
    return plan(dataset, profile).folder


def ready(request: Request) -> dict[str, Any] | None:
    """The meta.json of the folder if it is ready and was made from the same things.

    Of files that were fetched those that are still here must have the size that they had; the others may be gone.
    """
    found = read_prepared(request.folder)
    if found is None or found.meta.get("request") != request.digest:
        return None
    files = found.meta["made_from"]["files"]
    same = all(files.get(name) == size for name, size in request.source.content().items())
    return dict(found.meta) if same else None


def prepare(request: Request, progress: Progress, workers: int | None = None) -> dict[str, Any]:
    """Make the folder ready and return its meta.json. Does nothing if it is. Encodes with `workers` processes."""
    lock = request.folder.with_name(f".{request.folder.name}.lock")
    try:
        with locked(
            lock, waiting=lambda: progress.say("another preparation of the same data is running; waiting for it")
        ):
            return ready(request) or build(request, progress, workers or processors())
    except OSError as error:
        raise BadInput(
            f"{error.filename or request.folder}: {error.strerror or error}", "free or name another --cache"
        ) from None


def build(request: Request, progress: Progress, workers: int) -> dict[str, Any]:
    """Write every file, meta.json last. Call it with the lock held."""
    started = time.monotonic()
    folder, profile, source = request.folder, request.profile, request.source
    folder.mkdir(parents=True, exist_ok=True)
    strangers = {path.name for path in folder.iterdir()} - {META, TOKENIZER, TOKEN_BYTES, *ROWS.values()}
    strangers = {name for name in strangers if not name.endswith(".tmp") and not name.startswith(PIECES)}
    if strangers:
        raise BadInput(f"{folder} holds other files ({min(strangers)})", "name an empty or new --out")
    (folder / META).unlink(missing_ok=True)  # from here to the end the folder is not ready
    remove_leftovers(folder)
    source.fetch(progress)
    made_from = {**request.made_from, "files": source.content()}
    tokenizer = tokenizer_for(request, hash_of(made_from), progress)
    made_from["tokenizer"] = sha256_file(folder / TOKENIZER)
    digest = hash_of(made_from)
    lengths = tokenizer.token_bytes(reference=request.reference_bytes)
    with replacing(folder / TOKEN_BYTES) as file:
        np.save(file, lengths, allow_pickle=False)

    pieces = folder / f"{PIECES}{digest[:8]}"
    for old in folder.glob(f"{PIECES}*"):
        if old != pieces:
            shutil.rmtree(old, ignore_errors=True)  # of a preparation from other things
    eval_rows = profile.eval_tokens // profile.seq_len
    # Of climbmix just the rows that are evaluated are packed: the reference's first ones, in its order. Of the
    # others all are, and evaluation takes rows spread over them, for their documents may be sorted.
    most = {"val": eval_rows if source.name == "climbmix" else None}
    counts: dict[str, dict[str, Any]] = {}
    with Encoded(pieces, folder / TOKENIZER, source, workers) as encoded:
        for split in encoded.splits:
            written = write_rows(
                encoded,
                split,
                folder / ROWS[split],
                profile.seq_len + 1,
                lengths,
                progress,
                most.get(split),
                request.remainders and split == "train",
                folder / ROWS["test"] if split == "val" else None,
            )
            if written[split]["rows"]:
                counts[split] = written[split]
            if split == "val" and "rest" in written:
                counts["test"] = written["rest"]
    if "test" not in counts:
        (folder / ROWS["test"]).unlink(missing_ok=True)
        progress.say("there is too little text for a test split")
    meta = {
        "version": FORMAT,
        "request": request.digest,
        "hash": digest,
        "made_from": made_from,
        "dataset": source.name,
        "profile": profile.name,
        "vocab_size": tokenizer.vocab_size,
        "seq_len": profile.seq_len,
        "eval_rows": min(eval_rows, counts["val"]["rows"]),
        "reference_bytes": request.reference_bytes,
        "remainders": request.remainders,
        **counts,
        "sha256": {
            name: sha256_file(folder / name) for name in (TOKENIZER, TOKEN_BYTES, *(ROWS[split] for split in counts))
        },
    }
    encoded.remove()
    write_json(folder / META, meta)
    seconds = time.monotonic() - started
    for split, count in counts.items():
        progress.say(f"{split}: {count['tokens'] / 1e6:.2f} M tokens, {100 * count['kept']:.1f} % of the text")
    progress.say(f"ready in {seconds:.1f} s")
    return meta


def tokenizer_for(request: Request, made_from: str, progress: Progress) -> Tokenizer:
    """The tokenizer of an earlier, interrupted preparation of the same data, or a new one."""
    path = request.folder / TOKENIZER
    if path.exists():
        try:
            earlier = Tokenizer.load(path)
            if earlier.made_from == made_from:
                return earlier
        except BadInput:
            pass
    progress.say(f"training a tokenizer of {request.profile.vocab_size} tokens")

    def texts() -> Iterator[str]:
        characters = 0
        # Read ahead, for the learner takes some thousand texts at once, and then counts for a while.
        for batch in ahead(request.source.documents("train")):
            characters += sum(map(len, batch))
            progress.update(f"tokenizer: {characters / 1e6:.1f} M characters read")
            yield from batch

    tokenizer = train_tokenizer(texts(), request.profile.vocab_size, made_from=made_from)
    tokenizer.save(path)
    return tokenizer


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(prog="python -m autoexp.model.prepare", description=str(__doc__).partition("\n")[0])
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
    rest = parser.add_mutually_exclusive_group()
    rest.add_argument(
        "--keep-remainders",
        dest="remainders",
        action="store_true",
        help="the rest of a training document that was cut to fill a row goes into another row",
    )
    rest.add_argument(
        "--drop-remainders", dest="remainders", action="store_false", help="it is dropped, as the reference does"
    )
    parser.add_argument("--workers", type=int, help="processes that encode (default: one a processor, at most 16)")
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
            remainders=options.remainders,
        )
        meta = ready(request)
        if options.check:
            facts = {"ready": meta is not None, "data_dir": str(request.folder)}
            print(json.dumps(facts) if options.json else request.folder)
            return 0 if meta else 3
        if meta is None:
            meta = prepare(request, progress, options.workers)
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
