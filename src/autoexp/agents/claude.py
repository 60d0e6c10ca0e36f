"""Claude Code, run without its screen: `claude -p --output-format stream-json`, the prompt on stdin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from autoexp.agents.call import Called
from autoexp.agents.program import OUTAGE, Program, price, summed, table
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask, Usage
from autoexp.spec.transcripts import Turn, as_text, tool_turn

WRITING = "Edit,MultiEdit,Write,NotebookEdit,Bash"
"""Tools that are denied where nothing may be edited; a denial goes before whatever the user's settings allow."""


class Claude(Program):
    """Edits are accepted where it may edit; commands are run as its own settings allow: nobody is there to be asked."""

    binary = "claude"
    install = "npm install -g @anthropic-ai/claude-code, or: autoexp start --no-stochastic"
    names = (
        *("ANTHROPIC_*", "CLAUDE_*", "CLAUDECODE", "DISABLE_*", "API_TIMEOUT_MS", "MAX_THINKING_TOKENS", "BASH_*"),
        *("AWS_*", "CLOUD_ML_REGION", "GOOGLE_APPLICATION_CREDENTIALS", "VERTEX_*"),
    )

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

    def gone(self, events: list[dict[str, Any]], called: Called) -> bool:
        return "No conversation found with session ID" in as_text(_result(events).get("errors") or called.ended.stderr)

    def read(self, events: list[dict[str, Any]], called: Called, conversation: str | None) -> Answer:
        result = _result(events)
        names = [event["session_id"] for event in events if isinstance(event.get("session_id"), str)]
        text = result.get("result") if isinstance(result.get("result"), str) else ""
        # `subtype` says "success" of a failed call too
        problem, busy = "", False
        if result.get("is_error"):
            said = text or as_text(result.get("errors") or result.get("subtype") or "an error")
            problem, busy = f"claude: {said[:500]}", _passes(result, said)
            text = ""
        elif not result:
            problem = self.exit_problem(called) or "claude gave no result"
        elif not text:
            problem = "claude gave no answer"
        return Answer(text or "", names[-1] if names else conversation, _usage(result), problem=problem, busy=busy)

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


def _usage(result: dict[str, Any]) -> Usage:
    used = table(result, "usage")
    keys = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    read = summed(*(used.get(key) for key in keys))
    return Usage(read, summed(used.get("output_tokens")), price(result.get("total_cost_usd")))


def _passes(result: dict[str, Any], said: str) -> bool:
    status = result.get("api_error_status")
    if isinstance(status, int):
        return status == 429 or status >= 500
    return OUTAGE.search(said) is not None


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("claude", Claude(options.get("claude", {})))
