"""Compiles the kernels of FlashAttention 4 while the model is compiled: processes beside the one that will need them.

On a machine's first start that would take ten seconds and more of the trainer's own, one kernel after the other. The
processes need no GPU and see none; what they make lies in the package's cache on disk, where the trainer finds it. A
combination is tried once: if its process fails, the trainer compiles for itself, as it would have anyway.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autoexp.model.attention.flash import DTYPES, Kernel, cut
from autoexp.model.prepared import cache_folder

WAIT_SECONDS = 60.0

Processes = list[subprocess.Popen[bytes]]


def start(tokens: int, windows: Iterable[int], dtype: torch.dtype, head_dim: int, device: torch.device) -> Processes:
    """Start a process for each kind of kernel that `windows` need and that was never tried here.

    None where the package keeps nothing on disk: `load` has it do so unless the user says otherwise.
    """
    if os.environ.get("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED") != "1":
        return []
    facts = torch.cuda.get_device_properties(device)
    arch = f"sm_{facts.major}{facts.minor}"
    environ = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "FLASH_ATTENTION_ARCH": arch,
        "FLASH_ATTENTION_NUM_SMS": str(facts.multi_processor_count),
        "CUTE_DSL_ARCH": f"{arch}a",
    }
    code = "from autoexp.model.attention.fa4_ahead import main; main()"
    kinds = {"full" if window >= tokens - 1 else "window": window for window in windows}
    started = []
    for kind, window in kinds.items():
        name = f"{kind}-{tokens}-{head_dim}-{str(dtype).removeprefix('torch.')}-{arch}"
        if first_time(name):
            arguments = [str(tokens), str(window), str(DTYPES.index(dtype)), str(head_dim)]
            command = [sys.executable, "-c", code, *arguments]
            nothing = subprocess.DEVNULL
            started.append(subprocess.Popen(command, env=environ, stdin=nothing, stdout=nothing, stderr=nothing))
    return started


def first_time(name: str) -> bool:
    """Whether this is the first call with `name` for this version of the package, with this cache folder."""
    try:
        release = version("flash-attn-4")
    except PackageNotFoundError:  # installed by hand
        release = "0"
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    mark = Path(cache_folder() / "kernels" / "fa4-tried" / f"{release}-{python}-{name}")
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
    except OSError:  # it is there, or nothing can be kept and all would be for nothing
        return False
    return True


def wait(processes: Processes) -> None:
    """Wait until they are done, each for a bounded time, and end those that are not. The list is emptied."""
    while processes:
        process = processes.pop()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """What such a process does: run forward and backward on tensors that are only described."""
    from autoexp.model.attention.fa4 import load

    tokens, window, dtype, head_dim = map(int, sys.argv[1:])
    compile_for(load(), tokens, window, DTYPES[dtype], head_dim)


def compile_for(kernel: Kernel, tokens: int, window: int, dtype: torch.dtype, head_dim: int) -> None:
    """Have `kernel` compile what it needs for these; the size of the batch and the number of heads do not matter."""
    with FakeTensorMode():
        fused = torch.empty(2, tokens, 6, head_dim, dtype=dtype, device="cuda")
        q, k, v = torch.split(fused, 2, dim=2)
        out, lse = kernel.forward(q, k, v, cut(window, q))
        kernel.backward(torch.empty_like(out), q, k, v, out, lse, cut(window, q))
