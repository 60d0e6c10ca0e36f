"""Codex, run without its screen: `codex exec --json`, the prompt on stdin."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoexp.agents.call import Called
from autoexp.agents.program import Program, refuse_secrets, table
from autoexp.agents.waiting import OUTAGE, wait_told
from autoexp.errors import UsageError
from autoexp.spec.answers import number
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask, Usage
from autoexp.spec.transcripts import Turn, as_text, tool_turn

_BEFORE = re.compile(r"(?P<thread>.+)#(?P<read>\d+)\+(?P<written>\d+)")
"""Our name for a conversation: its thread, and what it had taken by then. Codex reports the sum over the thread."""
SANDBOX = ("-s", "--sandbox")
UNSAFE = ("--dangerously-bypass-approvals-and-sandbox", "--approve-for-me", "--yolo")


_WAITS = re.compile(rb'\{"type":"error","message":"[^"\n]*waiting for network')
"""An event of its own; in what others say, which it quotes, there are backslashes."""


class Codex(Program):
    """Its sandbox keeps it from editing, or lets it edit the worktree; it asks nobody for more."""

    binary = "codex"
    install = "npm install -g @openai/codex, or: autoexp start --no-stochastic"
    names = ("CODEX_*", "OPENAI_*", "AZURE_OPENAI_*", "OPENROUTER_API_KEY", "OLLAMA_*", "RUST_LOG")

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        config = self._config()
        refuse_secrets("codex", config, 'name a variable that holds it, by env_key = "…" or env_http_headers')
        self.overrides = [word for key, value in _flat(config) for word in ("-c", f"{key}={value}")]

    def command(self, question: Ask, conversation: str | None) -> list[str]:
        args = list(self.options.args)
        chosen = any(word.split("=")[0] in (*SANDBOX, *UNSAFE) for word in args)
        sandbox = ["-s", "workspace-write"] if question.may_edit and not chosen else []
        if not question.may_edit:
            args, sandbox = _without_sandbox(args), ["-s", "read-only"]
        model = ["-m", self.options.model] if self.options.model else []
        resume = ["resume", _thread(conversation)] if conversation else []
        return [
            *("codex", "exec", "--json", "--skip-git-repo-check"),
            *(*sandbox, *model, *self.overrides, *args, *resume, "-"),
        ]

    def _config(self) -> dict[str, Any]:
        config = self.options.config
        if isinstance(config, dict):
            return config
        if not config:
            return {}
        try:
            return tomllib.loads(Path(config).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"[agents.codex] config: {config}: {error}", "edit it, then try again") from error

    def enough(self) -> Callable[[bytes], bool]:
        seen = b""

        def waits(output: bytes) -> bool:
            """Without a network it waits for ever."""
            nonlocal seen
            seen = (seen + output)[-100_000:]
            return len(_WAITS.findall(seen)) > 1

        return waits

    def gone(self, events: list[dict[str, Any]], called: Called) -> bool:
        return called.ended.code != 0 and "no rollout found for thread" in called.ended.stderr

    def read(self, events: list[dict[str, Any]], called: Called, conversation: str | None) -> Answer:
        threads = [event["thread_id"] for event in events if isinstance(event.get("thread_id"), str)]
        texts = [item["text"] for item in _items(events, "agent_message") if isinstance(item.get("text"), str)]
        text = texts[-1] if texts else ""
        problem, busy = "", False
        failed = [event for event in events if event.get("type") == "turn.failed"]
        if failed or called.ended.how == "cut":
            said = as_text(table(failed[-1], "error").get("message", "")) if failed else _last_error(events)
            problem, busy = f"codex: {said[:500]}", _passes(said)
        elif not any(event.get("type") == "turn.completed" for event in events):
            problem = self.exit_problem(called) or "codex did not finish"
        elif not text:
            problem = "codex gave no answer"
        name, usage = _counted(events, threads[-1] if threads else None, conversation)
        wait = wait_told(problem) if busy else None
        return Answer(text, name, usage, problem=problem, busy=busy, retry_after_seconds=wait)

    def turns(self, events: list[dict[str, Any]], called: Called) -> Iterator[Turn]:
        for item in _items(events):
            kind = item.get("type")
            if kind == "agent_message":
                yield Turn(by="agent", text=as_text(item.get("text", "")))
            elif kind == "reasoning":
                yield Turn(by="thought", text=as_text(item.get("text", "")))
            elif kind == "command_execution":
                yield tool_turn("shell", item.get("command", ""), item.get("aggregated_output"))
            elif kind == "error":
                yield Turn(by="error", text=as_text(item.get("message", "")))
            elif isinstance(kind, str):
                rest = {key: value for key, value in item.items() if key not in ("id", "type")}
                yield tool_turn(kind, rest, None)


def _items(events: list[dict[str, Any]], kind: str | None = None) -> list[dict[str, Any]]:
    found = [table(event, "item") for event in events if event.get("type") == "item.completed"]
    return [item for item in found if kind is None or item.get("type") == kind]


def _last_error(events: list[dict[str, Any]]) -> str:
    errors = [as_text(event.get("message", "")) for event in events if event.get("type") == "error"]
    return errors[-1] if errors else "its server cannot be reached"


def _passes(said: str) -> bool:
    """A quota that is used up is no outage, unless it says until when: waiting does not help."""
    if wait_told(said) is not None:
        return True
    return OUTAGE.search(said) is not None and "quota" not in said.lower()


def _thread(conversation: str) -> str:
    match = _BEFORE.fullmatch(conversation)
    return match["thread"] if match else conversation


def _counted(events: list[dict[str, Any]], thread: str | None, conversation: str | None) -> tuple[str | None, Usage]:
    """(the conversation with what it has taken by now, what this call took)."""
    used = next((table(event, "usage") for event in reversed(events) if event.get("type") == "turn.completed"), {})
    read, written = number(used.get("input_tokens")), number(used.get("output_tokens"))  # cached ones are among them
    before = _BEFORE.fullmatch(conversation or "")
    taken = (int(before["read"]), int(before["written"])) if before and before["thread"] == thread else (0, 0)
    if read is None or written is None:
        return (conversation if before and before["thread"] == thread else thread), Usage(read, written)
    if read < taken[0] or written < taken[1]:  # it counts anew
        taken = (0, 0)
    return (f"{thread}#{read}+{written}" if thread else None), Usage(read - taken[0], written - taken[1])


def _without_sandbox(args: list[str]) -> list[str]:
    kept, skip = [], False
    for word in args:
        if skip:
            skip = False
        elif word in SANDBOX:
            skip = True
        elif word.split("=")[0] not in (*SANDBOX, *UNSAFE):
            kept.append(word)
    return kept


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`model_providers.local.base_url = "…"`, as codex takes its configuration on the command line."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, json.dumps(value)


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("codex", Codex(options.get("codex", {})))
