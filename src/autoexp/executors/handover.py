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

from autoexp.executors import processes
from autoexp.executors.environment import by_job

TAKE_SECONDS = 60.0
"""How long it may take to answer. It is importing, perhaps; an import that hangs would hang in a new process too."""
LOOK_SECONDS = 0.05


class Waiting:
    """A process that has begun before its job is known. `began` is when, by the monotonic clock."""

    def __init__(
        self, key: str, command: Sequence[str], env: Mapping[str, str], preexec_fn: Callable[[], None] | None
    ) -> None:
        """Start it. Raises OSError or ValueError when it cannot be started."""
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
        self.taken = False

    def take(
        self, command: Sequence[str], cwd: str, env: Mapping[str, str], log: Path, cancelled: Callable[[], bool]
    ) -> bool:
        """Make it the trainer of a job. False when it cannot be: then it has ended, and nothing of the job has run."""
        job = {"argv": list(command), "cwd": cwd, "env": by_job(env), "log": str(log), "since": time.monotonic()}
        line = json.dumps(job).encode() + b"\n"
        assert self.process.stdin is not None
        with suppress(OSError):  # it is gone
            os.set_blocking(self.process.stdin.fileno(), False)  # it may be busy importing, and the pipe small
            self.taken = self.process.stdin.write(line) == len(line) and self._answers(cancelled)
        with suppress(OSError):
            self.process.stdin.close()
        if not self.taken:
            self.end()
        return self.taken

    def _answers(self, cancelled: Callable[[], bool]) -> bool:
        assert self.process.stdout is not None
        said, deadline = b"", time.monotonic() + TAKE_SECONDS
        while time.monotonic() < deadline and not cancelled():
            if select.select([self.process.stdout], [], [], LOOK_SECONDS)[0]:
                part = os.read(self.process.stdout.fileno(), 4096)
                said += part
                if b"taken\n" in said:
                    self.process.stdout.close()
                    return True
                if not part:
                    break
        return False

    def end(self) -> None:
        """End it and all that it started, unless it has a job."""
        if self.taken:
            return
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        processes.end(self.key, grace_seconds=0.0, others=processes.descendants)
        with suppress(subprocess.TimeoutExpired):  # one in the hands of the kernel may take for ever
            self.process.wait(processes.KILL_SECONDS)
