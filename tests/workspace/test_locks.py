"""Locks that die with their holder, and with the last of its children that got them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import until

from autoexp.workspace.locks import Lock, held

HOLDER = "import sys; from pathlib import Path; from autoexp.workspace.locks import Lock\n"


def holder(path: Path, then: str) -> subprocess.Popen[str]:
    """A process that takes the lock, says so, and goes on with `then`."""
    program = HOLDER + f"lock = Lock(Path(sys.argv[1])); print(lock.acquire(), flush=True)\n{then}"
    process = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    assert not held(path)
    one, two = Lock(path), Lock(path)
    assert one.acquire()
    assert held(path)
    assert not two.acquire()
    assert not two.acquire(wait_seconds=0.05)
    one.release()
    one.release()
    assert not held(path)
    assert two.acquire()
    two.release()


def test_another_processs_lock_is_seen_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, "sys.stdin.read()") as process:
        assert held(path)
        assert not Lock(path).acquire()
        process.kill()
    assert not held(path)
    assert Lock(path).acquire()


def test_who_waits_gets_it_when_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, "sys.stdin.read()") as process:
        process.kill()
        lock = Lock(path)
        assert lock.acquire(wait_seconds=60)
        lock.release()


def test_a_child_that_inherits_it_holds_it_on(tmp_path: Path) -> None:
    """The holder is gone, its child lives: still held, until that ends too."""
    path = tmp_path / "lock"
    then = (
        "import os, subprocess; os.set_inheritable(lock.descriptor, True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], close_fds=False)\n"
        "print(child.pid, flush=True); os._exit(0)"
    )
    process = holder(path, then)
    assert process.stdout is not None and process.stdin is not None
    assert int(process.stdout.readline())
    assert process.wait(timeout=60) == 0
    assert held(path)
    process.stdin.close()
    until(lambda: not held(path), "the child's end")
    process.stdout.close()


def test_a_child_that_is_simply_started_does_not_hold_it(tmp_path: Path) -> None:
    """A trainer left behind must not keep a session's lock."""
    path = tmp_path / "lock"
    lock = Lock(path)
    assert lock.acquire()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        until(lambda: not held(path), "the release")  # a moment passes before the kernel has closed it in the child
        child.kill()


def test_lookers_do_not_disturb_each_other_nor_make_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not held(path)
    assert not path.exists()
    path.touch()
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(50):
        assert not held(path)
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors
