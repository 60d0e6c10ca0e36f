from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoexp.agents.command import Command, autoexp_register_agents
from autoexp.errors import PreconditionError, UsageError
from autoexp.spec.answers import extract_object
from autoexp.spec.ports import Answer, Ask, Usage

Program = Callable[..., Path]


def ask(tmp_path: Path, *args: str, options: Any = None, **changes: Any) -> Answer:
    fields = {"may_edit": False, "timeout_seconds": 60.0, **changes}
    question = Ask("the prompt", tmp_path, tmp_path / "transcript", **fields)
    return Command({"args": args, **(options or {})}).ask(question)


def test_it_reads_json_on_stdin_and_its_stdout_is_the_answer(tmp_path: Path, program: Program) -> None:
    program("print(sys.argv[1], sys.stdin.read())", "my-agent")
    brief = {"best": 1.5, "task": "not this one"}
    said = ask(tmp_path, "my-agent", "said:", task="apply", may_edit=True, brief=brief).text
    assert said.startswith("said: ")
    assert extract_object(said) == {
        "best": 1.5,
        "task": "apply",
        "prompt": "the prompt",
        "may_edit": True,
        "conversation": None,
    }


def test_it_can_have_the_prompt_alone(tmp_path: Path, program: Program) -> None:
    program("print(sys.stdin.read())", "my-agent")
    assert ask(tmp_path, "my-agent", options={"input": "text"}).text == "the prompt\n"
    with pytest.raises(UsageError, match="neither"):
        Command({"args": ["x"], "input": "xml"})


def test_it_can_say_what_it_took_and_name_its_conversation(tmp_path: Path, program: Program) -> None:
    program(
        """
        asked = json.load(sys.stdin)
        used = {"input_tokens": 7, "output_tokens": "many", "cost_usd": 0.25}
        print(json.dumps({"status": "ok", "usage": used, "conversation": (asked["conversation"] or "") + "a"}))
        """,
        "my-agent",
    )
    first = ask(tmp_path, "my-agent")
    assert (first.usage, first.conversation) == (Usage(7, None, 0.25), "a")
    assert ask(tmp_path, "my-agent", conversation="a").conversation == "aa"


def test_a_failure_is_told_by_its_stderr(tmp_path: Path, program: Program) -> None:
    program("sys.exit('it broke')", "my-agent")
    answer = ask(tmp_path, "my-agent")
    assert "it broke" in answer.problem and not answer.busy


def test_exit_code_75_asks_to_be_called_later(tmp_path: Path, program: Program) -> None:
    program("sys.exit(75)", "my-agent")
    answer = ask(tmp_path, "my-agent")
    assert answer.busy and answer.retry_after_seconds is None
    program("print(json.dumps({'retry_after_seconds': 60})); sys.exit(75)", "my-agent")
    assert ask(tmp_path, "my-agent").retry_after_seconds == 60.0


def test_running_out_of_time(tmp_path: Path, program: Program) -> None:
    program("print('half an answer', flush=True); time.sleep(600)", "my-agent")
    answer = ask(tmp_path, "my-agent", timeout_seconds=2.0)
    assert "no answer in 2 seconds" in answer.problem
    assert answer.transcript is not None
    assert "half an answer" in (answer.transcript / "transcript.md").read_text()


def test_it_gets_few_variables_and_those_that_the_user_names(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "MY_THING", "MY_OTHER_THING", "SECRET_PLACE"):
        monkeypatch.setenv(name, "present")
    program("print(json.dumps(sorted(os.environ)))", "my-agent")
    found = json.loads(ask(tmp_path, "my-agent", env=("MY_*",), options={"env": {"TABLE": "x"}}).text)
    assert {"PATH", "HOME", "MY_THING", "MY_OTHER_THING", "TABLE"} <= set(found)
    assert not {"ANTHROPIC_API_KEY", "SECRET_PLACE", "PYTEST_CURRENT_TEST"} & set(found)


def test_without_a_command_line_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="no command line") as caught:
        ask(tmp_path)
    assert "autoexp.toml" in caught.value.hint
    assert Command({"args": ["no-such-program"]}).available() == "no-such-program is not on PATH"


def test_registration() -> None:
    found: dict[str, Any] = {}
    autoexp_register_agents(register=found.__setitem__, options={"command": {"args": ("cat",)}})
    assert found["command"].available() is None
