"""Any OpenAI-compatible endpoint: chat completions by the official SDK (`pip install "autoexp[openai]"`)."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoexp.agents.call import finished, keep, keep_meta, next_folder
from autoexp.agents.program import Options
from autoexp.agents.waiting import wait_in
from autoexp.errors import Interrupted, PreconditionError, UsageError
from autoexp.spec.answers import amount, number
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask, Usage
from autoexp.spec.transcripts import Turn, as_text

INSTALL = 'pip install "autoexp[openai]", or: autoexp start --no-stochastic'
SET = 'set [agents.openai] model = "…", and base_url for another server than OpenAI\'s, in autoexp.toml'
KEY = "OPENAI_API_KEY"
MESSAGES_FILE = "messages.json"
LOOK = 0.05
"""Seconds between two looks at the clock and at `stop`."""


@dataclass
class _Reply:
    """What a call in a thread of its own came to; `done` once it did."""

    done: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    error: BaseException | None = None


class OpenAI:
    """It reads and answers, and cannot edit files: its edits are in its answers."""

    edits_files = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = ("base_url", "api_key_env", "request")
        for name in ("args", "config", "env"):
            if name in options:
                raise UsageError(
                    f"[agents.openai] has no {name}: it is no program", "use model, base_url, api_key_env, request"
                )
        for name in ("base_url", "api_key_env"):
            if not isinstance(options.get(name, ""), str):
                raise UsageError(f"[agents.openai] {name} is {options[name]!r}", "edit autoexp.toml, then try again")
        self.options = Options("openai", options, known)
        self.base_url: str | None = options.get("base_url") or None
        self.key_name: str = options.get("api_key_env") or KEY
        self.key_is_named = "api_key_env" in options
        self.request = options.get("request", {})
        if not isinstance(self.request, dict):
            raise UsageError(f"[agents.openai] request is {self.request!r}", "edit autoexp.toml, then try again")

    @property
    def mend(self) -> str:
        """What to type, or to set, when it is not available."""
        missing = self.available() or ""
        if "installed" in missing:
            return INSTALL.partition(", or: ")[0]
        return f"export {self.key_name}=…" if "no key" in missing else SET

    def available(self) -> str | None:
        if importlib.util.find_spec("openai") is None:
            return "the package openai is not installed"
        if not self.options.model:
            return "the agent 'openai' has no model: agents.openai.model is not set"
        if not os.environ.get(self.key_name) and (self.key_is_named or self.base_url is None):
            return f"the agent 'openai' has no key: {self.key_name} is not set"
        return None

    def ask(self, question: Ask) -> Answer:
        if missing := self.available():
            raise PreconditionError(missing, self.mend)
        folder, root = next_folder(question.transcript), _root(question.transcript)
        before = _messages(root, question.conversation)
        if question.conversation is not None and not before:
            question = replace(question, prompt=question.anew or question.prompt, conversation=None)
        messages = [*before, {"role": "user", "content": question.prompt.encode(errors="replace").decode()}]
        secrets = [*self.options.secrets, os.environ.get(self.key_name, "")]
        keep(folder / "prompt.txt", question.prompt, secrets)
        body = {"model": self.options.model, "messages": messages, **self.request}
        keep(folder / "request.json", json.dumps(body, indent=1, ensure_ascii=False) + "\n", secrets)
        started = time.monotonic()
        reply, late = self._call(question, messages)
        meta = {
            "task": question.task,
            "model": self.options.model,
            "base_url": self.base_url,
            "seconds": round(time.monotonic() - started, 3),
        }
        keep_meta(folder, meta, secrets)
        if late == "stopped":
            raise Interrupted("stopped while the model was at work", "autoexp resume")
        if late:
            answer, raw = Answer("", problem=late), ""
        elif reply.error is not None:
            answer, raw = _failed(reply.error), repr(reply.error)
        else:
            answer, raw = _read(reply.value), _dumped(reply.value)
        keep(folder / "response.json", raw + "\n", secrets)
        if not answer.problem:
            said = [*messages, {"role": "assistant", "content": answer.text}]
            keep(folder / MESSAGES_FILE, json.dumps(said, ensure_ascii=False) + "\n", secrets)
            name = str(folder.relative_to(root))
            answer = Answer(answer.text, name, answer.usage)
        earlier = [_turn(message) for message in before]
        turns = (*earlier, Turn(by="autoexp", text=question.prompt), *_said(answer))
        return finished(folder, answer, turns, secrets)

    def _call(self, question: Ask, messages: list[dict[str, str]]) -> tuple[_Reply, str]:
        """(the reply, why it was not waited for). A server that sends a byte now and then cannot hold this up."""
        import openai

        reply = _Reply()
        client = openai.OpenAI(
            base_url=self.base_url,
            api_key=os.environ.get(self.key_name) or "none",  # local servers want any
            timeout=question.timeout_seconds,
            max_retries=0,  # waiting is done by who asks
        )

        def work() -> None:
            try:
                # The options by the body: servers have more of them than the SDK has names for.
                body: Any = messages
                reply.value = client.chat.completions.create(
                    model=self.options.model, messages=body, extra_body=self.request
                )
            except BaseException as error:
                reply.error = error
            finally:
                reply.done.set()

        threading.Thread(target=work, name="autoexp-openai", daemon=True).start()
        until = time.monotonic() + question.timeout_seconds
        while not reply.done.wait(LOOK):
            if question.stop():
                client.close()
                return reply, "stopped"
            if time.monotonic() > until:
                client.close()
                return reply, f"the model gave no answer in {question.timeout_seconds:g} seconds"
        client.close()
        return reply, ""


def _read(completion: Any) -> Answer:
    """The answer in a completion, whatever the server made of one."""
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None)
    used = getattr(completion, "usage", None)
    usage = Usage(
        number(getattr(used, "prompt_tokens", None)),
        number(getattr(used, "completion_tokens", None)),
        amount(getattr(used, "cost", None)),  # OpenRouter says it
    )
    if isinstance(text, str) and text.strip():
        if getattr(choice, "finish_reason", None) == "length":
            return Answer(text, None, usage, problem="the answer was cut off at the model's limit of tokens")
        return Answer(text, None, usage)
    refusal = getattr(message, "refusal", None)
    said = getattr(completion, "error", None)  # some servers answer 200 and an error
    why = refusal or (as_text(said) if said else "") or "it holds no text"
    return Answer("", None, usage, problem=f"the model gave no answer: {str(why)[:500]}")


def _failed(error: BaseException) -> Answer:
    """What an exception of the SDK means: wait, or not."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Answer("", problem="the model's server gave no answer in time")
    if isinstance(error, openai.APIConnectionError):
        reason = error.__cause__ or error
        return Answer("", problem=f"the model's server cannot be reached: {reason}", busy=True)
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        spent = "insufficient_quota" in str(error)  # waiting fills no purse
        busy = (status == 429 and not spent) or status >= 500 or status == 408
        wait = wait_in(error.response.headers) if busy else None
        said = str(error)[:500]
        return Answer("", problem=f"the model's server: {said}", busy=busy, retry_after_seconds=wait)
    return Answer("", problem=f"the model's server: {type(error).__name__}: {str(error)[:500]}")


def _root(transcript: Path) -> Path:
    """The folder of the iteration: conversations are named by where they are in it."""
    for folder in transcript.parents:
        if folder.parent.name == "iterations":
            return folder
    return transcript.parent


def _messages(root: Path, conversation: str | None) -> list[dict[str, str]]:
    """What was said in a conversation; nothing of one that is gone."""
    if conversation is None:
        return []
    path = (root / conversation / MESSAGES_FILE).resolve()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_relative_to(root.resolve()) else []
        return [{"role": str(message["role"]), "content": str(message["content"])} for message in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _turn(message: Mapping[str, str]) -> Turn:
    return Turn(by="agent" if message["role"] == "assistant" else "autoexp", text=message["content"])


def _said(answer: Answer) -> list[Turn]:
    return [Turn(by="agent", text=answer.text)] if answer.text else []


def _dumped(completion: Any) -> str:
    try:
        return str(completion.model_dump_json(indent=1))
    except Exception:  # a server may answer with anything, and the SDK hands it on
        return as_text(completion)


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("openai", OpenAI(options.get("openai", {})))
