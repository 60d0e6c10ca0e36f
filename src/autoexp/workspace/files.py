"""Files that no reader ever sees half written."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

from autoexp.errors import AutoexpError, DiskFullError


def write_atomic(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` in one step, by a temporary file beside it and a rename. Text is written as `encoded` says.

    One that is not `durable` does not wait for the disk: a view that a power cut leaves old or torn is made again.

    Raises DiskFullError, or AutoexpError with the system's reason. The old file is then as it was.
    """
    raw = encoded(data) if isinstance(data, str) else data
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            if durable:
                file.flush()
                os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise explained(error, path) from error


def encoded(text: str) -> bytes:
    """UTF-8; the bytes that were none when they were read come back as they were. No text is refused."""
    text = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text)  # these surrogates stand for no byte
    return text.encode(errors="surrogateescape")


def explained(error: OSError, path: Path) -> AutoexpError:
    """The error that a person reads for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"no space left for {path}", "free some space, then: autoexp resume")
    return AutoexpError(f"cannot write {path}: {error.strerror}", "autoexp doctor")


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a file as text; undecodable bytes are replaced, NULs dropped. '' if it is missing."""
    try:
        # a pipe in the file's place would keep whoever opens it waiting
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read(size).decode(errors="replace").replace("\x00", "")
    except OSError:
        return ""


def head_of(text: str, size: int) -> str:
    """The first `size` bytes of a text, on one line, with an ellipsis where there was more."""
    raw = " ".join(text.split()).encode(errors="replace")
    return raw.decode() if len(raw) <= size else raw[: size - 3].decode(errors="ignore") + "…"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
