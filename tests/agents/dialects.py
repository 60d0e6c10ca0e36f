"""The three protocols that agents speak with a model: OpenAI's chat completions and responses, Anthropic's messages.

Each dialect reads a request into the same `Turn`, and writes a reply as one JSON object or as a stream of events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Json = dict[str, Any]
Event = tuple[str | None, Json]
"""The name of a server-sent event, if the protocol names them, and its data."""
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 1000, 600, 20
"""What each reply says that it took. Those from a cache are among the input tokens."""


@dataclass(frozen=True)
class Said:
    """A part of the conversation."""

    by: Literal["system", "user", "model", "tool"]
    text: str


@dataclass(frozen=True)
class Use:
    """The model calls a tool by the name that the agent gave it."""

    tool: str
    arguments: Json


@dataclass(frozen=True)
class Request:
    """What every dialect finds in a request."""

    said: tuple[Said, ...]
    tools: frozenset[str]


class Dialect(Protocol):
    """A protocol. `number` tells the replies of a server apart."""

    path: str
    """How the address ends."""

    def read(self, body: Json) -> Request: ...

    def whole(self, body: Json, reply: str | Use, number: int) -> Json: ...

    def stream(self, body: Json, reply: str | Use, number: int) -> Iterator[Event]: ...

    def refusal(self, status: int, message: str) -> Json: ...


def _text(content: Any) -> str:
    """The words in a content: a text, or a list of parts with texts, which may hold contents again."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or content.get("output"))
    return "\n".join(filter(None, map(_text, content))) if isinstance(content, list) else ""


BY: dict[str, Literal["system", "user", "model", "tool"]] = {
    "system": "system",
    "developer": "system",
    "assistant": "model",
    "tool": "tool",
}


class Chat:
    """OpenAI's chat completions: OpenCode through @ai-sdk/openai-compatible, and the openai SDK."""

    path = "/chat/completions"
    usage = {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }

    def read(self, body: Json) -> Request:
        said = [Said(BY.get(each["role"], "user"), _text(each.get("content"))) for each in body["messages"]]
        return Request(tuple(said), frozenset(tool["function"]["name"] for tool in body.get("tools") or ()))

    def whole(self, body: Json, reply: str | Use, number: int) -> Json:
        message: Json = {"role": "assistant", "content": reply}
        if isinstance(reply, Use):
            message = {"role": "assistant", "content": None, "tool_calls": [self._call(reply, number)]}
        choice = {"index": 0, "message": message, "finish_reason": self._reason(reply)}
        return self._frame(body, number, "chat.completion", [choice]) | {"usage": self.usage}

    def stream(self, body: Json, reply: str | Use, number: int) -> Iterator[Event]:
        delta: Json = {"content": reply}
        if isinstance(reply, Use):
            delta = {"tool_calls": [{"index": 0, **self._call(reply, number)}]}
        for change, reason in (({"role": "assistant", "content": ""}, None), (delta, None), ({}, self._reason(reply))):
            choice = {"index": 0, "delta": change, "finish_reason": reason}
            yield None, self._frame(body, number, "chat.completion.chunk", [choice])
        yield None, self._frame(body, number, "chat.completion.chunk", []) | {"usage": self.usage}

    def refusal(self, status: int, message: str) -> Json:
        return {"error": {"message": message, "type": "rate_limit_error" if status == 429 else "error", "code": None}}

    def _call(self, reply: Use, number: int) -> Json:
        function = {"name": reply.tool, "arguments": json.dumps(reply.arguments)}
        return {"id": f"call_{number}", "type": "function", "function": function}

    def _reason(self, reply: str | Use) -> str:
        return "tool_calls" if isinstance(reply, Use) else "stop"

    def _frame(self, body: Json, number: int, kind: str, choices: list[Json]) -> Json:
        return {"id": f"chat_{number}", "object": kind, "created": 1, "model": body.get("model"), "choices": choices}


