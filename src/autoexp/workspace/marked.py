"""Processes that belong together: found by a variable that they began with, and that all they start inherits.

No stored process id is trusted, since ids are used again for other programs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

AGENT_CALL = "AUTOEXP_AGENT_CALL"
"""Set for what a call of an agent starts, to a text that begins with `agent_mark` of the folder it works in."""
_PR_SET_PDEATHSIG = 1


def marked(name: str, wanted: Callable[[str], bool]) -> list[psutil.Process]:
    """Every living process of this user whose variable `name` is `wanted`, the caller left out."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            if process.pid == os.getpid():
                continue
            value = process.environ().get(name)
            if value is not None and wanted(value) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def agent_mark(folder: os.PathLike[str] | str) -> str:
    """How the marks of the calls begin that work in `folder`, or below it."""
    return f"{os.path.realpath(folder)}/"


def end_agents(folder: os.PathLike[str] | str, grace_seconds: float = 2.0) -> list[str]:
    """End what calls of agents in `folder` have left behind: SIGTERM, then SIGKILL until none is left.

    Returns the names of what was there.
    """
    prefix = agent_mark(folder)
    names: dict[int, str] = {}
    until, last = time.monotonic() + grace_seconds, time.monotonic() + 2 * grace_seconds
    while (found := marked(AGENT_CALL, lambda mark: mark.startswith(prefix))) and time.monotonic() < last:
        late = time.monotonic() > until
        for process in found:
            with suppress(psutil.Error, OSError):
                if late or process.pid not in names:
                    names[process.pid] = process.name()
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.02)
    return sorted(names.values())


def die_with_parent(number: int = signal.SIGKILL) -> Callable[[], None] | None:
    """For `preexec_fn`: ask the kernel for this signal when the thread that starts the process dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    return lambda: prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
