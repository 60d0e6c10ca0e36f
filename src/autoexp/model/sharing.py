"""Memory that judge and examinee both see: token ids one way, logits the other.

In main memory it is a file without a name, of a size that nobody can change; on a GPU, a piece of the judge's memory
that CUDA lets another process open. What is in it is whatever the examinee wants at any moment, so the judge copies
first and looks then.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import math
import mmap
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNED = 4096
SEALS = 0x0001 | 0x0002 | 0x0004  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW: a shrunk file would kill its readers
ADD_SEALS = 1033  # fcntl's F_ADD_SEALS


def nameless() -> int:
    """A descriptor of a new, empty file that lies in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("autoexp-exam", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Sheet:
    """`rows` rows of `tokens` ids, int64, and after them their logits, (rows, tokens, vocab) float32."""

    def __init__(self, descriptor: int, rows: int, tokens: int, vocab: int, logits: bool = True) -> None:
        ids = -(-rows * tokens * 8 // ALIGNED) * ALIGNED
        self.size = ids + (rows * tokens * vocab * 4 if logits else 0)
        if os.fstat(descriptor).st_size < self.size:
            os.ftruncate(descriptor, self.size)
            with contextlib.suppress(OSError):  # a file of the file system knows no seals
                fcntl.fcntl(descriptor, ADD_SEALS, SEALS)
        self.map = mmap.mmap(descriptor, self.size)
        self.ids: npt.NDArray[np.int64] = np.frombuffer(self.map, np.int64, rows * tokens).reshape(rows, tokens)
        shape = (rows, tokens, vocab) if logits else (0, tokens, vocab)
        floats = np.frombuffer(self.map, np.float32, math.prod(shape), offset=ids if logits else 0)
        self.logits: npt.NDArray[np.float32] = floats.reshape(shape)


class OnDevice:
    """The interface by which torch takes memory for a tensor without a copy."""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (pointer, False),
            "version": 3,
            "strides": None,
        }


class Handle(ctypes.Structure):
    """cudaIpcMemHandle_t."""

    _fields_ = [("reserved", ctypes.c_char * 64)]


def runtime() -> Any:
    """CUDA's runtime library, the one that torch has loaded. Raises OSError where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if match := re.search(r"(/\S*libcudart[^/\s]*\.so[^/\s]*)$", line):
                return ctypes.CDLL(match[1])
    raise OSError("CUDA's runtime library is not loaded")


def lend(shape: tuple[int, ...]) -> tuple[Any, str]:
    """A new tensor on the current GPU, float32, and the word by which another process can open it.

    It lives as long as this process. Raises OSError when CUDA will not share it.
    """
    import torch

    cuda, pointer, handle = runtime(), ctypes.c_void_p(), Handle()
    code = cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4 * math.prod(shape)))
    code = code or cuda.cudaIpcGetMemHandle(ctypes.byref(handle), pointer)
    if code or pointer.value is None:
        raise OSError(f"CUDA error {code}")
    word = base64.b64encode(ctypes.string_at(ctypes.byref(handle), ctypes.sizeof(handle))).decode()
    return torch.as_tensor(OnDevice(pointer.value, shape), device="cuda"), word


def borrow(word: str, shape: tuple[int, ...]) -> Any:
    """The tensor that another process lent under this word. Raises OSError when it cannot be opened."""
    import torch

    cuda, pointer, handle = runtime(), ctypes.c_void_p(), Handle()
    raw = base64.b64decode(word)
    ctypes.memmove(ctypes.byref(handle), raw, ctypes.sizeof(handle))
    cuda.cudaIpcOpenMemHandle.argtypes = [ctypes.POINTER(ctypes.c_void_p), Handle, ctypes.c_uint]
    code = cuda.cudaIpcOpenMemHandle(ctypes.byref(pointer), handle, 1)  # cudaIpcMemLazyEnablePeerAccess
    if code or pointer.value is None:
        raise OSError(f"CUDA error {code}")
    return torch.as_tensor(OnDevice(pointer.value, shape), device="cuda")
