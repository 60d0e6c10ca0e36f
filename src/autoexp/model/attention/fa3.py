"""FlashAttention 3: compiled kernels, from a local build or through the package `kernels` from the Hugging Face hub.

Installing `kernels` is what says that binaries from the hub may be run. They are looked for in its cache, without
network; if they are not there, a process with a deadline fetches them, and if that fails nobody tries for an hour:
a trial must not wait for a network at every start.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from autoexp.model.attention.flash import Kernel
from autoexp.model.prepared import cache_folder

LOCAL_BUILDS = ("flash_attn_interface", "flash_attn_3.flash_attn_interface")
HOPPER, OTHERS = "varunneal/flash-attention-3", "kernels-community/flash-attn3"

FETCH_SECONDS = 180.0
RETRY_SECONDS = 3600.0


def load() -> Kernel:
    """The kernel. Raises ImportError if it is not there and cannot be got, and whatever a broken one raises."""
    for name in LOCAL_BUILDS:
        if find_spec(name.partition(".")[0]) and find_spec(name):
            return FlashAttention3(import_module(name))
    if not find_spec("kernels"):
        raise ImportError("neither FlashAttention 3 nor the package kernels is installed: pip install kernels")
    repository = HOPPER if torch.cuda.get_device_capability() == (9, 0) else OTHERS
    return FlashAttention3(find(repository))


def find(repository: str) -> Any:
    """The kernel's module of functions from the hub's cache, fetched into it if need be. Raises ImportError."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # for this process, read at the first import of huggingface_hub
    try:
        return from_hub(repository)
    except Exception as error:  # not cached; which of many errors says so depends on the release
        if offline:
            raise ImportError(f"{repository} is not in the hub's cache, and HF_HUB_OFFLINE is set") from error
    fetch(repository)
    try:
        return from_hub(repository)
    except Exception as error:
        raise ImportError(f"{repository} was fetched and cannot be loaded: {error}") from error


def fetch(repository: str) -> None:
    """Fill the hub's cache, in a process that is ended after FETCH_SECONDS. Raises ImportError if it stays empty."""
    failed = cache_folder() / "kernels" / f"{repository.replace('/', '--')}.failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        raise ImportError(f"{repository} could not be fetched within the last hour: {failed.read_text()}")
    code = "import sys; from autoexp.model.attention.fa3 import from_hub; from_hub(sys.argv[1])"
    environ = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": "10"}
    try:
        command = [sys.executable, "-c", code, repository]
        subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        reason = f"not done after {FETCH_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
    else:
        failed.unlink(missing_ok=True)
        return
    failed.parent.mkdir(parents=True, exist_ok=True)
    failed.write_text(reason)
    raise ImportError(f"{repository} cannot be fetched: {reason}")


def from_hub(repository: str) -> Any:
    """The kernel's module of functions, by the package `kernels`, whose releases ask for different arguments."""
    get_kernel = import_module("kernels").get_kernel
    known = inspect.signature(get_kernel).parameters
    trust = {"trust_remote_code": [repository]} if "trust_remote_code" in known else {}
    try:
        kernel = get_kernel(repository, revision="main", **trust)
    except Exception:
        if "version" not in known:
            raise
        kernel = get_kernel(repository, version=1, **trust)
    return kernel.flash_attn_interface


class FlashAttention3:
    """The functions below the package's own autograd, which have had two sets of argument names so far."""

    def __init__(self, interface: Any) -> None:
        self.run, self.run_takes = plain(interface._flash_attn_forward)
        self.differentiate, self.differentiate_takes = plain(interface._flash_attn_backward)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        arguments = span(window, self.run_takes) | {"softmax_scale": q.size(-1) ** -0.5}
        out, lse, *_ = self.run(q=q, k=k, v=v, **blanks(self.run_takes) | arguments)
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
        arguments = span(window, self.differentiate_takes) | {
            "dout": grad,
            "out": out,
            "softmax_lse": lse,
            "dq": dq,
            "dk": dk,
            "dv": dv,
            "softmax_scale": q.size(-1) ** -0.5,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        self.differentiate(q=q, k=k, v=v, **blanks(self.differentiate_takes) | arguments)
        return dq, dk, dv


Takes = Mapping[str, inspect.Parameter]


def plain(function: Any) -> tuple[Callable[..., Any], Takes]:
    """The Python function in what may be an operator of torch made of it, and its parameters."""
    function = getattr(function, "_init_fn", function)
    return function, inspect.signature(function).parameters


def blanks(takes: Takes) -> dict[str, Any]:
    """None for all that must be given: the arguments for cached keys, packed rows, rotary embeddings and the like."""
    given = ("q", "k", "v")
    return {name: None for name, one in takes.items() if one.default is one.empty and name not in given}


def span(window: int | None, takes: Takes) -> dict[str, Any]:
    """`window` in the words of a function that takes `takes`."""
    left, right = (-1, -1) if window is None else (window, 0)
    causal = "is_causal" if "is_causal" in takes else "causal"
    if "window_size" in takes:
        return {causal: window is None, "window_size": (left, right)}
    return {causal: window is None, "window_size_left": left, "window_size_right": right}
