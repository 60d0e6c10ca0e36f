from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoexp.agents.opencode import OpenCode, autoexp_register_agents
from autoexp.errors import Interrupted, PreconditionError
from autoexp.spec.ports import Answer, Ask

Program = Callable[..., Path]


def question(tmp_path: Path, prompt: str = "hello", cwd: Path | None = None, **changes: Any) -> Ask:
    fields = {"may_edit": True, "timeout_seconds": 120.0, **changes}
    return Ask(prompt, cwd or tmp_path, tmp_path / "transcript", **fields)


def ask(tmp_path: Path, prompt: str = "hello", cwd: Path | None = None, args: Any = (), **changes: Any) -> Answer:
    return OpenCode({"args": args}).ask(question(tmp_path, prompt, cwd, **changes))


def meta(tmp_path: Path, call: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "transcript" / f"{call:03d}" / "meta.json").read_text())
    return found


EVENTS = r"""
print("a line that is no JSON")
print('["an array"]', "5", '"text"', "null", sep="\n")
print('{"type": "text", "part": "not an object"}')
print('{"type": "text", "part": {"text": 5}}')
print('{"type": "text", "part": {"text": "I will look."}}')
print('{"type": "tool_use", "part": {"tool": "read"}}')
print('{"torn": ')
print("{" * 100000)
print('{"type": "text", "part": {"text": "Done. {\\"status\\": \\"applied\\"}"}}')
"""


def test_text_events_are_joined_and_all_else_passed_over(tmp_path: Path, program: Program) -> None:
    program(EVENTS)
    assert ask(tmp_path).text == 'I will look.\nDone. {"status": "applied"}'


def test_the_command_line(tmp_path: Path, program: Program) -> None:
    program('print(json.dumps({"type": "text", "part": {"text": " ".join(sys.argv[1:]) + "|" + sys.stdin.read()}}))')
    assert ask(tmp_path, "the prompt", args=("--model", "a/b")).text == (
        "run --title autoexp --model a/b --print-logs --log-level ERROR --format json|the prompt"
    )


def test_an_error_event_is_an_error_whatever_the_exit_code(tmp_path: Path, program: Program) -> None:
    program("""print('{"type": "error", "error": {"name": "APIError", "data": {"message": "no such model"}}}')""")
    assert "no such model" in ask(tmp_path).problem
    program("""print('{"type": "error", "error": "odd"}'); sys.exit(1)""")
    assert "odd" in ask(tmp_path).problem


def test_a_failure_is_told_by_the_last_line_of_stderr(tmp_path: Path, program: Program) -> None:
    program('print("first\\nlast words\\n\\n", file=sys.stderr); sys.exit(1)')
    assert "exit code 1: last words" in ask(tmp_path).problem
    assert meta(tmp_path)["code"] == 1


def test_no_text_at_all_is_told_by_the_last_line_of_stderr(tmp_path: Path, program: Program) -> None:
    program(r"print('\x1b[93m! \x1b[0mauto-rejecting', file=sys.stderr)")
    assert "gave no answer: ! auto-rejecting" in ask(tmp_path).problem


def test_running_out_of_time(tmp_path: Path, program: Program) -> None:
    program("time.sleep(600)")
    assert "no answer in 0.5 seconds" in ask(tmp_path, timeout_seconds=0.5).problem
    assert meta(tmp_path)["how"] == "timeout"


def test_being_stopped(tmp_path: Path, program: Program) -> None:
    program("time.sleep(600)")
    with pytest.raises(Interrupted):
        ask(tmp_path, stop=lambda: True)
    assert meta(tmp_path)["how"] == "stopped"


def test_not_being_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert OpenCode({}).available() == "opencode is not on PATH"
    with pytest.raises(PreconditionError) as caught:
        ask(tmp_path)
    assert "npm install" in caught.value.hint


def test_transcripts_keep_every_call_and_no_secret(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-1")
    program(
        """
        secret = os.environ["SOME_API_KEY"]
        print(secret, file=sys.stderr)
        print(json.dumps({"type": "text", "part": {"text": "answer " + secret}}))
        """
    )
    assert OpenCode({}).available() is None
    ask(tmp_path, "first sk-very-secret-1", args=["--x", "sk-very-secret-1"], env=("SOME_API_KEY",))
    ask(tmp_path, "second", env=("SOME_*",))
    folder = tmp_path / "transcript"
    assert (folder / "001" / "prompt.txt").read_text() == "first [redacted]"
    assert (folder / "002" / "prompt.txt").read_text() == "second"
    assert meta(tmp_path)["code"] == 0 and meta(tmp_path)["seconds"] > 0
    assert "answer [redacted]" in (folder / "001" / "stdout.txt").read_text()
    assert all("sk-very-secret-1" not in path.read_text() for path in folder.rglob("*.*"))


def test_registration() -> None:
    found: dict[str, Any] = {}
    autoexp_register_agents(register=found.__setitem__, options={"opencode": {"args": ("-m", "x")}})
    assert "-m" in found["opencode"].options.args
