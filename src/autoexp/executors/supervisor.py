"""The keeper: the process that each training runs under. `python -m autoexp.executors.supervisor JOBFOLDER`

With `--standby KEY` for the folder it has no job yet: it starts the process that may become its trainer, and waits on
stdin for the folder's name.

It holds keeper.lock while it lives, starts the command in a process group of its own, ends the whole tree at the
deadline (measured by the monotonic clock), and writes how it ended to exit.json by rename. It needs nobody to poll.
When it is itself killed the kernel ends the trainer too (Linux), and whoever polls finds the lock free.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from autoexp.errors import DiskFullError
from autoexp.executors import processes
from autoexp.executors.confining import INSIDE, Confining, exit_code
from autoexp.executors.environment import of_trainer
from autoexp.executors.evaluating import Evaluating
from autoexp.executors.handover import Waiting
from autoexp.executors.standby import ARGUMENT
from autoexp.executors.watching import Limits, Watch
from autoexp.workspace.files import write_atomic
from autoexp.workspace.locks import Lock
from autoexp.workspace.marked import die_with_parent
from autoexp.workspace.paths import (
    ERRORS_FILE,
    EVALUATION_FILE,
    EXIT_FILE,
    JOB_FILE,
    KILL_FILE,
    LOCK_FILE,
    LOG_FILE,
    WAIT_FILE,
)

POLL_SECONDS = 0.02
LOOK_SECONDS = 2.0
"""How long a keeper tries to get its lock: whoever looks at it holds it for a moment."""
PATIENCE_SECONDS = 24 * 3600.0
"""How long a keeper waits for disk space to write exit.json."""
BETWEEN_KEYS = "\0"
"""In a device's note. No variable of an environment can hold it, so no key does."""
_PR_SET_CHILD_SUBREAPER = 36


def stand_by(key: str) -> int:
    """Start the trainer-to-be, and keep the job whose folder is named on stdin; without one, end with it."""
    _settle()
    waiting = None
    try:
        if not (line := sys.stdin.buffer.readline()).endswith(b"\n"):
            return 0
        with suppress(OSError, ValueError):  # the command is then started when it is wanted, as without
            waiting = Waiting(key, json.loads(line), die_with_parent())
        if not (line := sys.stdin.buffer.readline()).endswith(b"\n"):
            return 0
        folder = Path(json.loads(line)["folder"])
        os.chdir(folder)
        errors = os.open(folder / ERRORS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.dup2(errors, 2)
        return main(folder, waiting)
    finally:
        if waiting is not None:
            waiting.end()


def main(folder: Path, waiting: Waiting | None = None) -> int:
    """Run the job in `folder` to its end, in a process that stands by or in one of its own."""
    lock = Lock(folder / LOCK_FILE)
    # it waits for those who only look whether it is held; exit.json counts once nobody else can write it
    if not lock.acquire(wait_seconds=LOOK_SECONDS) or (folder / EXIT_FILE).exists():
        return 0  # the job has a keeper, one is enough; or it has ended
    job = json.loads((folder / JOB_FILE).read_text())
    _settle()
    signal.signal(signal.SIGTERM, _asked_to_end)
    evaluating = None
    if job.get("evaluation"):
        evaluating = Evaluating(job, folder, of_trainer(job, os.environ), die_with_parent())
    try:
        ending = _supervise(folder, job, waiting, evaluating)
    finally:
        if evaluating is not None:
            evaluating.end()
    if waiting is not None:
        waiting.end()  # before the job counts as ended
    _write(folder / EXIT_FILE, ending)
    lock.release()
    return 0


def _settle() -> None:
    """Be the last to go: deaf to a terminal's signals, as what it starts is, and the parent of orphans."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER)


_ended = False


def _asked_to_end(number: int, frame: FrameType | None) -> None:
    global _ended
    _ended = True


def _supervise(
    folder: Path, job: dict[str, object], waiting: Waiting | None, evaluating: Evaluating | None
) -> dict[str, object]:
    """Run the command to its end, or end it, and have it evaluated. Returns the fields of exit.json."""
    keys, timeout, log_bytes = processes.keys_of(job), float(str(job["timeout_seconds"])), int(str(job["log_bytes"]))
    locks = job["device_locks"]
    assert isinstance(locks, list)
    devices = [Lock(Path(lock)) for lock in locks]
    for device in devices:
        if not _wait_for(device, folder):
            return {"status": "killed", "code": None, "reason": "ended on request"}
    for device in devices:
        _clear(device, processes.all_keys_of(job))
    if evaluating is not None and evaluating.given:
        again = _evaluated_again(folder, evaluating)
        for device in devices:
            _note(device, ())
        return again
    confining = Confining(job, folder) if job.get("isolation") else None
    try:
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        confined_by = _confined(confining, waiting) if confining is not None else ""
        started = time.monotonic()
        deadline = started + timeout
        watch = _watch(job, confining, evaluating)
        child = _trainer(job, folder, log, waiting, deadline, confining, watch)
    except (OSError, ValueError) as error:  # a word of the command may hold what no program can be given
        command = job["command"]
        assert isinstance(command, list)
        said = error.strerror if isinstance(error, OSError) else error
        return {"status": "not_started", "code": None, "reason": f"{command[0]}: {said}"}
    status, reason = "exited", ""
    while child.poll() is None:
        if evaluating is not None:
            evaluating.look()
        if time.monotonic() >= deadline:
            status, reason = "timeout", f"timed out after {timeout:g} s"
        elif _asked(folder):
            status, reason = "killed", "ended on request"
        elif not folder.is_dir():
            status, reason = "killed", "its folder was removed"
        elif os.fstat(log).st_size > log_bytes:  # it would go on until the disk is full, and again when it is rerun
            reason = f"its log passed {log_bytes / (1 << 30):.3g} GiB"
        else:
            reason = watch.look()
            if reason and confining is not None:
                child.kill()  # and all that it confines, however many they are
        if reason:
            break
        time.sleep(POLL_SECONDS)
    trained_seconds = time.monotonic() - started
    gpu_seconds = watch.gpu_seconds()
    # also after a normal end: a process left behind would train on, or hold the GPU
    left = processes.end(*keys, grace_seconds=1.0 if reason else 0.0, others=lambda: _of_training(evaluating))
    code = exit_code(child.poll()) if confining is not None else child.poll()
    if reason and code == 0:
        code = -signal.SIGTERM  # to end in order when told to is no success
    _reap()
    cpu_seconds = round(watch.cpu_seconds(), 3)  # before the judge has ended
    if confining is not None:
        confining.collect(good=status == "exited" and code == 0)
    if left:
        reason = "; ".join(filter(None, (reason, f"could not be ended: {', '.join(left)}")))
    ending: dict[str, object] = {
        "status": status,
        "code": code,
        "reason": reason,
        "wall_seconds": round(trained_seconds, 3),
        "isolation": confined_by,
        "cpu_seconds": cpu_seconds,
        "gpu_seconds": gpu_seconds,
        "host_memory_gb": round(watch.memory_bytes / (1 << 30), 3),
    }
    if evaluating is not None and status == "exited" and code == 0 and not left:
        ending |= _evaluated(folder, evaluating, evaluating.trained(trained_seconds))
    if not left:
        for device in devices:
            _note(device, ())  # nothing of this job is on it any more
    if waiting is not None and waiting.taken:
        ending["stood_by_seconds"] = round(started - waiting.began, 3)
    return ending


def _of_training(evaluating: Evaluating | None) -> list[psutil.Process]:
    """All that this keeper has started but the judge, which goes on when the training is over."""
    judges = evaluating.pids() if evaluating is not None else set()
    return [process for process in processes.descendants() if process.pid not in judges]


def _evaluated(folder: Path, evaluating: Evaluating, record: dict[str, object]) -> dict[str, object]:
    """Have a training that has ended well, `record`, evaluated. Returns what is new in exit.json."""
    _write(folder / EVALUATION_FILE, evaluating.sealed(record))  # from now on nothing is trained again
    found = evaluating.judged(record, lambda: _asked(folder))
    evaluating.end()
    _reap()
    found |= evaluating.taken()
    asked = _asked(folder)
    _write(folder / EVALUATION_FILE, evaluating.sealed(record if asked else found))
    cut_off = {"status": "killed", "reason": "ended on request"} if asked else {}
    return {"evaluation_seconds": found["seconds"], **cut_off}


def _evaluated_again(folder: Path, evaluating: Evaluating) -> dict[str, object]:
    """Have the checkpoint of an earlier attempt evaluated. Returns the fields of exit.json."""
    fields = _evaluated(folder, evaluating, evaluating.earlier())
    seconds = fields["evaluation_seconds"]
    return {"status": "exited", "code": 0, "reason": "", "wall_seconds": seconds, **fields}


def _confined(confining: Confining, waiting: Waiting | None) -> str:
    """Make what a confined job works in, or take it over from what stands by. Returns the name of what confines it.

    Raises OSError or ValueError.
    """
    seat = None
    if waiting is not None and waiting.seat is not None and waiting.settled(lambda: _asked(confining.folder)):
        seat = waiting.seat
    said = confining.make() if seat is None else confining.seat(seat)
    confining.fill()
    return said


def _watch(job: dict[str, object], confining: Confining | None, evaluating: Evaluating | None) -> Watch:
    """On what it takes, from now on; what is too much, only where it is isolated."""
    limits = Limits()
    if confining is not None:
        wanted = confining.wanted
        limits = Limits(
            [confining.scratch, *confining.copies],
            [Path(place) for place in wanted["writable"]],
            confining.most_bytes,
            wanted["max_processes"],
            wanted["max_memory_bytes"],
        )
    gpus = job.get("gpus", [])
    assert isinstance(gpus, list)
    watch = Watch(limits, lambda: [each for each in _of_training(evaluating) if each.pid not in watchers], gpus)
    watchers = {watch.gpus.pid if watch.gpus is not None else None}
    return watch


def _trainer(
    job: dict[str, Any],
    folder: Path,
    log: int,
    waiting: Waiting | None,
    deadline: float,
    confining: Confining | None,
    watch: Watch,
) -> subprocess.Popen[bytes]:
    """The job's process: the one that stands by, if it takes the job before it is to end, else a new one.

    Raises OSError or ValueError when that cannot be started.
    """
    command, cwd, env = job["command"], str(job["cwd"]), of_trainer(job, os.environ)
    before = die_with_parent()

    def over() -> bool:
        return _asked(folder) or time.monotonic() >= deadline

    if waiting is not None:
        inside = (confining.environment(env), INSIDE) if confining is not None else (env, folder)
        if waiting.take(command, cwd, inside[0], inside[1] / LOG_FILE, over):
            watch.elsewhere = waiting.cpu_seconds()  # it has imported meanwhile, and nothing of this job
            return waiting.process
    if confining is not None:
        command, env = confining.started_with(command, env)
        before = confining.limited(before)
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=before,
    )


def _asked(folder: Path) -> bool:
    """Whether somebody wants the job to end."""
    return _ended or (folder / KILL_FILE).exists()


def _reap() -> None:
    """Adopted children that have ended: nobody else may be there to take note of it."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _wait_for(device: Lock, folder: Path) -> bool:
    """Take the device: two trainings on one would slow each other down, and neither number would count.

    False when the job is asked to end meanwhile.
    """
    while not device.acquire(wait_seconds=0.1):
        if _asked(folder):
            return False
        (folder / WAIT_FILE).touch()
    (folder / WAIT_FILE).unlink(missing_ok=True)
    return True


def _clear(device: Lock, keys: tuple[str, ...]) -> None:
    """End what the device's last job left on it, whose keeper was killed, and write down whose it is now."""
    before = device.path.read_text(errors="surrogateescape").strip().split(BETWEEN_KEYS)
    if left := set(before) - {*keys, ""}:
        processes.end(*left)
    _note(device, keys)


def _note(device: Lock, keys: tuple[str, ...]) -> None:
    with suppress(OSError):  # a full disk, say: a training is worth more than this note
        # a key names folders, whose names may be any bytes
        device.path.write_text(BETWEEN_KEYS.join(keys), errors="surrogateescape")


def _write(path: Path, result: dict[str, object]) -> None:
    """Write the ending, however long the disk is full: a training that has ended must not be trained again."""
    if not path.parent.is_dir():
        return  # removed with the run: nobody asks any more
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            write_atomic(path, json.dumps(result) + "\n")
        except DiskFullError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    raise SystemExit(stand_by(sys.argv[2]) if sys.argv[1] == ARGUMENT else main(Path(sys.argv[1])))
