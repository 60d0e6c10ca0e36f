"""Run inside a copy of karpathy/autoresearch: ask its own data loader for rows, its speed, its token ids.

    python loader.py rows COUNT SEQ_LEN OUT.npy      the first COUNT validation rows, uint16 (COUNT, SEQ_LEN + 1)
    python loader.py speed SECONDS SEQ_LEN           tokens a second of its training stream, batches of 128 rows
    python loader.py ids TEXT_FILE                   token ids of the text, and the text decoded from them

Prints one JSON line. It must be the process of its own that it is: the copy's `prepare` is imported from the current
folder, and without a GPU torch.empty is told to forget about pinned memory and CUDA.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROWS_PER_BATCH = 128  # what both of its recipes ask for; rows do not depend on it


def without_cuda() -> None:
    """Let the loader's buffers be plain CPU memory where there is no GPU."""
    if torch.cuda.is_available():
        return
    empty: Any = torch.empty

    def plain(*size: Any, pin_memory: bool = False, device: Any = None, **rest: Any) -> Any:
        return empty(*size, device=None if device == "cuda" else device, **rest)

    vars(torch)["empty"] = plain


def rows(prepare: Any, count: int, seq_len: int, out: Path) -> dict[str, Any]:
    batch = min(count, ROWS_PER_BATCH)
    loader = prepare.make_dataloader(prepare.Tokenizer.from_directory(), batch, seq_len, "val")
    parts: list[Any] = []
    while sum(map(len, parts)) < count:
        inputs, targets, _epoch = next(loader)
        parts.append(torch.cat((inputs, targets[:, -1:]), dim=1).cpu().numpy().astype(np.uint16))
    np.save(out, np.concatenate(parts)[:count])
    return {"rows": count}


def speed(prepare: Any, seconds: float, seq_len: int) -> dict[str, Any]:
    loader = prepare.make_dataloader(prepare.Tokenizer.from_directory(), ROWS_PER_BATCH, seq_len, "train")
    next(loader)  # fills its buffer of documents
    batches, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds or not batches:
        next(loader)
        batches += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        took = time.perf_counter() - started
    return {"tokens_per_second": batches * ROWS_PER_BATCH * seq_len / took, "seconds": took}


def ids(prepare: Any, text: str) -> dict[str, Any]:
    tokenizer = prepare.Tokenizer.from_directory()
    encoded = tokenizer.encode(text)
    lengths = prepare.get_token_bytes()
    return {
        "ids": encoded,
        "text": tokenizer.decode(encoded),
        "bos": tokenizer.get_bos_token_id(),
        "bytes": int(lengths[torch.tensor(encoded)].sum()),
    }


def main(argv: list[str]) -> int:
    without_cuda()
    sys.path.insert(0, str(Path.cwd()))
    import prepare  # type: ignore[import-not-found,unused-ignore]

    if argv[0] == "rows":
        answer = rows(prepare, int(argv[1]), int(argv[2]), Path(argv[3]))
    elif argv[0] == "speed":
        answer = speed(prepare, float(argv[1]), int(argv[2]))
    else:
        answer = ids(prepare, Path(argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
