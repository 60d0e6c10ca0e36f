"""Memory that judge and examinee both see: token ids one way, logits the other.

In main memory it is a file without a name, of a size that nobody can change; on a GPU, memory of the judge's that CUDA
lets another process map. What is in it is whatever the examinee wants at any moment, so the judge copies
first and looks then.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import mmap
import os
import tempfile
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


class Place(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class Kind(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("handles", ctypes.c_int),
        ("place", Place),
        ("metadata", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    ]


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = [("place", Place), ("flags", ctypes.c_int)]


DEVICE, PINNED, DESCRIPTOR, READ_WRITE = 1, 1, 1, 3  # of CUmemLocationType, and so on


def lend(shape: tuple[int, ...]) -> tuple[Any, int]:
    """A new tensor on the current GPU, float32, and a descriptor by which another process can map its memory.

    A descriptor can be handed into any namespace; the handles of cudaIpcGetMemHandle want both processes in one. The
    memory is there as long as somebody has it mapped. Raises OSError when CUDA will not share it.
    """
    kind, size = _kind(shape)
    handle, descriptor = ctypes.c_uint64(), ctypes.c_int(-1)
    _driver("cuMemCreate", ctypes.byref(handle), ctypes.c_size_t(size), ctypes.byref(kind), ctypes.c_uint64(0))
    tensor = _mapped(handle, kind, size, shape)
    _driver("cuMemExportToShareableHandle", ctypes.byref(descriptor), handle, DESCRIPTOR, ctypes.c_uint64(0))
    return tensor, descriptor.value


def borrow(descriptor: int, shape: tuple[int, ...]) -> Any:
    """The tensor that another process lent by this descriptor. Raises OSError when it cannot be had."""
    kind, size = _kind(shape)
    handle = ctypes.c_uint64()
    _driver("cuMemImportFromShareableHandle", ctypes.byref(handle), ctypes.c_void_p(descriptor), DESCRIPTOR)
    return _mapped(handle, kind, size, shape)


def _kind(shape: tuple[int, ...]) -> tuple[Kind, int]:
    """(what memory is to be had for a tensor, how many bytes: whole pages of the current GPU's)."""
    import torch

    torch.zeros(1, device="cuda")  # with the first tensor, the driver knows the device
    kind = Kind(type=PINNED, handles=DESCRIPTOR, place=Place(DEVICE, torch.cuda.current_device()))
    page = ctypes.c_size_t()
    _driver("cuMemGetAllocationGranularity", ctypes.byref(page), ctypes.byref(kind), 0)
    return kind, -(-4 * math.prod(shape) // page.value) * page.value


def _mapped(handle: ctypes.c_uint64, kind: Kind, size: int, shape: tuple[int, ...]) -> Any:
    """A tensor in the memory behind a handle, from now on until this process ends."""
    import torch

    pointer, none = ctypes.c_uint64(), ctypes.c_uint64(0)
    _driver("cuMemAddressReserve", ctypes.byref(pointer), ctypes.c_size_t(size), ctypes.c_size_t(0), none, none)
    _driver("cuMemMap", pointer, ctypes.c_size_t(size), ctypes.c_size_t(0), handle, none)
    access = Access(kind.place, READ_WRITE)
    _driver("cuMemSetAccess", pointer, ctypes.c_size_t(size), ctypes.byref(access), ctypes.c_size_t(1))
    assert pointer.value is not None
    return torch.as_tensor(OnDevice(pointer.value, shape), device="cuda")


def _driver(name: str, *arguments: Any) -> None:
    """Call CUDA's driver. Raises OSError when it is not there, or does not do it."""
    try:
        code = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    except AttributeError as error:
        raise OSError(f"this CUDA driver is too old: {error}") from error
    if code:
        raise OSError(f"{name}: CUDA error {code}")
