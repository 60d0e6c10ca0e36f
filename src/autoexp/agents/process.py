"""One command with its prompt on stdin: limited in time and output, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from autoexp.agents.environment import environment
from autoexp.errors import AgentError, PreconditionError
from autoexp.workspace.marked import AGENT_CALL, agent_mark, die_with_parent, marked

KEEP = 8 * 1024 * 1024
"""Bytes of stdout and of stderr that are kept: the last ones, because the answer comes last."""
TICK = 0.1
"""Seconds between two looks at the clock and at `stop`."""
GRACE = 2.0
"""Seconds that processes get between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Ended:
    """What a command wrote and how it ended."""

    how: Literal["exited", "timeout", "stopped", "cut"]
    """`cut`: it was ended because `enough` said so."""
    code: int | None
    """Exit code, negative for a signal."""
    stdout: str
    stderr: str
    dropped: int
    """Bytes of output that were not kept."""
    seconds: float


class _Tail:
    """The last bytes of a stream of any length."""

    def __init__(self, keep: int) -> None:
        self.keep, self.size, self.dropped = keep, 0, 0
        self.chunks: deque[bytes] = deque()

    def add(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.size += len(chunk)
        while self.size - len(self.chunks[0]) >= self.keep:
            gone = len(self.chunks.popleft())
            self.size -= gone
            self.dropped += gone

    def text(self) -> str:
        return b"".join(self.chunks)[-self.keep :].decode(errors="replace").replace("\x00", "")


def run(
    command: Sequence[str],
    prompt: str,
    cwd: Path,
    timeout_seconds: float,
    stop: Callable[[], bool],
    *,
    hint: str = "",
    env: Mapping[str, str] | None = None,
    enough: Callable[[bytes], bool] | None = None,
    keep: int = KEEP,
) -> Ended:
    """Run `command` in `cwd`; whatever it started has ended when this returns, also when it raises.

    `env` is its whole environment; left out, what any program gets. `enough` is shown each new piece of output and
    says when there is no use in waiting for the end.
    Raises PreconditionError with `hint` when the program is not there, AgentError when it cannot be started.
    """
    # Agents run tools in sessions of their own, which the signal to the process group misses.
    mark = agent_mark(cwd) + uuid.uuid4().hex
    surroundings = environment() if env is None else env
    if not cwd.is_dir():
        raise AgentError(f"the folder to run {command[0]} in is gone: {cwd}", "autoexp resume")
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            # OpenCode believes PWD more than its working directory, and would work in the folder autoexp was typed in.
            env={**surroundings, "PWD": str(cwd.resolve()), AGENT_CALL: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise PreconditionError(f"{command[0]} cannot be run: {error.strerror}", hint) from error
    except (OSError, ValueError) as error:
        raise AgentError(f"{command[0]} cannot be started: {error}", "autoexp doctor") from error
    out, err = _Tail(keep), _Tail(keep)
    how: Literal["exited", "timeout", "stopped", "cut"] = "exited"
    try:
        with _Pipes(process, prompt.encode(errors="replace"), out, err, watched=enough is not None) as pipes:
            try:
                while process.poll() is None:
                    pipes.turn(TICK)
                    if enough is not None and pipes.fresh and enough(pipes.taken()):
                        how = "cut"
                        break
                    if stop():
                        how = "stopped"
                        break
                    if time.monotonic() - started > timeout_seconds:
                        how = "timeout"
                        break
            finally:
                _end(process, mark)
            pipes.drain()
    except OSError as error:  # no descriptor is left to watch it with, say
        _end(process, mark)
        raise AgentError(f"{command[0]} cannot be watched: {error.strerror}", "autoexp doctor") from error
    seconds = round(time.monotonic() - started, 3)
    return Ended(how, process.returncode, out.text(), err.text(), out.dropped + err.dropped, seconds)


class _Pipes:
    """The three pipes of a process, none of which can block."""

    def __init__(
        self, process: subprocess.Popen[bytes], prompt: bytes, out: _Tail, err: _Tail, watched: bool = False
    ) -> None:
        assert process.stdin and process.stdout and process.stderr
        self.files = (process.stdin, process.stdout, process.stderr)
        self.rest = memoryview(prompt)
        self.tails = {process.stdout.fileno(): out, process.stderr.fileno(): err}
        self.stdin = process.stdin
        self.watched, self.fresh = watched, list[bytes]()
        self.selector = selectors.DefaultSelector()

    def __enter__(self) -> _Pipes:
        for file in self.files:
            os.set_blocking(file.fileno(), False)
        self.selector.register(self.stdin, selectors.EVENT_WRITE)
        for descriptor in self.tails:
            self.selector.register(descriptor, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        self.selector.close()
        for file in self.files:
            with contextlib.suppress(OSError):
                file.close()

    def taken(self) -> bytes:
        """What came since the last time, of both streams."""
        taken, self.fresh = b"".join(self.fresh), []
        return taken

    def turn(self, wait: float) -> bool:
        """Move what can be moved within `wait` seconds; whether anything was."""
        if not self.selector.get_map():
            time.sleep(wait)
            return False
        ready = self.selector.select(wait)
        for key, _ in ready:
            if key.fileobj is self.stdin:
                self._write()
            else:
                self._read(key.fd)
        return bool(ready)

    def drain(self) -> None:
        """Take in what is left in the pipes. A survivor may hold them open or go on writing: it is not waited for."""
        until = time.monotonic() + GRACE
        with contextlib.suppress(KeyError, ValueError):  # closed already, when all of the prompt was taken
            self.selector.unregister(self.stdin)
        while self.selector.get_map() and time.monotonic() < until and self.turn(0):
            pass

    def _write(self) -> None:
        try:
            self.rest = self.rest[os.write(self.stdin.fileno(), self.rest[:65536]) :]
        except BlockingIOError:
            return
        except OSError:  # it does not read its stdin, which is its own affair
            self.rest = self.rest[:0]
        if not self.rest:
            self.selector.unregister(self.stdin)
            with contextlib.suppress(OSError):
                self.stdin.close()

    def _read(self, descriptor: int) -> None:
        try:
            chunk = os.read(descriptor, 65536)
        except BlockingIOError:
            return
        if chunk:
            self.tails[descriptor].add(chunk)
            if self.watched:  # else nobody takes them, and there is no end to what an agent may print
                self.fresh.append(chunk)
        else:
            self.selector.unregister(descriptor)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the process, its group and all that carry the mark: SIGTERM, then SIGKILL until none is left."""
    number, until = signal.SIGTERM, time.monotonic() + GRACE
    _signal(process.pid, mark, number)
    while process.poll() is None or _living(process.pid, mark):
        if time.monotonic() > until:
            if number == signal.SIGKILL:  # not even that: stuck in the kernel, and no use waiting for
                return
            number, until = signal.SIGKILL, time.monotonic() + GRACE
        if number == signal.SIGKILL:
            _signal(process.pid, mark, number)
        time.sleep(0.02)


def _signal(group: int, mark: str, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    for process in _living(group, mark):
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)


def _living(group: int, mark: str) -> list[psutil.Process]:
    """Processes of the group, or with the mark, that are more than a zombie."""
    found = marked(AGENT_CALL, mark.__eq__)
    known = {process.pid for process in found}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile, or is another user's
            inside = process.pid not in known and os.getpgid(process.pid) == group
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
