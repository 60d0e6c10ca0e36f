"""OpenCode (https://opencode.ai), run without its screen: `opencode run --format json`, the prompt on stdin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from autoexp.agents.call import call, exit_problem, last_words
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask

INSTALL = "npm install -g opencode-ai, or: autoexp start --no-stochastic"
READ_ONLY = '{"edit":"deny","bash":"deny"}'
"""For a folder that is no worktree of the run's own: OpenCode takes the checkout around it, the user's, for its project
and would edit that. Read from the environment, it goes before the user's configuration."""


class OpenCode:
    """Edits files only where `cwd` is a worktree; asked anywhere else it may look, and answers."""

    def __init__(self, options: dict[str, Any]) -> None:
        # A title of ours saves the model call that would make one up.
        self.command = ("opencode", "run", "--title", "autoexp", *options.get("args", ()), "--format", "json")

    def available(self) -> str | None:
        return None if shutil.which(self.command[0]) else "opencode is not on PATH"

    def ask(self, question: Ask) -> Answer:
        env = {} if question.may_edit else {"OPENCODE_PERMISSION": READ_ONLY}
        called = call(self.command, question.prompt, question, hint=INSTALL, env=env)
        parsed = list(events(called.ended.stdout))
        problem = error_of(parsed) or exit_problem(self.command, called.ended) or ""
        text = text_of(parsed)
        if not text and not problem:  # it ends so, with exit code 0, after a tool call that its permissions refused
            problem = f"opencode gave no answer: {last_words(called.ended)}"
        return Answer(text, problem=problem and f"{problem} (see {called.folder})", transcript=called.folder)


def events(stdout: str) -> Iterator[dict[str, Any]]:
    """The events in the stream, one JSON object a line; lines that are something else are passed over."""
    for line in stdout.splitlines():
        if not line.lstrip().startswith("{"):
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def text_of(parsed: list[dict[str, Any]]) -> str:
    """All text in order. The answer is what was said last; there is no event of its own for it."""
    parts = [event.get("part") for event in parsed if event.get("type") == "text"]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str) and text.strip())


def error_of(parsed: list[dict[str, Any]]) -> str | None:
    """The words of the last error event; None when there is none."""
    errors = [event.get("error") for event in parsed if event.get("type") == "error"]
    if not errors:
        return None
    error: Any = errors[-1]
    data = error.get("data") if isinstance(error, dict) else None
    for place in (data, error):
        if isinstance(place, dict) and isinstance(place.get("message"), str):
            return f"opencode: {place['message'][:500]}"
    return f"opencode: {json.dumps(error)[:500]}"


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("opencode", OpenCode(options.get("opencode", {})))
