"""The adapters against programs that pose as their agents: what the real ones seldom do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoexp.agents.claude import Claude
from autoexp.agents.codex import Codex
from autoexp.agents.opencode import OpenCode
from autoexp.agents.program import Program as Adapter
from autoexp.errors import PreconditionError, UsageError
from autoexp.spec.ports import Answer, Ask, Usage
from autoexp.spec.transcripts import read_turns

Program = Callable[..., Path]
KINDS: dict[str, type[Adapter]] = {"opencode": OpenCode, "claude": Claude, "codex": Codex}
RECORDED = {
    "opencode": [
        {"type": "text", "sessionID": "s1", "part": {"text": "an answer"}},
        {
            "type": "step_finish",
            "sessionID": "s1",
            "part": {
                "cost": 0.5,
                "tokens": {"input": 1, "output": 4, "reasoning": 2, "cache": {"read": 5, "write": 6}},
            },
        },
    ],
    "claude": [
        {"type": "system", "subtype": "init", "session_id": "s1"},
        {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "result": "an answer",
            "session_id": "s1",
            "total_cost_usd": 0.5,
            "usage": {
                "input_tokens": 1,
                "cache_creation_input_tokens": 5,
                "cache_read_input_tokens": 6,
                "output_tokens": 6,
            },
        },
    ],
    "codex": [
        {"type": "thread.started", "thread_id": "s1"},
        {"type": "item.completed", "item": {"type": "agent_message", "text": "an answer"}},
        {"type": "turn.completed", "usage": {"input_tokens": 12, "cached_input_tokens": 5, "output_tokens": 6}},
    ],
}


@pytest.fixture(params=sorted(KINDS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(name: str, tmp_path: Path, options: Any = None, **changes: Any) -> Answer:
    fields = {"may_edit": False, "timeout_seconds": 60.0, **changes}
    return KINDS[name](options or {}).ask(Ask("the prompt", tmp_path, tmp_path / "transcript", **fields))


def printing(name: str, before: str = "", after: str = "") -> str:
    lines = "\n".join(json.dumps(event) for event in RECORDED[name])
    return f"{before}\nsys.stdin.read()\nprint({lines!r})\n{after}\n"


def test_what_it_read_from_a_cache_counts(name: str, tmp_path: Path, program: Program) -> None:
    program(printing(name), name)
    answer = ask(name, tmp_path)
    assert (answer.text, answer.problem) == ("an answer", "")
    assert answer.usage == Usage(12, 6, None if name == "codex" else 0.5)
    assert (answer.conversation or "").partition("#")[0] == "s1"


GARBAGE = (
    r"print('\x00\x00'); print('{\"type\": '); print('{' * 100000); print('[1]\n5\nnull\n\"x\"\n{}');"
    r"print('{\"type\": 5, \"part\": 5, \"item\": [], \"message\": {\"content\": [5, {\"type\": []}]}, \"usage\": 1}');"
    r"print('{\"type\": \"item.completed\"}\n{\"type\": \"text\"}');"
    r"print('{\"type\": \"tool_use\", \"part\": {\"state\": 1}}');"
    r"sys.stdout.flush(); sys.stdout.buffer.write(b'\xff\xfe\n'); sys.stdout.flush();"
    r"print('{\"type\": \"text\", \"part\": {\"text\": \"\\ud800\"}}')"
)


BUSY_FOR_A_MINUTE = {
    "opencode": [
        {
            "type": "error",
            "error": {"data": {"message": "slow down", "statusCode": 429, "responseHeaders": {"retry-after": "60"}}},
        }
    ],
    "claude": [
        {"type": "system", "subtype": "api_retry", "retry_delay_ms": 60_000, "error_status": 429, "session_id": "s1"},
        {"type": "result", "is_error": True, "api_error_status": 429, "result": "slow down", "session_id": "s1"},
    ],
    "codex": [
        {"type": "turn.failed", "error": {"message": "Rate limit reached. Please try again in 1m0s."}},
    ],
}


def test_how_long_the_server_asked_to_wait_is_passed_on(name: str, tmp_path: Path, program: Program) -> None:
    lines = "\n".join(json.dumps(event) for event in BUSY_FOR_A_MINUTE[name])
    program(f"sys.stdin.read()\nprint({lines!r})", name)
    answer = ask(name, tmp_path)
    assert (answer.busy, answer.retry_after_seconds) == (True, 60.0), answer


def test_claude_says_when_a_limit_is_lifted(tmp_path: Path, program: Program) -> None:
    program(
        """
        limit = {"status": "rejected", "resetsAt": int(time.time()) + 3600}
        print(json.dumps({"type": "rate_limit_event", "rate_limit_info": limit}))
        print(json.dumps({"type": "result", "is_error": True, "api_error_status": 429, "result": "limit reached"}))
        """,
        "claude",
    )
    answer = ask("claude", tmp_path)
    assert answer.busy and answer.retry_after_seconds is not None and 3000 < answer.retry_after_seconds <= 3600


def test_claude_is_not_left_to_wait_for_long_by_itself(tmp_path: Path, program: Program) -> None:
    retry = json.dumps(BUSY_FOR_A_MINUTE["claude"][0]).replace(": ", ":")
    program(f"print({retry!r}, flush=True); time.sleep(600)", "claude")
    answer = ask("claude", tmp_path)
    assert (answer.busy, answer.retry_after_seconds, answer.conversation) == (True, 60.0, "s1")
    assert answer.problem.startswith("claude: 429")


def test_opencode_that_waits_for_its_server_until_it_is_out_of_time_is_no_failure(
    tmp_path: Path, program: Program
) -> None:
    program(
        """print('timestamp=1 message="stream error" error.error="AI_APICallError: slow down"', file=sys.stderr)
