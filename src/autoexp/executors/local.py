"""The `local` executor: one detached keeper for each training, on this machine."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from autoexp.errors import DiskFullError, PreconditionError
from autoexp.executors import confining, isolation, processes, standby
from autoexp.executors.environment import of_trainer
from autoexp.executors.standby import Standby
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Executor, Exit, Isolation, JobSpec
from autoexp.spec.secrets import AGENT_NAMES, SECRET_NAMES
from autoexp.workspace.files import write_atomic
from autoexp.workspace.locks import Lock, held
from autoexp.workspace.paths import ERRORS_FILE, EXIT_FILE, JOB_FILE, KILL_FILE, LOCK_FILE, cache_dir

START_SECONDS = 20.0
"""How long a new keeper may take to get hold of its lock."""
KILL_SECONDS = processes.KILL_SECONDS + 10.0
"""How long a keeper may take to end its job on request, before that is done without it."""
ASK_SECONDS = 10.0
"""How long nvidia-smi may take. It hangs when a driver does."""
WORLD_NAMES = frozenset(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
"""Of torchrun: by these a process knows which others it trains with."""
MEASURED = ("cpu_seconds", "gpu_seconds", "host_memory_gb")
"""What a keeper writes down of what a job took."""
INSTALL = 'apt-get install bubblewrap (or set isolation = "off" under [train]), then: autoexp resume'
LEAST_FREE_BYTES = 64 * 1024
LOG_BYTES = 1 << 30
"""A training whose log grows beyond this is ended."""


class Local:
    """Jobs are folders: job.json, keeper.lock, train.log, exit.json. All that is known about one is in there.

    What stands by for the next one is no job yet, and ends with this object.
    """

    evaluates = True
    """Its keepers have trainings judged: see spec.ports.Evaluation."""

    def __init__(self) -> None:
        self.waiting: dict[int, Standby] = {}
        """By the worker's slot."""

    def missing_isolation(self) -> str | None:
        """None when it can isolate trainings on this machine, else what is missing."""
        return isolation.available()

    def isolates_by(self) -> str:
        """The name and version of what isolates them."""
        return isolation.name()

    def submit(self, job: JobSpec) -> int | None:
        executable = job.command[0]
        path = job.env.get("PATH", os.environ.get("PATH"))
        if shutil.which(executable, path=path) is None and not (job.cwd / executable).exists():
            raise PreconditionError(
                f"the training command {executable!r} is not on PATH", f"install {executable}, then: autoexp resume"
            )
        if job.isolation is not None and (why := isolation.available()) is not None:
            raise PreconditionError(why, INSTALL)
        env, locks, gpus = _devices(job)
        spec: dict[str, Any] = {
            "key": job.key,
            "command": list(job.command),
            "cwd": str(job.cwd),
            "env": {**job.env, **env},
            "timeout_seconds": job.timeout_seconds,
            "slot": job.slot,
            "device_locks": [str(lock) for lock in locks],
            "log_bytes": LOG_BYTES,
            "gpus": gpus,
            "withheld": sorted(name for name in os.environ if _is_withheld(name) and name not in job.env),
        }
        if job.isolation is not None:
            spec["isolation"] = _as_fields(job.isolation, [*job.env, *env])
        if job.evaluation is not None:
            spec["evaluation"] = job.evaluation.fields()
        trains = job.evaluation is None or job.evaluation.checkpoint is None
        ready = self.waiting.pop(job.slot, None) if trains else None
        if ready is not None and not ready.fits(spec):
            ready.end()
            ready = None
        if ready is not None:
            spec["standby"] = ready.key  # before it is handed over: all that it starts from then on must be found
        write_atomic(job.folder / JOB_FILE, json.dumps(spec, indent=1) + "\n")
        process = ready.process if ready is not None and ready.hand_over(job.folder) else _start(job.folder)
        deadline = time.monotonic() + START_SECONDS
        while not held(job.folder / LOCK_FILE) and not (job.folder / EXIT_FILE).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                break  # poll() will say that it is lost
            time.sleep(0.005)
        wanted = job.standby and job.slot not in self.waiting
        if wanted and standby.serves(job.command, of_trainer(spec, os.environ)):
            with suppress(OSError):  # the next one is then started as the first was
                self.waiting[job.slot] = Standby(spec, job.folder, job.locks)
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
        reason = "its keeper was killed, or the machine went down"
        left = processes.end(*_keys(folder))
        confining.collect(folder)
        return _finish(folder, "lost", reason, left, _confined_by(folder))

    def kill(self, folder: Path) -> None:
        write_atomic(folder / KILL_FILE, "")
        deadline = time.monotonic() + KILL_SECONDS
        while self.poll(folder) is None:
            if time.monotonic() > deadline:
                self._kill_keeper(folder)
                return
            time.sleep(0.05)

    def _kill_keeper(self, folder: Path) -> None:
        """Do what a keeper should that does not answer: it may be stopped, or stuck."""
        keys = _keys(folder)
        lines = [list(_keeper(folder)[1:]), *(list(standby.keeper(key)[1:]) for key in keys[1:])]
        keepers = [p for p in psutil.process_iter() if any(_cmdline(p)[-len(line) :] == line for line in lines)]
        tree = [child for keeper in keepers for child in processes.descendants(keeper)]
        # the keeper too: awake again, it would write another ending, and until then it holds the device
        left = processes.end(*keys, grace_seconds=0.0, others=lambda: _living([*keepers, *tree]))
        lock = Lock(folder / LOCK_FILE)
        lock.acquire(wait_seconds=1.0)  # against whoever polls; a keeper that could not be ended has it for ever
        try:
            if _ended(folder) is None:
                confining.collect(folder)
                _finish(folder, "killed", "ended on request; its keeper did not answer", left, _confined_by(folder))
        finally:
            lock.release()


