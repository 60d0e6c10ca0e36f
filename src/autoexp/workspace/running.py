"""A command run to its end in a process group of its own, at most one at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from autoexp.workspace.locks import Lock

GRACE_SECONDS = 3.0
"""Between asking a command to end and making it."""
POLL_SECONDS = 0.05


class Stopped(Exception):
    """`stop` said so, or the time is over: what ran was ended, with all that it started."""


def taken(lock: Lock, stop: Callable[[], bool], waits: Callable[[], None] = lambda: None) -> None:
    """Take a lock that the command of a killed session may still hold; `waits` is called once if so.

    Raises Stopped when `stop` says so.
    """
    if lock.acquire():
        return
    waits()
    while not lock.acquire(wait_seconds=POLL_SECONDS):
        if stop():
            raise Stopped


def run(
    command: Sequence[str],
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
    lock: Lock | None = None,
    stdin: int | None = None,
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | int | None = None,
    reads: Callable[[IO[bytes]], None] | None = None,
) -> int:
    """Run a command to its end; returns its exit code. `reads` is given its stderr, when that is a pipe.

    A taken `lock` is handed to the command itself, so that it is held as long as the command lives, whatever happens
    to the caller; at the end it is free. Raises Stopped when `stop` said so first.
    """
    descriptor = lock.descriptor if lock is not None else None
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=() if descriptor is None else (descriptor,),
        start_new_session=True,
    )
    try:
        if reads is not None and process.stderr is not None:
            with process.stderr as stream:
                reads(stream)
        while process.poll() is None:
            if stop():
                raise Stopped
            time.sleep(POLL_SECONDS)
    except BaseException as error:
        if process.poll() is None:
            # in a group of its own it does not hear the Ctrl-C of a terminal
            _end(process, signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        raise
    finally:
        if lock is not None and descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a daemon that it left behind would hold it for ever
            lock.release()
    return process.returncode


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """A signal for the whole group, SIGKILL for what is left of it after the grace."""
    deadline = time.monotonic() + GRACE_SECONDS
    with suppress(ProcessLookupError, PermissionError):  # nobody is left
        while True:
            os.killpg(process.pid, number)
            if number == signal.SIGKILL:
                break
            while time.monotonic() < deadline:
                process.poll()  # else it would stay in its group
                os.killpg(process.pid, 0)
                time.sleep(POLL_SECONDS)
            number = signal.SIGKILL
    process.wait()