class Messages:
    """Anthropic's messages: Claude Code."""

    path = "/messages"

    def read(self, body: Json) -> Request:
        said = [Said("system", _text(body.get("system")))]
        for message in body["messages"]:
            content = message["content"]
            for part in [content] if isinstance(content, str) else content:
                result = isinstance(part, dict) and part.get("type") == "tool_result"
                said.append(Said("tool" if result else BY.get(message["role"], "user"), _text(part)))
        return Request(tuple(said), frozenset(tool["name"] for tool in body.get("tools") or ()))

    def whole(self, body: Json, reply: str | Use, number: int) -> Json:
        usage = {
            "input_tokens": INPUT_TOKENS - CACHED_TOKENS,
            "cache_read_input_tokens": CACHED_TOKENS,
            "cache_creation_input_tokens": 0,
            "output_tokens": OUTPUT_TOKENS,
        }
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "content": [self._block(reply, number)],
            "stop_reason": self._reason(reply),
            "stop_sequence": None,
            "usage": usage,
        }

    def stream(self, body: Json, reply: str | Use, number: int) -> Iterator[Event]:
        block = self._block(reply, number)
        if isinstance(reply, Use):
            empty, delta = {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(reply.arguments)}
        else:
            empty, delta = {"text": ""}, {"type": "text_delta", "text": reply}
        message = self.whole(body, reply, number) | {"content": [], "stop_reason": None}
        stop = {"stop_reason": self._reason(reply), "stop_sequence": None}
        parts: list[Json] = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block | empty},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": OUTPUT_TOKENS}},
            {"type": "message_stop"},
        ]
        for part in parts:
            yield part["type"], part

    def refusal(self, status: int, message: str) -> Json:
        kinds = {429: "rate_limit_error", 529: "overloaded_error"}
        return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": message}}

    def _block(self, reply: str | Use, number: int) -> Json:
        if isinstance(reply, Use):
            return {"type": "tool_use", "id": f"toolu_{number}", "name": reply.tool, "input": reply.arguments}
        return {"type": "text", "text": reply}

    def _reason(self, reply: str | Use) -> str:
        return "tool_use" if isinstance(reply, Use) else "end_turn"


class Responses:
    """OpenAI's responses: Codex."""

    path = "/responses"

    def read(self, body: Json) -> Request:
        said = [Said("system", _text(body.get("instructions")))]
        given = body["input"]
        for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
            result = str(item.get("type", "")).endswith("_output")
            said.append(Said("tool" if result else BY.get(item.get("role", "assistant"), "user"), _text(item)))
        tools = (tool.get("name") or tool["type"] for tool in body.get("tools") or ())
        return Request(tuple(said), frozenset(tools))

    def whole(self, body: Json, reply: str | Use, number: int) -> Json:
        return {
            "id": f"resp_{number}",
            "object": "response",
            "created_at": 1,
            "model": body.get("model"),
            "status": "completed",
            "output": [self._item(reply, number)],
            "usage": {
                "input_tokens": INPUT_TOKENS,
                "input_tokens_details": {"cached_tokens": CACHED_TOKENS},
                "output_tokens": OUTPUT_TOKENS,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
            },
        }

    def stream(self, body: Json, reply: str | Use, number: int) -> Iterator[Event]:
        whole, item = self.whole(body, reply, number), self._item(reply, number)
        place = {"output_index": 0, "item_id": item["id"], "content_index": 0}
        begun = whole | {"status": "in_progress", "output": [], "usage": None}
        parts: list[Json] = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": item | {"status": "in_progress"}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": whole},
        ]
        if isinstance(reply, str):
            parts.insert(2, {"type": "response.output_text.delta", **place, "delta": reply})
        for part in parts:
            yield part["type"], part

    def refusal(self, status: int, message: str) -> Json:
        return Chat().refusal(status, message)

    def _item(self, reply: str | Use, number: int) -> Json:
        if isinstance(reply, Use):
            call = {"name": reply.tool, "arguments": json.dumps(reply.arguments), "call_id": f"call_{number}"}
            return {"type": "function_call", "id": f"fc_{number}", "status": "completed", **call}
        content = [{"type": "output_text", "text": reply, "annotations": []}]
        message = {"role": "assistant", "status": "completed", "content": content}
        return {"type": "message", "id": f"msg_{number}", **message}


DIALECTS: tuple[Dialect, ...] = (Chat(), Messages(), Responses())