def _is_withheld(name: str) -> bool:
    """What a trainer prints reaches logs, prompts and other people: it gets the secrets it is given on purpose.

    And a session that torchrun or a cluster has started is no member of the trainings that it starts.
    """
    secret = SECRET_NAMES.search(name) or AGENT_NAMES.fullmatch(name)
    return bool(secret) or name in WORLD_NAMES or name.startswith("TORCHELASTIC_")


def _keeper(folder: Path) -> tuple[str, ...]:
    return sys.executable, "-m", "autoexp.executors.supervisor", str(folder)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """A keeper for the job in `folder`."""
    return subprocess.Popen(
        _keeper(folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / ERRORS_FILE).open("ab"),
        start_new_session=True,
    )


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.Error, OSError):
        return []


def _living(found: list[psutil.Process]) -> list[psutil.Process]:
    living = []
    for process in found:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def _keys(folder: Path) -> tuple[str, ...]:
    """The keys of the job, none when they were never written down."""
    try:
        return processes.all_keys_of(json.loads((folder / JOB_FILE).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _as_fields(wanted: Isolation, env: list[str]) -> dict[str, Any]:
    """As job.json has it, with the names of the variables that the job sets."""
    fields: dict[str, Any] = {
        name: [str(place) for place in value] if isinstance(value, tuple) else value
        for name, value in vars(wanted).items()
    }
    return fields | {"env": env}


def _confined_by(folder: Path) -> str:
    """What a job without a keeper was confined by: its keeper has started nothing without that."""
    try:
        wanted = json.loads((folder / JOB_FILE).read_bytes()).get("isolation")
        return isolation.name() if wanted else ""
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return ""


def _finish(folder: Path, status: Literal["lost", "killed"], reason: str, left: list[str], confined: str) -> Exit:
    """Write the ending of a job that has no keeper."""
    if left:
        reason += f"; could not be ended: {', '.join(left)}"
    ending = Exit(status, None, 0.0, reason, confined)
    fields = {"status": status, "code": None, "reason": reason, "isolation": confined}
    write_atomic(folder / EXIT_FILE, json.dumps(fields) + "\n")
    return ending


def _devices(job: JobSpec) -> tuple[dict[str, str], list[Path], list[str]]:
    """(what the trainer must be told of its devices, the lock of each, the GPUs among them).

    A GPU is locked for all workspaces of this user; without one, a worker's place in this workspace is.
    Raises PreconditionError when there are fewer GPUs than all workers together need.
    """
    gpus = _gpus()
    if not gpus:
        return {}, [job.locks / f".worker-{job.slot}.lock"], []
    workers = len(gpus) // job.gpus
    if job.slots > workers:
        raise _too_few(job, len(gpus), workers)
    # a slot beyond the GPUs is left from a plan with more workers: it waits for its turn at the locks
    first = job.slot % workers * job.gpus
    own = gpus[first : first + job.gpus]
    told = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if job.slots > 1 or job.slot or job.gpus > 1 else {}
    # in one order for all jobs, so that no two wait for each other
    locks = [cache_dir() / "devices" / f"gpu-{gpu.replace('/', '-')}.lock" for gpu in sorted(set(own))]
    return told, locks, own


def _too_few(job: JobSpec, there: int, workers: int) -> PreconditionError:
    found = f"there {'is' if there == 1 else 'are'} {there}"
    if not workers:
        return PreconditionError(
            f"train.gpus is {job.gpus}, and {found}", f"set gpus = {there} under [train], then: autoexp resume"
        )
    each = "a GPU" if job.gpus == 1 else f"{job.gpus} GPUs"
    return PreconditionError(f"{job.slots} workers need {each} each: {found}", f"autoexp resume --workers {workers}")


def _gpus() -> list[str]:
    """The GPUs that trainings may use, as CUDA_VISIBLE_DEVICES names them. None, where that cannot be told."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        return list(_listed())
    except (OSError, subprocess.SubprocessError):
        return []  # and asked again by the next training: a driver may come back


@functools.cache
def _listed() -> tuple[str, ...]:
    """The GPUs of this machine, asked once. Raises OSError or SubprocessError when there is no answer."""
    command = ["nvidia-smi", "-L"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
    try:
        listed, _ = process.communicate(timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for, unlike in subprocess.run: stuck in a driver it would not even die
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return tuple(str(n) for n, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU ")))


def _ended(folder: Path) -> Exit | None:
    """How the job ended. None too for an exit.json that no keeper wrote: it has not ended as far as that tells."""
    try:
        fields = json.loads((folder / EXIT_FILE).read_bytes())
        seconds = float(fields.get("wall_seconds", 0.0))
        reason, confined = str(fields.get("reason", "")), str(fields.get("isolation", ""))
        taken = {name: float(fields[name]) for name in MEASURED if fields.get(name) is not None}
        return Exit(fields["status"], fields["code"], seconds, reason, confined, **taken)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@hookimpl
def autoexp_register_executors(register: Callable[[str, Executor], None], options: dict[str, dict[str, Any]]) -> None:
    register("local", Local())
