"""Claude Code, run without its screen: `claude -p --output-format stream-json`, the prompt on stdin."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from autoexp.agents.call import Called
from autoexp.agents.program import Program, refuse_secrets, summed, table
from autoexp.agents.waiting import OUTAGE, wait_told
from autoexp.spec.answers import amount, number
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask, Usage
from autoexp.spec.transcripts import Turn, as_text, tool_turn

WRITING = "Edit,MultiEdit,Write,NotebookEdit,Bash"
"""Tools that are denied where nothing may be edited; a denial goes before whatever the user's settings allow."""


_RETRY = re.compile(rb'"subtype":"api_retry".{0,400}?"retry_delay_ms":(\d+)')
"""In its stream, when its server is busy and it will ask again by itself."""
LONGEST_WAIT_MS = 10_000
"""Of its own; a longer one is cut, for who called it to wait instead."""


class Claude(Program):
    """Edits are accepted where it may edit; commands are run as its own settings allow: nobody is there to be asked."""

    binary = "claude"
    install = "npm install -g @anthropic-ai/claude-code, or: autoexp start --no-stochastic"
    names = (
        *("ANTHROPIC_*", "CLAUDE_*", "CLAUDECODE", "DISABLE_*", "API_TIMEOUT_MS", "MAX_THINKING_TOKENS", "BASH_*"),
        *("AWS_*", "CLOUD_ML_REGION", "GOOGLE_APPLICATION_CREDENTIALS", "VERTEX_*"),
    )

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        if isinstance(self.options.config, dict):
            instead = 'put it under env, or the whole into a file: config = "/…/settings.json"'
            refuse_secrets("claude", _public(self.options.config), instead)

    def command(self, question: Ask, conversation: str | None) -> list[str]:
        model = ["--model", self.options.model] if self.options.model else []
        config = ["--settings", self._settings()] if self.options.config else []
        own = ["claude", "-p", "--output-format", "stream-json", "--verbose"]
        if conversation:
            own += ["--resume", conversation]
        if question.may_edit:  # before the user's options: of an option that is given twice the last counts
            return [*own, "--permission-mode", "acceptEdits", *model, *config, *self.options.args]
        read_only = ["--permission-mode", "default", "--disallowedTools", WRITING]
        return [*own, *model, *config, *self.options.args, *read_only]

    def _settings(self) -> str:
        config = self.options.config
        return config if isinstance(config, str) else json.dumps(_public(config))

    def variables(self, question: Ask) -> dict[str, str]:
        config = self.options.config
        # The table's own `env` goes by the environment, because a command line can be read by everybody.
        inline = {str(k): str(v) for k, v in table(config, "env").items()}
        return {
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **inline,
        }

    def enough(self) -> Callable[[bytes], bool]:
        seen = b""

        def waits(output: bytes) -> bool:
            """Its server has asked it to wait for long."""
            nonlocal seen
            seen = (seen + output)[-10_000:]
            return any(int(delay) > LONGEST_WAIT_MS for delay in _RETRY.findall(seen))

        return waits

    def gone(self, events: list[dict[str, Any]], called: Called) -> bool:
        return "No conversation found with session ID" in as_text(_result(events).get("errors") or called.ended.stderr)

    def read(self, events: list[dict[str, Any]], called: Called, conversation: str | None) -> Answer:
        result = _result(events)
        names = [event["session_id"] for event in events if isinstance(event.get("session_id"), str)]
        text = result.get("result") if isinstance(result.get("result"), str) else ""
        # `subtype` says "success" of a failed call too
        problem, busy, wait = "", False, None
        if not result and called.ended.how in ("cut", "timeout") and (retry := _retry(events)):
            said = " ".join(str(retry[key]) for key in ("error_status", "error") if retry.get(key))
            problem, busy = f"claude: {said or 'its server is busy'}", True
            wait = (number(retry.get("retry_delay_ms")) or 0) / 1000
        elif result.get("is_error"):
            said = text or as_text(result.get("errors") or result.get("subtype") or "an error")
            problem, busy = f"claude: {said[:500]}", _passes(result, said)
            text, wait = "", _wait(events, said) if busy else None
        elif not result:
            problem = self.exit_problem(called) or "claude gave no result"
        elif not text:
            problem = "claude gave no answer"
        talk = names[-1] if names else conversation
        return Answer(text or "", talk, _usage(result), problem=problem, busy=busy, retry_after_seconds=wait)

    def turns(self, events: list[dict[str, Any]], called: Called) -> Iterator[Turn]:
        used: dict[str, dict[str, Any]] = {}
        for event in events:
            content = table(event, "message").get("content")
            for block in content if isinstance(content, list) else ():
                kind = block.get("type") if isinstance(block, dict) else None
                if kind == "text" and isinstance(block.get("text"), str):
                    yield Turn(by="agent", text=block["text"])
                elif kind == "thinking" and isinstance(block.get("thinking"), str):
                    yield Turn(by="thought", text=block["thinking"])
                elif kind == "tool_use":
                    used[str(block.get("id"))] = block
                elif kind == "tool_result":
                    use = used.pop(str(block.get("tool_use_id")), {})
                    yield tool_turn(use.get("name", "?"), use.get("input", ""), block.get("content"))
        for use in used.values():
            yield tool_turn(use.get("name", "?"), use.get("input", ""), None)


def _public(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "env"}


def _result(events: list[dict[str, Any]]) -> dict[str, Any]:
    return next((event for event in reversed(events) if event.get("type") == "result"), {})


def _retry(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The last event, when it says that it waits to ask its server again."""
    return events[-1] if events and events[-1].get("subtype") == "api_retry" else {}


def _wait(events: list[dict[str, Any]], said: str) -> float | None:
    """How long its server asked to wait: until a limit is lifted, as it says, or as it has waited itself."""
    for event in reversed(events):
        limit = table(event, "rate_limit_info")
        if limit.get("status") == "rejected" and (until := number(limit.get("resetsAt"))) is not None:
            return max(0.0, until - time.time())
    told = wait_told(said)
    delays = [number(event.get("retry_delay_ms")) for event in events if event.get("subtype") == "api_retry"]
    return told if told is not None or not delays else (delays[-1] or 0) / 1000


def _usage(result: dict[str, Any]) -> Usage:
    used = table(result, "usage")
    keys = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    read = summed(*(used.get(key) for key in keys))
    return Usage(read, summed(used.get("output_tokens")), amount(result.get("total_cost_usd")))


def _passes(result: dict[str, Any], said: str) -> bool:
    status = result.get("api_error_status")
    if isinstance(status, int):
        return status == 429 or status >= 500
    return OUTAGE.search(said) is not None


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("claude", Claude(options.get("claude", {})))
