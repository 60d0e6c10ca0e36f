"""The processes of a job, found by the job's key in their environment: no pid is trusted, none is missed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil

JOB = "AUTOEXP_JOB"


def of_job(key: str) -> list[psutil.Process]:
    """Every live process of this user that carries the job's key, the caller left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.environ().get(JOB) == key
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return found


def end(key: str, grace_seconds: float = 1.0, descendants: bool = False) -> None:
    """End a job's processes: SIGTERM, and SIGKILL for those that are still there after the grace.

    Repeated until none is left, since a dying process may have started another.
    With `descendants`, the caller's own children count too: a keeper is their subreaper.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + grace_seconds
    while True:
        alive = {process.pid: process for process in of_job(key)}
        if descendants:
            alive |= {child.pid: child for child in _children()}
        if not alive:
            return
        for pid, process in alive.items():
            late = time.monotonic() >= deadline
            if late or pid not in asked:
                asked.add(pid)
                _signal(process, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.02)


def _children() -> list[psutil.Process]:
    living = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                _reap(child.pid)
            else:
                living.append(child)
        except psutil.Error:
            continue
    return living


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # not ours to reap: its own parent is still there
        os.waitpid(pid, os.WNOHANG)


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.Error, OSError):  # gone
        process.send_signal(number)  # psutil compares start times first: a reused pid is not hit
