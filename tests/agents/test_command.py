from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoexp.agents.command import Command, autoexp_register_agents
from autoexp.errors import PreconditionError
from autoexp.spec.ports import Answer, Ask


def ask(tmp_path: Path, *args: str) -> Answer:
    question = Ask("the prompt", tmp_path, tmp_path / "transcript", may_edit=False, timeout_seconds=60.0)
    return Command({"args": args}).ask(question)


def test_it_reads_stdin_and_its_stdout_is_the_answer(tmp_path: Path, program: Callable[..., Path]) -> None:
    program("print(sys.argv[1], sys.stdin.read())", "my-agent")
    assert ask(tmp_path, "my-agent", "said:").text == "said: the prompt\n"


def test_a_failure_is_told_by_its_stderr(tmp_path: Path, program: Callable[..., Path]) -> None:
    program("sys.exit('it broke')", "my-agent")
    assert "it broke" in ask(tmp_path, "my-agent").problem


def test_without_a_command_line_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="no command line") as caught:
        ask(tmp_path)
    assert "autoexp.toml" in caught.value.hint
    assert Command({"args": ["no-such-program"]}).available() == "no-such-program is not on PATH"


def test_registration() -> None:
    found: dict[str, Any] = {}
    autoexp_register_agents(register=found.__setitem__, options={"command": {"args": ("cat",)}})
    assert found["command"].available() is None
