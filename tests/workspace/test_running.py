"""A command run to its end: alone, and with nothing of it left when it is stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import gone, until

from autoexp.workspace import running
from autoexp.workspace.locks import Lock, held
from autoexp.workspace.running import Stopped, run, taken


def test_its_exit_code_is_returned_and_its_lines_are_read(tmp_path: Path) -> None:
    lines: list[bytes] = []
    command = ["sh", "-c", "echo a >&2; echo b >&2; exit 7"]
    code = run(command, tmp_path, stderr=subprocess.PIPE, reads=lambda stream: lines.extend(stream))
    assert (code, lines) == (7, [b"a\n", b"b\n"])


STUBBORN = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > child; sleep 73' & echo $$ > parent; wait; sleep 73"


def test_what_does_not_end_when_it_is_asked_to_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "GRACE_SECONDS", 0.3)
    with pytest.raises(Stopped):
        run(["sh", "-c", STUBBORN], tmp_path, stop=lambda: (tmp_path / "child").exists())
    until(lambda: gone(int((tmp_path / "parent").read_text())))
    until(lambda: gone(int((tmp_path / "child").read_text())))


def test_what_ends_when_it_is_asked_to_has_its_time_and_no_more(tmp_path: Path) -> None:
    """Also the last of its children: a leader that ends first does not cost them their grace."""
    child = "trap 'sleep 0.3; touch tidy; exit' TERM; touch ready; while :; do sleep 0.05; done"
    began = time.monotonic()
    with pytest.raises(Stopped):
        run(["sh", "-c", f'sh -c "{child}" & wait'], tmp_path, stop=lambda: (tmp_path / "ready").exists())
    assert (tmp_path / "tidy").exists()
    assert time.monotonic() - began < 60


INTERRUPTED = """
import os, time
from pathlib import Path
try:
    Path("pid").write_text(f"{os.getpid()} ")
    time.sleep(73)
except KeyboardInterrupt:
    Path("interrupted").touch()
"""


def test_an_interrupt_on_the_way_ends_it_in_the_same_way(tmp_path: Path) -> None:
    """In a terminal Ctrl-C would reach the command itself, but it has a process group of its own."""

    def interrupted() -> bool:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-c", INTERRUPTED], tmp_path, stop=interrupted)
    assert (tmp_path / "interrupted").exists()
    assert gone(int((tmp_path / "pid").read_text()))


def test_the_lock_is_the_commands_and_free_at_its_end_even_with_a_daemon_left(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    taken(lock, lambda: False)
    began = "(sleep 5; exit) > /dev/null 2>&1 &"
    seen: list[bool] = []

    def look() -> bool:
        seen.append(held(tmp_path / "lock"))
        return False

    run(["sh", "-c", f"{began} sleep 0.2"], tmp_path, stop=look, lock=lock)
    assert set(seen) == {True}
    assert not held(tmp_path / "lock")


def test_the_command_of_a_killed_caller_keeps_the_lock(tmp_path: Path) -> None:
    caller = """
import sys
from pathlib import Path
from autoexp.workspace.locks import Lock
from autoexp.workspace.running import run, taken

folder = Path(sys.argv[1])
lock = Lock(folder / "lock")
taken(lock, lambda: False)
run(["sh", "-c", "touch began; while [ ! -e enough ]; do sleep 0.05; done"], folder, lock=lock)
"""
    with subprocess.Popen([sys.executable, "-c", caller, str(tmp_path)]) as process:
        until((tmp_path / "began").exists)
        process.kill()
    assert held(tmp_path / "lock")
    waits: list[str] = []
    with pytest.raises(Stopped):
        taken(Lock(tmp_path / "lock"), lambda: bool(waits), lambda: waits.append("waits"))
    (tmp_path / "enough").touch()
    taken(Lock(tmp_path / "lock"), lambda: False, lambda: waits.append("waits"))
