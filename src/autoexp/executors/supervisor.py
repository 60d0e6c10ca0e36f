"""The keeper: the process that each training runs under. `python -m autoexp.executors.supervisor JOBFOLDER`

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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from autoexp.errors import DiskFullError
from autoexp.executors import processes
from autoexp.workspace.files import write_atomic
from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import EXIT_FILE, JOB_FILE, KILL_FILE, LOCK_FILE, LOG_FILE, WAIT_FILE

POLL_SECONDS = 0.02
LOOK_SECONDS = 2.0
"""How long a keeper tries to get its lock: whoever looks at it holds it for a moment."""
PATIENCE_SECONDS = 24 * 3600.0
"""How long a keeper waits for disk space to write exit.json."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(folder: Path) -> int:
    lock = Lock(folder / LOCK_FILE)
    # it waits for those who only look whether it is held; exit.json counts once nobody else can write it
    if not lock.acquire(wait_seconds=LOOK_SECONDS) or (folder / EXIT_FILE).exists():
        return 0  # the job has a keeper, one is enough; or it has ended
    job = json.loads((folder / JOB_FILE).read_text())
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _asked_to_end)
    _prctl(_PR_SET_CHILD_SUBREAPER)
    _write(folder / EXIT_FILE, _supervise(folder, job))
    lock.release()
    return 0


_ended = False


def _asked_to_end(number: int, frame: FrameType | None) -> None:
    global _ended
    _ended = True


def _supervise(folder: Path, job: dict[str, object]) -> dict[str, object]:
    """Run the command to its end, or end it. Returns the fields of exit.json."""
    key, timeout, log_bytes = str(job["key"]), float(str(job["timeout_seconds"])), int(str(job["log_bytes"]))
    command = job["command"]
    assert isinstance(command, list)
    withheld = job["withheld"]
    assert isinstance(withheld, list)
    inherited = {name: text for name, text in os.environ.items() if name not in withheld}
    env = {**inherited, **_strings(job["env"]), processes.JOB: key}
    locks = job["device_locks"]
    assert isinstance(locks, list)
    devices = [Lock(Path(lock)) for lock in locks]
    for device in devices:
        if not _wait_for(device, folder):
            return {"status": "killed", "code": None, "reason": "ended on request"}
    for device in devices:
        _clear(device, key)
    started = time.monotonic()
    deadline = started + timeout
    try:
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        child = subprocess.Popen(
            command,
            cwd=str(job["cwd"]),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    except (OSError, ValueError) as error:  # a word of the command may hold what no program can be given
        said = error.strerror if isinstance(error, OSError) else error
        return {"status": "not_started", "code": None, "reason": f"{command[0]}: {said}"}
    status, reason = "exited", ""
    while child.poll() is None:
        if time.monotonic() >= deadline:
            status, reason = "timeout", f"timed out after {timeout:g} s"
        elif _ended or (folder / KILL_FILE).exists():
            status, reason = "killed", "ended on request"
        elif not folder.is_dir():
            status, reason = "killed", "its folder was removed"
        elif os.fstat(log).st_size > log_bytes:  # it would go on until the disk is full, and again when it is rerun
            reason = f"its log passed {log_bytes / (1 << 30):.3g} GiB"
        if reason:
            break
        time.sleep(POLL_SECONDS)
    # also after a normal end: a process left behind would train on, or hold the GPU
    left = processes.end(key, grace_seconds=1.0 if reason else 0.0, others=processes.descendants)
    code = child.poll()
    if reason and code == 0:
        code = -signal.SIGTERM  # to end in order when told to is no success
    _reap()
    if not left:
        for device in devices:
            _note(device, "")  # nothing of this job is on it any more
    else:
        reason = "; ".join(filter(None, (reason, f"could not be ended: {', '.join(left)}")))
    wall_seconds = round(time.monotonic() - started, 3)
    return {"status": status, "code": code, "reason": reason, "wall_seconds": wall_seconds}


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
        if _ended or (folder / KILL_FILE).exists():
            return False
        (folder / WAIT_FILE).touch()
    (folder / WAIT_FILE).unlink(missing_ok=True)
    return True


def _clear(device: Lock, key: str) -> None:
    """End what the device's last job left on it, whose keeper was killed, and write down whose it is now."""
    before = device.path.read_text(errors="surrogateescape").strip()
    if before and before != key:
        processes.end(before)
    _note(device, key)


def _note(device: Lock, key: str) -> None:
    with suppress(OSError):  # a full disk, say: a training is worth more than this note
        device.path.write_text(key, errors="surrogateescape")  # a key names folders, whose names may be any bytes


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


def _strings(value: object) -> dict[str, str]:
    assert isinstance(value, dict)
    return {str(name): str(text) for name, text in value.items()}


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> Callable[[], None] | None:
    """Done in the child before it becomes the trainer: ask the kernel for SIGKILL when its keeper dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
