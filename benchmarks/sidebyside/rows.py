"""Are both sides asked the same question? Their validation rows, token ids and byte counts, compared one by one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from autoexp.model.prepared import TOKENIZER, Prepared
from autoexp.model.tokenizer import Tokenizer

from .jobs import Done, Job, JobFailed

LOADER = Path(__file__).with_name("loader.py")
SAMPLE = "Hello world's 2026 hellos; <|reserved_0|> stays text.\r\n\n  Grüße, 你好, naïve café\t— ½ 🙂 end "


def last_json(done: Done) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(done.lines[-1][1])
    return answer


def rows_job(folder: Path, env: dict[str, str], data: Prepared, scratch: Path, wanted: int) -> Job:
    """Compare the reference's first `wanted` validation rows with the ones that we evaluate."""
    out = scratch / "reference-rows.npy"
    command = [sys.executable, str(LOADER), "rows", str(wanted), str(data.seq_len), str(out)]

    def collect(done: Done) -> dict[str, Any]:
        theirs = np.load(out)
        out.unlink()
        return compare(theirs, data)

    return Job("rows", command, folder, env, collect, before=lambda: scratch.mkdir(parents=True, exist_ok=True))


def compare(theirs: Any, data: Prepared) -> dict[str, Any]:
    """How many of the reference's rows (n, seq_len + 1) are ours, in the same places."""
    ours = data.rows("val")[: data.eval_rows]
    both = min(len(theirs), len(ours))
    same = (np.asarray(theirs[:both]) == np.asarray(ours[:both])).all(axis=1)
    return {
        "rows_reference": len(theirs),
        "rows_ours": len(ours),
        "rows_same": int(same.sum()),
        "first_difference": int(np.argmin(same)) if not same.all() else None if len(theirs) == len(ours) else both,
        "identical": bool(same.all()) and len(theirs) == len(ours),
    }


def ids_job(folder: Path, env: dict[str, str], data: Prepared, scratch: Path) -> Job:
    """Compare how the reference's own code encodes, decodes and counts a sample."""
    sample = scratch / "sample.txt"

    def before() -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        with sample.open("w", encoding="utf-8", newline="") as file:
            file.write(SAMPLE)

    def collect(done: Done) -> dict[str, Any]:
        answer = last_json(done)
        tokenizer = Tokenizer.load(data.folder / TOKENIZER)
        # Path.read_text gives the loader \n for \r\n: the sample is what it read.
        [[bos, *ids]] = tokenizer.encode_documents([SAMPLE.replace("\r\n", "\n")])
        checks = {
            "ids": answer["ids"] == ids and answer["bos"] == bos,
            "text": answer["text"] == tokenizer.decode(ids),
            "bytes": answer["bytes"] == int(data.token_bytes()[ids].sum()),
        }
        if not all(checks.values()):
            raise JobFailed(f"the tokenizers differ: {', '.join(name for name, same in checks.items() if not same)}")
        return {"same": True, "tokens": len(ids)}

    return Job("ids", [sys.executable, str(LOADER), "ids", str(sample)], folder, env, collect, before=before)


def data_job(name: str, command: list[str], folder: Path, env: dict[str, str], after: tuple[str, ...] = ()) -> Job:
    """Tokens a second of one side's data path alone, as the command's last line says."""
    return Job(name, command, folder, env, last_json, after=after)


def reference_speed(seconds: float, seq_len: int) -> list[str]:
    """The command that times the reference's loader."""
    return [sys.executable, str(LOADER), "speed", f"{seconds:g}", str(seq_len)]


OURS = """
import json, os, sys, time
import torch
from autoexp.model.data import Batches
from autoexp.model.prepared import find_prepared
data = find_prepared(sys.argv[2])
cuda = torch.cuda.is_available() and os.environ.get("AUTOEXP_DEVICE") != "cpu"
device = torch.device("cuda" if cuda else "cpu")
wait = torch.cuda.synchronize if cuda else lambda: None
batches = Batches(data.rows("train"), 256, 128, 1, device)
def step():
    for part in batches.step():
        pass
for _ in range(3):
    step()
wait()
steps, started = 0, time.perf_counter()
while (took := time.perf_counter() - started) < float(sys.argv[1]):
    step()
    steps += 1
    wait()
print(json.dumps({"tokens_per_second": steps * batches.tokens_per_step / took, "seconds": took}))
"""


def our_speed(seconds: float, profile: str) -> list[str]:
    """The command that times our data path: steps of 256 rows in parts of 128, on the device that trains."""
    return [sys.executable, "-c", OURS, f"{seconds:g}", profile]
