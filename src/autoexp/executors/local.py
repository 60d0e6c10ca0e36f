"""The `local` executor: one detached keeper for each training, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoexp.errors import DiskFullError, PreconditionError
from autoexp.executors import processes
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Executor, Exit, JobSpec
from autoexp.workspace.files import write_atomic
from autoexp.workspace.locks import Lock, held
from autoexp.workspace.paths import EXIT_FILE, JOB_FILE, KILL_FILE, LOCK_FILE, cache_dir

START_SECONDS = 20.0
"""How long a new keeper may take to get hold of its lock."""
LEAST_FREE_BYTES = 64 * 1024


class Local:
    """Jobs are folders: job.json, keeper.lock, train.log, exit.json. All that is known about one is in there."""

    def submit(self, job: JobSpec) -> int | None:
        executable = job.command[0]
        path = job.env.get("PATH", os.environ.get("PATH"))
        if shutil.which(executable, path=path) is None and not (job.cwd / executable).exists():
            raise PreconditionError(
                f"the training command {executable!r} is not on PATH", f"install {executable}, then: autoexp resume"
            )
        env, lock = _device(job)
        spec = {
            "key": job.key,
            "command": list(job.command),
            "cwd": str(job.cwd),
            "env": {**job.env, **env},
            "timeout_seconds": job.timeout_seconds,
            "slot": job.slot,
            "device_lock": str(lock),
        }
        write_atomic(job.folder / JOB_FILE, json.dumps(spec, indent=1) + "\n")
        process = subprocess.Popen(
            [sys.executable, "-m", "autoexp.executors.supervisor", str(job.folder)],
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(job.folder / "keeper.err").open("ab"),
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not held(job.folder / LOCK_FILE) and not (job.folder / EXIT_FILE).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                break  # poll() will say that it is lost
            time.sleep(0.005)
        return process.pid

    def poll(self, folder: Path) -> Exit | None:
        ended = _ended(folder)
        if ended is not None:
            return ended
        if held(folder / LOCK_FILE):
            if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
                raise DiskFullError(f"the disk is full: {folder}", "free some space, then: autoexp resume")
            return None
        lock = Lock(folder / LOCK_FILE)
        if not lock.acquire():
            return None  # a keeper has just begun
        try:  # with the lock: a keeper that comes late finds the job ended
            return _ended(folder) or self._lost(folder)
        finally:
            lock.release()

    def _lost(self, folder: Path) -> Exit:
        """End what is left of the job and write down that nobody knows how it went."""
        if (folder / JOB_FILE).exists():
            processes.end(json.loads((folder / JOB_FILE).read_text())["key"])
        lost = Exit("lost", None, 0.0, "its keeper was killed, or the machine went down")
        write_atomic(folder / EXIT_FILE, json.dumps({"status": lost.status, "code": None, "reason": lost.reason}))
        return lost

    def kill(self, folder: Path) -> None:
        write_atomic(folder / KILL_FILE, "")
        while self.poll(folder) is None:
            time.sleep(0.05)


def _device(job: JobSpec) -> tuple[dict[str, str], Path]:
    """(what the trainer must be told of its device, the lock of that device).

    A GPU is locked for all workspaces of this user; without one, a worker's place in this workspace is.
    Raises PreconditionError when there are more workers than GPUs.
    """
    gpus = _gpus()
    if not gpus:
        return {}, job.locks / f".worker-{job.slot}.lock"
    if job.slot >= len(gpus):
        raise PreconditionError(
            f"worker {job.slot + 1} has no GPU: there are {len(gpus)}", f"autoexp resume --workers {len(gpus)}"
        )
    told = {"CUDA_VISIBLE_DEVICES": gpus[job.slot]} if job.slots > 1 else {}
    return told, cache_dir() / "devices" / f"gpu-{gpus[job.slot].replace('/', '-')}.lock"


def _gpus() -> list[str]:
    """The GPUs that trainings may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    return [str(n) for n, line in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


def _ended(folder: Path) -> Exit | None:
    try:
        fields = json.loads((folder / EXIT_FILE).read_text())
    except FileNotFoundError:
        return None
    return Exit(fields["status"], fields["code"], float(fields.get("wall_seconds", 0.0)), fields.get("reason", ""))


@hookimpl
def autoexp_register_executors(register: Callable[[str, Executor], None], options: dict[str, dict[str, Any]]) -> None:
    register("local", Local())
