"""The seal of a record: HMAC-SHA256 with a key that no training sees. Without torch, so that any command can check one.

It says that who had the run's key wrote the record. On a machine where trainings are not kept from the run's folder
they can read the key, and it says no more than a checksum does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexp.errors import RunError
from autoexp.workspace.paths import EVALUATION_FILE

KEY_BYTES = 32
RECORD_BYTES = 1 << 20
"""A larger file is no evaluation."""


def ensure_key(path: Path) -> bytes:
    """The key in `path`, mode 0600; made when it is not there. Raises RunError for a file that is no key, OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return read_key(path)
    with os.fdopen(descriptor, "wb") as file:
        key = secrets.token_bytes(KEY_BYTES)
        file.write(key.hex().encode() + b"\n")
        file.flush()
        os.fsync(descriptor)
    return key


def read_key(path: Path) -> bytes:
    """The key in `path`. Raises RunError when there is none that can be used."""
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise RunError(f"{path} holds no key to check the run's evaluations with", "autoexp start")
    return key


def canonical(record: Mapping[str, Any]) -> bytes:
    """The bytes that are sealed: JSON with sorted keys. Raises ValueError for what JSON has no word for, like NaN."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def seal(key: bytes, record: Mapping[str, Any]) -> str:
    """The seal of `record`, 64 hex digits."""
    return hmac.new(key, canonical(record), hashlib.sha256).hexdigest()


def holds(key: bytes, record: Mapping[str, Any], written: object) -> bool:
    """Whether `written` is the seal of `record`."""
    if not isinstance(written, str):
        return False
    try:
        return hmac.compare_digest(seal(key, record), written)
    except (TypeError, ValueError):
        return False


def sealed(key: bytes, record: Mapping[str, Any]) -> dict[str, Any]:
    """What is written to evaluation.json."""
    return {"evaluation": dict(record), "seal": seal(key, record)}


def read_sealed(folder: Path, key: bytes) -> tuple[dict[str, Any], str] | None:
    """(the record in evaluation.json of a job's folder, its seal); None for anything that this key did not seal."""
    try:
        descriptor = os.open(folder / EVALUATION_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            raw = file.read(RECORD_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        found = json.loads(raw) if len(raw) <= RECORD_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    record = found.get("evaluation")
    if not isinstance(record, dict) or not holds(key, record, found.get("seal")):
        return None
    return record, str(found["seal"])
