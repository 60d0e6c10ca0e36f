"""The journal: one event a line, appended and fsynced, never rewritten. A torn last line is cut off.

Read and append is all there is. Who may append holds the run's lock (`autoexp.workspace.locks`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

from pydantic import ValidationError

from autoexp.errors import DiskFullError, JournalError
from autoexp.runs.events import ADAPTER, FORMAT, Event


def encode(event: Event) -> bytes:
    """One line, newline included. Lone surrogates, which UTF-8 has no bytes for, become question marks."""
    try:
        line = event.model_dump_json().encode()
    except ValueError:  # an event that cannot be written would stop the run here on every resume
        line = json.dumps(event.model_dump(mode="json"), ensure_ascii=False).encode(errors="replace")
    return line + b"\n"


def decode(line: bytes, path: Path, number: int) -> Event:
    """The event of a line. Raises JournalError, and says so when a newer release wrote it."""
    try:
        return ADAPTER.validate_json(line)
    except ValidationError as error:
        raise _explain(line, path, number, error) from error


def _explain(line: bytes, path: Path, number: int, error: ValidationError) -> JournalError:
    where = f"{path}, line {number}"
    try:
        fields = json.loads(line)
    except ValueError:
        return JournalError(
            f"damaged line in the journal: {where}", f"restore {path.name} from a backup, then autoexp resume"
        )
    known = isinstance(fields, dict) and not any(
        e["type"] in ("union_tag_invalid", "extra_forbidden") for e in error.errors()
    )
    if not known or (isinstance(fields.get("format"), int) and fields["format"] > FORMAT):
        return _newer(where)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return JournalError(f"cannot read the journal's state: {where}: {place}: {first['msg']}", "autoexp log")


def _newer(where: str) -> JournalError:
    return JournalError(
        f"the run's state was written by a newer release of autoexp: {where}", "pip install --upgrade autoexp"
    )


def read(path: Path, offset: int = 0) -> list[Event]:
    """The event of every whole line from byte `offset` on; a torn last line is left out.

    Raises JournalError when a line is damaged, a newer release wrote it, or the file holds no event.
    """
    check(path)
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [decode(line, path, number) for number, line in enumerate(lines, 1)]


def check(path: Path) -> None:
    """Look at the first line only. Raises JournalError when there is none, or a newer release wrote the journal."""
    try:
        with path.open("rb") as file:
            line = file.readline()
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {error.strerror}", "autoexp status") from error
    if not line.endswith(b"\n"):
        raise JournalError(f"the journal is empty: {path}", "autoexp start")
    first = decode(line, path, 1)
    if getattr(first, "format", 0) > FORMAT:
        raise _newer(f"{path}, line 1")


class Journal:
    """The open journal of a session. `size` is its length in bytes after the last append."""

    def __init__(self, path: Path) -> None:
        """Open for appending, cutting off a torn last line. Raises JournalError when it is not there."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"cannot open the journal {path}: {error.strerror}", "autoexp status") from error
        data = path.read_bytes()
        self.size = data.rfind(b"\n") + 1
        self._written = bytearray(data[: self.size])
        self._hash = hashlib.sha256(self._written)
        if self.size < len(data):
            os.ftruncate(self._fd, self.size)
            os.fsync(self._fd)

    def append(self, event: Event) -> None:
        """Add one event, durably: it is on the disk when this returns.

        Raises DiskFullError or JournalError; the file then ends as it did before.
        """
        line = encode(event)
        self._put_back()
        try:
            written = os.write(self._fd, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"no space left for {self.path}", "free some space, then: autoexp resume"
                ) from error
            raise JournalError(f"cannot write {self.path}: {error.strerror}", "autoexp resume") from error
        self.size += len(line)
        self._written += line
        self._hash.update(line)

    @property
    def sha256(self) -> str:
        """Of all that is in it."""
        return self._hash.hexdigest()

    def _put_back(self) -> None:
        """Somebody removed, replaced, cut or lengthened the open file: it is written again as this session knows it.

        Nobody else may write in it while the lock is held. A line that an agent adds is no event of the run.
        """
        try:
            there, here = self.path.stat(), os.fstat(self._fd)
            if (there.st_dev, there.st_ino, there.st_size) == (here.st_dev, here.st_ino, self.size):
                return
        except OSError:
            pass
        copy = self.path.with_name(f".{self.path.name}.again")
        try:
            copy.write_bytes(self._written)
            os.replace(copy, self.path)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"the journal {self.path} was removed: {error.strerror}", "autoexp status") from error
        os.close(self._fd)
        self._fd = descriptor

    def close(self) -> None:
        os.close(self._fd)


def create(path: Path, events: list[Event]) -> None:
    """Write a new journal whole. Raises FileExistsError when there is one."""
    with path.open("xb") as file:
        file.write(b"".join(encode(event) for event in events))
        file.flush()
        os.fsync(file.fileno())
