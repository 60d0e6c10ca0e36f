"""The processes of a job, found by the job's key in their environment: no pid is trusted, none is missed.

What counts is the environment that a process began with. One that stood by before its job was known began with a key of
its own, and what it starts carries the job's: such a job has two keys.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import psutil

from autoexp.workspace.marked import marked

JOB = "AUTOEXP_JOB"
CONFINES = "bwrap"
"""The name of what holds confined processes. It ends by itself with them, and they would with it, at once."""
KILL_SECONDS = 10.0
"""How long after the first SIGKILL a process may take to be gone. One in an uninterruptible sleep takes for ever."""


def keys_of(job: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a job's training by its job.json: its own, then that of the process that stood by, if one did."""
    return tuple(str(job[name]) for name in ("key", "standby") if name in job)


def judge_key(key: str) -> str:
    """The key of the processes that evaluate what a job has trained."""
    return f"{key}:judge"


def all_keys_of(job: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of all processes of a job, those that evaluate it included."""
    return (*keys_of(job), *([judge_key(str(job["key"]))] if job.get("evaluation") else []))


def of_job(*keys: str) -> list[psutil.Process]:
    """Every live process of this user that carries a key of the job, the caller left out. None for an empty key."""
    wanted = set(keys) - {""}
    return marked(JOB, wanted.__contains__) if wanted else []


def end(*keys: str, grace_seconds: float = 1.0, others: Callable[[], Iterable[psutil.Process]] = list) -> list[str]:
    """End the processes of a job, or of several: SIGTERM, and SIGKILL for those that are still there after the grace.

    Repeated until none is left, since a dying process may have started another. `others` are asked for each time
    and ended too: those that are known by something else than the key.
    Returns the names of those that are still there: not ours to signal, or too long in the kernel's hands to die.
    """
    asked: set[int] = set()
    foreign: dict[int, str] = {}
    deadline = time.monotonic() + grace_seconds
    while True:
        found = {process.pid: process for process in (*of_job(*keys), *others())}
        alive = {pid: process for pid, process in found.items() if pid not in foreign}
        if not alive:
            return sorted(name for pid, name in foreign.items() if pid in found)
        if time.monotonic() >= deadline + KILL_SECONDS:
            return sorted({*foreign.values(), *map(_name, alive.values())})
        for pid, process in alive.items():
            late = time.monotonic() >= deadline
            if late or (pid not in asked and _name(process, "") != CONFINES):
                asked.add(pid)
                if not _signal(process, signal.SIGKILL if late else signal.SIGTERM):
                    foreign[pid] = _name(process)
        time.sleep(0.02)


def descendants(of: psutil.Process | None = None) -> list[psutil.Process]:
    """The living children of a process (the caller), and theirs. A keeper is the subreaper of all that it started, so
    those are among them that have left its session and cleared their environment.
    """
    living = []
    try:
        children = (of or psutil.Process()).children(recursive=True)
    except psutil.Error:
        return []
    for child in children:
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                living.append(child)
    return living


def _signal(process: psutil.Process, number: int) -> bool:
    """False when it is not ours to signal."""
    try:
        process.send_signal(number)  # psutil compares start times first: a reused pid is not hit
    except (psutil.AccessDenied, PermissionError):
        return False
    except (psutil.Error, OSError):
        pass  # gone
    return True


def _name(process: psutil.Process, number: str = " ({})") -> str:
    name = "a process"
    with suppress(psutil.Error, OSError):
        name = process.name()
    return name + number.format(process.pid)
