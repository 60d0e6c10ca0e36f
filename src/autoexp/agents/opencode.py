"""OpenCode (https://opencode.ai), run without its screen: `opencode run --format json`, the prompt on stdin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from autoexp.agents.call import Called, last_words
from autoexp.agents.program import Program, summed, table
from autoexp.agents.waiting import OUTAGE, wait_in, wait_told
from autoexp.spec.answers import amount
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask, Usage
from autoexp.spec.transcripts import Turn, tool_turn

READ_ONLY = '{"edit":"deny","bash":"deny"}'
"""Read from the environment, it goes before the user's configuration."""
STREAM_ERROR = b'message="stream error"'
"""In its log for each call of the model that failed. It is only repeated for what may pass, and then for minutes."""


class OpenCode(Program):
    """What it may edit or run is as its configuration says; what that says to ask for is denied: nobody is there."""

    binary = "opencode"
    install = "npm install -g opencode-ai, or: autoexp start --no-stochastic"
    # It talks to any provider: those whose keys it finds.
    names = (
        *("OPENCODE_*", "ANTHROPIC_*", "OPENAI_*", "OPENROUTER_*", "GEMINI_*", "GOOGLE_*", "GROQ_*", "MISTRAL_*"),
        *("DEEPSEEK_*", "XAI_*", "AZURE_*", "AWS_*", "TOGETHER_*", "FIREWORKS_*", "CEREBRAS_*", "GITHUB_TOKEN"),
        *("HF_TOKEN", "VERTEX_LOCATION", "OLLAMA_*"),
    )

    def command(self, question: Ask, conversation: str | None) -> list[str]:
        # A title of ours saves the model call that would make one up.
        begin = ["--session", conversation] if conversation else ["--title", "autoexp"]
        model = ["--model", self.options.model] if self.options.model else []
        log = ["--print-logs", "--log-level", "ERROR"]
        return ["opencode", "run", *begin, *model, *self.options.args, *log, "--format", "json"]

    def variables(self, question: Ask) -> dict[str, str]:
        found = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_CLIENT": "autoexp"}
        if isinstance(self.options.config, dict):
            found["OPENCODE_CONFIG_CONTENT"] = json.dumps(self.options.config)
        elif self.options.config:
            found["OPENCODE_CONFIG"] = self.options.config
        return found if question.may_edit else {**found, "OPENCODE_PERMISSION": READ_ONLY}

    def enough(self) -> Callable[[bytes], bool]:
        seen = b""

        def twice(output: bytes) -> bool:
            """It has failed and failed again, without an event in between."""
            nonlocal seen
            seen = (seen + output)[-100_000:]
            return seen[seen.rfind(b'{"type":') + 1 :].count(STREAM_ERROR) > 1

        return twice

    def gone(self, events: list[dict[str, Any]], called: Called) -> bool:
        return not events and called.ended.code != 0 and "Session not found" in called.ended.stderr

    def read(self, events: list[dict[str, Any]], called: Called, conversation: str | None) -> Answer:
        names = [event["sessionID"] for event in events if isinstance(event.get("sessionID"), str)]
        text, stderr = text_of(events), said_on(called.ended.stderr)
        problem, busy = error_of(events), False
        # out of time after a failed call of the model, it was waiting as long as its server had asked it to
        if called.ended.how == "cut" or (called.ended.how == "timeout" and _stream_error(called.ended.stderr)):
            said = _stream_error(called.ended.stderr) or "its server cannot be reached"
            problem, busy = f"opencode: {said}", True
        elif not problem and called.ended.code != 0:
            problem = f"opencode ended with exit code {called.ended.code}: {last_words(stderr)}"
        elif not text and not problem:  # it ends so, with exit code 0, after a tool call that was refused
            problem = f"opencode gave no answer: {last_words(stderr)}"
        busy = busy or _passes(events)
        wait = _wait(events, problem) if busy else None
        talk = names[-1] if names else conversation
        return Answer(text, talk, usage_of(events), problem=problem, busy=busy, retry_after_seconds=wait)

    def turns(self, events: list[dict[str, Any]], called: Called) -> Iterator[Turn]:
        for event in events:
            part = table(event, "part")
            if event.get("type") == "text" and isinstance(part.get("text"), str):
                yield Turn(by="agent", text=part["text"])
            elif event.get("type") == "reasoning" and isinstance(part.get("text"), str):
                yield Turn(by="thought", text=part["text"])
            elif event.get("type") == "tool_use":
                state = table(part, "state")
                yield tool_turn(part.get("tool", "?"), state.get("input", ""), state.get("output", state.get("error")))


def text_of(events: list[dict[str, Any]]) -> str:
    """All text in order. The answer is what was said last; there is no event of its own for it."""
    texts = [table(event, "part").get("text") for event in events if event.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str) and text.strip())


def usage_of(events: list[dict[str, Any]]) -> Usage:
    """The sum over its steps. For a model that it has no price of it says 0, which is unknown."""
    steps = [table(event, "part") for event in events if event.get("type") == "step_finish"]
    tokens = [table(step, "tokens") for step in steps]
    read = summed(*(each.get("input") for each in tokens), *(v for t in tokens for v in table(t, "cache").values()))
    written = summed(*(each.get(key) for each in tokens for key in ("output", "reasoning")))
    cost = sum(amount(step.get("cost")) or 0.0 for step in steps)
    return Usage(read, written, cost or None)


def error_of(events: list[dict[str, Any]]) -> str:
    """The words of the last error event; '' when there is none."""
    errors = [event.get("error") for event in events if event.get("type") == "error"]
    if not errors:
        return ""
    for place in (table(errors[-1], "data"), table(errors[-1])):
        if isinstance(place.get("message"), str):
            return f"opencode: {place['message'][:500]}"
    return f"opencode: {json.dumps(errors[-1])[:500]}"


def _passes(events: list[dict[str, Any]]) -> bool:
    """Whether the last error is one that passes."""
    errors = [event.get("error") for event in events if event.get("type") == "error"]
    data = table(errors[-1], "data") if errors else {}
    status = data.get("statusCode")
    if isinstance(status, int):
        return status == 429 or status >= 500
    return bool(errors) and (data.get("isRetryable") is True or OUTAGE.search(error_of(events)) is not None)


def _wait(events: list[dict[str, Any]], problem: str) -> float | None:
    """How long the server asked to wait, by the headers that it tells or by the words."""
    errors = [event.get("error") for event in events if event.get("type") == "error"]
    said = wait_in(table(errors[-1], "data", "responseHeaders")) if errors else None
    return said if said is not None else wait_told(problem)


def said_on(stderr: str) -> str:
    """What it said on stderr, its log left out."""
    return "\n".join(line for line in stderr.splitlines() if not line.startswith("timestamp="))


def _stream_error(stderr: str) -> str:
    """The reason in the last line of its log about a failed call; '' when none has failed."""
    lines = [line for line in stderr.splitlines() if STREAM_ERROR.decode() in line]
    return lines[-1].partition(" error.error=")[2].strip('"')[:500] if lines else ""


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("opencode", OpenCode(options.get("opencode", {})))
