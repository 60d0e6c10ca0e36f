"""The next trainer's process, started while a training runs: the end of its keeper, whose child it is."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from autoexp.executors import confining, processes
from autoexp.executors.confining import Confining
from autoexp.executors.environment import by_job

TAKE_SECONDS = 60.0
"""How long it may take to answer. It is importing, perhaps; an import that hangs would hang in a new process too."""
LOOK_SECONDS = 0.05


class Waiting:
    """A process that has begun before its job is known. `began` is when, by the monotonic clock."""

    def __init__(self, key: str, told: Mapping[str, Any], preexec_fn: Callable[[], None] | None) -> None:
        """Start it as it was told by the session's end. Raises OSError or ValueError when it cannot be started."""
        command, env = told["command"], told["env"]
        self.seat: Confining | None = None
        if told["isolation"]:
            Path(told["seat"]).mkdir()
            self.seat = Confining(told, Path(told["seat"]))
            self.seat.make()
            command, env = self.seat.started_with(command, env)
            preexec_fn = self.seat.limited(preexec_fn)
        self.key = key
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            env={**env, processes.JOB: key},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            preexec_fn=preexec_fn,
        )
        self.taken, self.said = False, b""

    def take(
        self, command: Sequence[str], cwd: str, env: Mapping[str, str], log: Path, cancelled: Callable[[], bool]
    ) -> bool:
        """Make it the trainer of a job: all of that as it is true where it stands by.

        False when it cannot be: then it has ended, and nothing of the job has run.
        """
        job = {"argv": list(command), "cwd": cwd, "env": by_job(env), "log": str(log), "since": time.monotonic()}
        line = json.dumps(job).encode() + b"\n"
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(OSError):  # it is gone
            os.set_blocking(self.process.stdin.fileno(), False)  # it may be busy importing, and the pipe small
            self.taken = self.process.stdin.write(line) == len(line) and self._says(b"taken\n", cancelled)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()
        if self.taken:
            self.leave()
        else:
            self.end()
        return self.taken

    def settled(self, cancelled: Callable[[], bool]) -> bool:
        """Wait until it has begun: from then on it sees its seat, whatever becomes of that folder's name."""
        if not self._says(b"ready\n", cancelled):
            self.end()
            return False
        return True

    def _says(self, word: bytes, cancelled: Callable[[], bool]) -> bool:
        assert self.process.stdout is not None
        deadline = time.monotonic() + TAKE_SECONDS
        while word not in self.said:
            if time.monotonic() >= deadline or cancelled():
                return False
            if select.select([self.process.stdout], [], [], LOOK_SECONDS)[0]:
                part = os.read(self.process.stdout.fileno(), 4096)
                if not part:
                    return False
                self.said += part
        return True

    def cpu_seconds(self) -> float:
        """The processor time of it and all that it has started."""
        spent = 0.0
        with suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            for process in (first, *first.children(recursive=True)):
                with suppress(psutil.Error):
                    spent += sum(process.cpu_times()[:2])
        return spent

    def end(self) -> None:
        """End it and all that it started, unless it has a job."""
        if self.taken:
            return
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        processes.end(self.key, grace_seconds=0.0, others=processes.descendants)
        with suppress(subprocess.TimeoutExpired):  # one in the hands of the kernel may take for ever
            self.process.wait(processes.KILL_SECONDS)
        self.leave()

    def leave(self) -> None:
        """Remove what is left of its seat."""
        if self.seat is not None:
            confining.leave(self.seat.folder)
