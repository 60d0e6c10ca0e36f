"""Asking the trainer package, which is never imported here: it is another process, and its errors are two lines."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from autoexp.errors import AutoexpError, PreconditionError, UsageError

PACKAGE = "autoexp.model"
TRAINER_SECONDS = 120.0
"""How long it may take to say something about itself."""


def trainer(module: str, *args: str) -> tuple[int, dict[str, Any]]:
    """Run a command of the trainer package that ends with a line of JSON: (exit code, the line).

    It runs in a process of its own: torch has no place in this one. Raises the error that it printed.
    """
    command = [sys.executable, "-m", f"{PACKAGE}.{module}", *args]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=TRAINER_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise AutoexpError(f"{PACKAGE}.{module} said nothing for {TRAINER_SECONDS:g} s", "autoexp doctor") from error
    lines = ended.stdout.strip().splitlines()
    if lines and lines[-1].startswith("{"):
        return ended.returncode, json.loads(lines[-1])
    raise told(ended.stderr, ended.returncode, f"{PACKAGE}.{module} failed")


def told(stderr: str, code: int, otherwise: str) -> AutoexpError:
    """The error that the trainer printed, with its exit code: 3 for what is missing, 2 for a bad option, else 1."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    what = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
    hint = next((line.removeprefix("  try: ") for line in reversed(lines) if line.startswith("  try: ")), "")
    if not what:
        what = f"{otherwise} (exit {code})" + (f": {lines[-1].strip()}" if lines else "")
    kind = {2: UsageError, 3: PreconditionError}.get(code, AutoexpError)
    return kind(what, hint or "autoexp doctor")