sys.stderr.flush(); time.sleep(600)""",
        "opencode",
    )
    answer = ask("opencode", tmp_path, timeout_seconds=2.0)
    assert answer.busy and "no answer in 2 seconds" in answer.problem


def test_codex_may_speak_of_a_network_that_is_waited_for(tmp_path: Path, program: Program) -> None:
    """The log of a training says so, say, and it reads it out. Only what codex says itself is a reason to end it."""
    said = [{"type": "item.completed", "item": {"type": "agent_message", "text": "waiting for network " * 3}}]
    lines = "\n".join(json.dumps(event, separators=(",", ":")) for event in [*said, *RECORDED["codex"]])
    program(f"sys.stdin.read(); print({lines!r}, flush=True); time.sleep(0.5)", "codex")
    answer = ask("codex", tmp_path)
    assert (answer.text, answer.problem) == ("an answer", "")


def test_codex_that_only_waits_for_its_server_is_ended(tmp_path: Path, program: Program) -> None:
    lost = {"type": "error", "message": "Reconnecting... waiting for network (Connection failed)"}
    line = json.dumps(lost, separators=(",", ":"))
    program(f"sys.stdin.read(); print({line!r}); print({line!r}, flush=True); time.sleep(600)", "codex")
    assert ask("codex", tmp_path).busy


def test_a_count_that_is_none_is_unknown(tmp_path: Path, program: Program) -> None:
    program(
        """
        used = {"input_tokens": int("9" * 400), "output_tokens": 5}
        print(json.dumps({"type": "result", "result": "an answer", "usage": used}))
        """,
        "claude",
    )
    assert ask("claude", tmp_path).usage == Usage(None, 5, None)


def test_garbage_before_the_answer_and_5_mb_of_it_is_passed_over(name: str, tmp_path: Path, program: Program) -> None:
    program(printing(name, GARBAGE + "\nprint('x' * 5_000_000, flush=True)", "print('{\"half\": ')"), name)
    answer = ask(name, tmp_path)
    assert (answer.text.strip("\ud800\n"), answer.problem) == ("an answer", "")
    assert answer.transcript is not None and read_turns(answer.transcript)


@pytest.mark.parametrize("said", ["", GARBAGE, "print('I cannot do that, sorry.')", "sys.exit('broken')"])
def test_no_answer_is_a_problem_and_no_exception(name: str, said: str, tmp_path: Path, program: Program) -> None:
    program(said + "\n", name)
    answer = ask(name, tmp_path)
    assert not answer.busy
    assert answer.problem or answer.text == "\ud800", "which is text, if no JSON; the stages refuse it"


def test_a_hung_agent_is_ended_and_what_it_said_is_kept(name: str, tmp_path: Path, program: Program) -> None:
    program(printing(name, after="sys.stdout.flush(); time.sleep(600)"), name)
    answer = ask(name, tmp_path, timeout_seconds=3.0)
    assert "no answer in 3 seconds" in answer.problem
    assert answer.usage.input_tokens == 12, "what it took is counted all the same"


def test_the_prompt_is_never_in_argv_and_edits_are_allowed_only_where_it_may(
    name: str, tmp_path: Path, program: Program
) -> None:
    program(
        printing(name, "open('argv', 'w').write(' '.join(sys.argv[1:]) + os.environ.get('OPENCODE_PERMISSION', ''))"),
        name,
    )
    seen = []
    for may in (False, True):
        ask(name, tmp_path, {"model": "a-model"}, may_edit=may)
        seen.append((tmp_path / "argv").read_text())
    assert all("a-model" in argv and "the prompt" not in argv for argv in seen)
    denied = {"opencode": '"edit":"deny"', "claude": "--disallowedTools Edit", "codex": "-s read-only"}[name]
    allowed = {"opencode": "--format json", "claude": "--permission-mode acceptEdits", "codex": "-s workspace-write"}[
        name
    ]
    assert denied in seen[0] and denied not in seen[1]
    assert allowed in seen[1]


def test_codex_is_read_only_whatever_its_options_say(tmp_path: Path, program: Program) -> None:
    program(printing("codex", "open('argv', 'w').write(' '.join(sys.argv[1:]))"), "codex")
    args = ["-s", "danger-full-access", "--dangerously-bypass-approvals-and-sandbox", "--search"]
    ask("codex", tmp_path, {"args": args}, may_edit=False)
    assert (tmp_path / "argv").read_text() == "exec --json --skip-git-repo-check -s read-only --search -"
    ask("codex", tmp_path, {"args": args}, may_edit=True)
    assert "-s workspace-write" not in (tmp_path / "argv").read_text()


def test_codex_takes_a_file_for_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "codex.toml"
    file.write_text('model_provider = "x"\n[model_providers.x]\nrequires_openai_auth = false\n')
    found = Codex({"config": str(file)}).overrides
    assert found == ["-c", 'model_provider="x"', "-c", "model_providers.x.requires_openai_auth=false"]
    with pytest.raises(UsageError, match="config"):
        Codex({"config": str(tmp_path / "none.toml")})


def test_a_key_in_a_configuration_is_in_no_transcript(tmp_path: Path, program: Program) -> None:
    program(printing("opencode", "print(os.environ['OPENCODE_CONFIG_CONTENT'])"), "opencode")
    answer = ask("opencode", tmp_path, {"config": {"provider": {"x": {"options": {"apiKey": "letmein12345"}}}}})
    assert answer.transcript is not None
    kept = "".join(path.read_text() for path in answer.transcript.iterdir())
    assert "[redacted]" in kept and "letmein12345" not in kept


@pytest.mark.parametrize("as_file", [False, True])
def test_a_key_never_goes_into_a_command_line(as_file: bool, tmp_path: Path, program: Program) -> None:
    """All users of the machine can read those."""
    config: Any = {"model_providers": {"x": {"http_headers": {"Authorization": "Bearer letmein12345"}}}}
    if as_file:
        config = tmp_path / "config.toml"
        config.write_text('[model_providers.x]\nhttp_headers = { Authorization = "Bearer letmein12345" }\n')
    with pytest.raises(UsageError, match="command line") as caught:
        Codex({"config": str(config) if as_file else config})
    assert "env_key" in caught.value.hint
    assert Codex({"config": {"model_providers": {"x": {"env_key": "MY_KEY"}}}}).overrides

    with pytest.raises(UsageError, match="command line"):
        Claude({"config": {"mcp": {"apiKey": "letmein12345"}}})
    program(printing("claude", "open('argv', 'w').write(' '.join(sys.argv))"), "claude")
    ask("claude", tmp_path, {"config": {"env": {"ANTHROPIC_API_KEY": "letmein12345"}}})
    assert "letmein12345" not in (tmp_path / "argv").read_text()


def test_options_that_it_does_not_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="has no modle"):
        KINDS[name]({"modle": "x"})
    with pytest.raises(UsageError, match="model is 5"):
        KINDS[name]({"model": 5})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert KINDS[name]({}).available() == f"{name} is not on PATH"
    with pytest.raises(PreconditionError) as caught:
        ask(name, tmp_path)
    assert "npm install" in caught.value.hint


def test_a_call_that_cannot_be_made_has_a_transcript_too(name: str, tmp_path: Path, program: Program) -> None:
    program(printing(name), name)
    question = Ask("the prompt", tmp_path / "gone", tmp_path / "transcript", may_edit=False, timeout_seconds=60.0)
    answer = KINDS[name]({}).ask(question)
    assert "the folder to run" in answer.problem and not answer.busy
    assert answer.transcript is not None
    assert [turn.by for turn in read_turns(answer.transcript)] == ["autoexp", "error"]
