"""Out of memory: the training starts again with half as many rows at once, before it counts as a crash.

What a step trains on stays the same: fewer rows at once only make more parts of it. The process is replaced by a new
one under the same number (`exec`), because that alone gives all memory back, and because whoever waits for the process
need not know. `AUTOEXP_DEVICE_BATCH` tells the new one its rows; set by a person it is a limit like any other.

<cache>/device-batch/<hash>.json remembers, for one source on one kind of card, how many rows were tried last, so that
another trial of that source starts there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from autoexp.model.errors import BadInput, OutOfMemory
from autoexp.model.prepared import cache_folder
from autoexp.model.storage import write_json

DEVICE_BATCH = "AUTOEXP_DEVICE_BATCH"

# What libraries say that have no exception of their own for it, in lower case. `cublasCreate` fails for want of memory
# for its workspace and calls that "not initialized".
SAYINGS = (
    "out of memory",  # CUDA, HIP, MPS, XPU, NCCL; also where Dynamo or Inductor has put it into a text of their own
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized when calling `cublascreate",
    "cudnn_status_alloc_failed",
    "hipblas_status_alloc_failed",
    "can't allocate memory",  # torch's allocator on the CPU
)
# Devices of GPUs. Their drivers close them on exec; should one not, the memory would not be free.
GPU_FILES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that led to it, says that the device's memory (or the machine's) is full."""
    return any(_says_so(one) for one in _chain(error))


def _says_so(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, OutOfMemory)):
        return True
    # What torch and its compiler raise are RuntimeErrors; a text of anyone else proves nothing.
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in SAYINGS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and all that led to it, each once."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = getattr(one, "inner_exception", None)  # of torch._dynamo's BackendCompilerFailed
        left += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        left.append(inner if isinstance(inner, BaseException) else None)


def retry_at_half(rows_per_part: int, environ: Mapping[str, str]) -> None:
    """Start this process again, with the same arguments, `environ` and half of `rows_per_part` rows at once.

    Does not come back, unless there is nothing to halve, or the process is one of several that train together
    (`RANK`) and one alone cannot start again, or it cannot be started: then the caller goes on to fail. Call it
    only in a process whose whole work the training is.
    """
    if rows_per_part <= 1 or environ.get("RANK") or not sys.executable or not sys.orig_argv:
        return
    half = rows_per_part // 2
    print(f"out of memory with {rows_per_part} rows at once: starting again with {half}", flush=True)
    sys.stderr.flush()
    _close_gpus_on_exec()
    # The first argument as a path: from a bare `python` the new one would look for its libraries along PATH.
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environ, DEVICE_BATCH: str(half)})


def _close_gpus_on_exec() -> None:
    with contextlib.suppress(OSError):  # no /proc, no such files
        for link in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith(GPU_FILES):
                    os.set_inheritable(int(link.name), False)


# -- what is remembered -----------------------------------------------------------------------------------------------


def fact_path(source: str | None, device_name: str, total_memory: int | None, environ: Mapping[str, str]) -> Path:
    """The file about a source (its hash) on a card of that name and memory, in bytes. It need not be there."""
    text = json.dumps([source, device_name, total_memory])
    return cache_folder(environ) / "device-batch" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def remember(path: Path, rows: int) -> None:
    """Start at `rows` rows next time. A cache that cannot be written to is no reason to fail."""
    with contextlib.suppress(OSError):
        write_json(path, {"rows": rows})


def most_rows(wanted: int, path: Path, environ: Mapping[str, str]) -> int:
    """`wanted`, or fewer where `AUTOEXP_DEVICE_BATCH` says so, or else what is remembered at `path`.

    Raises BadInput if the variable is no whole number above 0.
    """
    if named := environ.get(DEVICE_BATCH):
        if not named.isdecimal() or int(named) < 1:
            raise BadInput(f"{DEVICE_BATCH}={named} is no number of rows", "give 1 or more, or unset it")
        return min(wanted, int(named))
    try:
        rows = json.loads(path.read_bytes())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return wanted
    return min(wanted, rows) if isinstance(rows, int) and rows >= 1 else wanted
