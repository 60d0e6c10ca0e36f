"""The next trainer's process, started while a training runs: the session's end of it.

What stands by is a keeper with its child, which imports what it can (`autoexp.model.standby`). It waits on a pipe that
only this object holds: when the session is gone, however that came about, both see the pipe's end and go too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoexp.executors.environment import lasting, of_trainer
from autoexp.workspace.paths import SEAT

ARGUMENT = "--standby"
"""The keeper's argument before the key, by which it is found too."""
MODULE = "autoexp.model.standby"


class Standby:
    """A keeper without a job, and what its child was started with."""

    def __init__(self, job: Mapping[str, Any], folder: Path, locks: Path) -> None:
        """Start it for a job that is like `job`, the job.json in `folder`. Raises OSError when it cannot be started."""
        self.key = f"standby:{uuid.uuid4().hex}"
        self.python = str(job["command"][0])
        self.env = lasting(of_trainer(job, os.environ))
        self.isolation, self.cwd = _lasting(job), str(job["cwd"])
        reading, writing = os.pipe()
        # no stdin of the process object's: the module keeps that open when the object of a living process is dropped
        self.pipe = os.fdopen(writing, "wb", buffering=0)
        try:
            self.process = subprocess.Popen(
                keeper(self.key),
                cwd=locks,
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reading)
        os.set_blocking(writing, False)  # a keeper that does not read must not hold up the session
        # -P: the folder that it waits in is no place to import from
        command = [self.python, "-P", "-m", MODULE]
        confined = {"isolation": job.get("isolation"), "cwd": self.cwd, "seat": str(folder / SEAT)}
        if not self._tell({"command": command, "env": self.env, **confined}):
            self.end()

    def fits(self, job: Mapping[str, Any]) -> bool:
        """Whether the trainer of `job` would have begun as this one did: the same Python, environment and sandbox."""
        return (
            serves(job["command"], self.env)
            and job["command"][0] == self.python
            and lasting(of_trainer(job, os.environ)) == self.env
            and _lasting(job) == self.isolation
            and (self.isolation is None or str(job["cwd"]) == self.cwd)
            and self.process.poll() is None
        )

    def hand_over(self, folder: Path) -> int | None:
        """Make it the keeper of the job in `folder`: its pid, or None when it is gone and no keeper of anything."""
        told = self.process.poll() is None and self._tell({"folder": str(folder)})
        self.end()
        return self.process.pid if told else None

    def end(self) -> None:
        """Let it go: without a job it ends, at once."""
        self.pipe.close()

    def _tell(self, what: Mapping[str, Any]) -> bool:
        """Write a line, all of it or none that counts."""
        line = json.dumps(what).encode() + b"\n"
        try:
            return self.pipe.write(line) == len(line)
        except (OSError, ValueError):  # it is gone, or was let go
            return False


def _lasting(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a job's isolation, what its sandbox is made by."""
    wanted: Mapping[str, Any] | None = job.get("isolation")
    return {name: what for name, what in wanted.items() if name != "keeps_copies"} if wanted else None


def keeper(key: str) -> tuple[str, ...]:
    """The command of a keeper that stands by."""
    return sys.executable, "-P", "-m", "autoexp.executors.supervisor", ARGUMENT, key


def serves(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether another process can become what this command starts: `python script.py`, the same from any folder."""
    python, *arguments = command
    return (
        re.fullmatch(r"python[\d.]*", python.rsplit("/", 1)[-1]) is not None
        and ("/" not in python or python.startswith("/"))
        and bool(arguments)
        and re.fullmatch(r"[^-].*\.py", arguments[0], re.DOTALL) is not None
        and all(place.startswith("/") for place in env.get("PYTHONPATH", "").split(":") if env.get("PYTHONPATH"))
    )
