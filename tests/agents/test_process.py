"""Nasty programs: each ends, nothing of it is left, and nothing blocks."""

from __future__ import annotations

import errno
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from support import gone

from autoexp.agents import process
from autoexp.errors import AgentError, PreconditionError

Program = Callable[..., Path]


def never() -> bool:
    return False


def run(tmp_path: Path, prompt: str = "", timeout: float = 60, stop: Callable[[], bool] = never) -> process.Ended:
    return process.run(["opencode"], prompt, tmp_path, timeout, stop, hint="install it", keep=1_000_000)


def pid_in(path: Path) -> int:
    """The process id that a program writes into `path`, waited for."""
    for _ in range(600):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"nothing was written to {path}")


def test_the_prompt_goes_in_by_stdin_and_never_by_argv(tmp_path: Path, program: Program) -> None:
    program("print(sys.argv[1:], len(sys.stdin.read()))")
    ended = run(tmp_path, "ö" * 1_000_000)
    assert (ended.how, ended.code, ended.stdout) == ("exited", 0, "[] 1000000\n")


def test_a_prompt_that_is_not_read_does_not_block(tmp_path: Path, program: Program) -> None:
    program("print('done')")
    assert run(tmp_path, "x" * 5_000_000).stdout == "done\n"


def test_output_that_fills_the_pipes_is_drained_and_its_end_kept(tmp_path: Path, program: Program) -> None:
    program(
        """
        sys.stderr.write("e" * 5_000_000)
        sys.stdout.write("o" * 5_000_000 + "the end")
        """
    )
    ended = run(tmp_path)
    assert ended.code == 0
    assert ended.stdout.endswith("the end")
    assert len(ended.stdout) == len(ended.stderr) == 1_000_000
    assert ended.dropped > 7_000_000


def test_bytes_that_are_no_text(tmp_path: Path, program: Program) -> None:
    program(r"sys.stdout.buffer.write(b'a\x00b\xff\xed\xa0\x80c')")
    text = run(tmp_path).stdout
    assert text.startswith("ab") and text.endswith("c") and "\x00" not in text
    text.encode()


def test_a_hang_ends_at_the_limit(tmp_path: Path, program: Program) -> None:
    program("print('before', flush=True); time.sleep(600)")
    ended = run(tmp_path, timeout=1.0)
    assert (ended.how, ended.stdout) == ("timeout", "before\n")
    assert ended.code is not None and ended.code < 0


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, program: Program) -> None:
    program(
        f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(600)
        """
    )
    ended = run(tmp_path, stop=lambda: (tmp_path / "pid").exists())
    assert (ended.how, ended.code) == ("stopped", -9)
    assert gone(pid_in(tmp_path / "pid"))


@pytest.mark.parametrize("session", ["False", "True"])
def test_a_grandchild_does_not_survive_a_normal_end(tmp_path: Path, program: Program, session: str) -> None:
    """It holds stdout open too. With a session of its own it is out of reach of a signal to the group."""
    if session == "True" and not Path("/proc").is_dir():
        pytest.skip("processes are found by their environment only where there is a /proc")
    program(
        f"""
        child = subprocess.Popen(["sleep", "600"], start_new_session={session})
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        print("answer")
        """
    )
    ended = run(tmp_path)
    assert (ended.how, ended.code, ended.stdout) == ("exited", 0, "answer\n")
    assert gone(pid_in(tmp_path / "pid"))


def test_an_exception_while_waiting_leaves_nothing_behind(tmp_path: Path, program: Program) -> None:
    program(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")

    def interrupt() -> bool:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=interrupt)
    assert gone(pid_in(tmp_path / "pid"))


def test_a_closed_stdout_is_no_end(tmp_path: Path, program: Program) -> None:
    program("print('early', flush=True); os.close(1); os.close(2); os.close(0); time.sleep(0.5); os._exit(3)")
    ended = run(tmp_path, "prompt")
    assert (ended.code, ended.stdout) == (3, "early\n")


def test_a_missing_program_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="no-such-agent") as caught:
        process.run(["no-such-agent"], "", tmp_path, 5, never, hint="install it")
    assert caught.value.hint == "install it"


def test_a_missing_folder_is_not_taken_for_a_missing_program(tmp_path: Path, program: Program) -> None:
    program("")
    with pytest.raises(AgentError, match="folder"):
        process.run(["opencode"], "", tmp_path / "gone", 5, never)


def test_git_of_the_user_is_hidden(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/somewhere/.git")
    program("print(os.environ.get('GIT_DIR'))")
    assert run(tmp_path).stdout == "None\n"
    assert os.environ["GIT_DIR"] == "/somewhere/.git"


def test_it_is_told_the_folder_it_is_in(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/elsewhere")
    program("print(os.environ['PWD'] == os.getcwd())")
    assert run(tmp_path).stdout == "True\n"


def test_it_is_ended_once_its_output_is_enough(tmp_path: Path, program: Program) -> None:
    program("print('waiting', flush=True); print('again', file=sys.stderr, flush=True); time.sleep(600)")
    seen = b""

    def enough(output: bytes) -> bool:
        nonlocal seen
        seen += output
        return b"waiting" in seen and b"again" in seen

    ended = process.run(["opencode"], "", tmp_path, 60, never, enough=enough)
    assert (ended.how, ended.stdout, ended.stderr) == ("cut", "waiting\n", "again\n")


def test_no_more_of_the_output_is_held_than_is_kept(tmp_path: Path, program: Program) -> None:
    program("for _ in range(60): sys.stdout.write('o' * 1_000_000)")
    tracemalloc.start()
    try:
        run(tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20_000_000


def test_one_that_cannot_be_watched_is_ended(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")

    def none_left() -> None:
        pid_in(tmp_path / "pid")
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process.selectors, "DefaultSelector", none_left)
    with pytest.raises(AgentError, match="Too many open files"):
        run(tmp_path)
    assert gone(pid_in(tmp_path / "pid"))
