"""Any program that reads a question as JSON on stdin and writes its answer on stdout: `[agent] name = "command"`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from autoexp.agents.call import Called
from autoexp.agents.program import Options, Program, table
from autoexp.errors import AgentError, PreconditionError, UsageError
from autoexp.spec.answers import amount, extract_object, number
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask, Usage
from autoexp.spec.transcripts import Turn

HINT = 'set [agent] args = ["my-program", "--its-option"] in autoexp.toml'
BUSY = 75
"""EX_TEMPFAIL of sysexits.h: the exit code that asks to be called again later."""


class Command(Program):
    """`args` of the settings are the whole command line. With `input = "text"` it gets the prompt alone, as text."""

    install = HINT

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = Options("command", options, ("input",))
        self.input = options.get("input", "json")
        if self.input not in ("json", "text"):
            raise UsageError(
                f'[agents.command] input is {self.input!r}, neither "json" nor "text"',
                "edit autoexp.toml, then try again",
            )
        self.binary = self.options.args[0] if self.options.args else "the agent 'command'"

    @property
    def mend(self) -> str:
        return HINT if not self.options.args else f"install {self.binary}, or correct [agent] args in autoexp.toml"

    def available(self) -> str | None:
        if not self.options.args:
            return "the agent 'command' has no command line: agent.args is empty"
        return None if shutil.which(self.binary) else f"{self.binary} is not on PATH"

    def ask(self, question: Ask) -> Answer:
        if missing := self.available():
            raise PreconditionError(missing, self.mend)
        return super().ask(question)

    def stdin(self, question: Ask) -> str:
        if self.input == "text":
            return question.prompt
        own = {"task": question.task, "prompt": question.prompt, "may_edit": question.may_edit}
        return json.dumps({**question.brief, **own, "conversation": question.conversation}, default=str) + "\n"

    def command(self, question: Ask, conversation: str | None) -> list[str]:
        return list(self.options.args)

    def read(self, events: list[dict[str, Any]], called: Called, conversation: str | None) -> Answer:
        problem = self.exit_problem(called)
        try:
            said = extract_object(called.ended.stdout)
        except AgentError:
            said = {}
        used = table(said, "usage")
        usage = Usage(number(used.get("input_tokens")), number(used.get("output_tokens")), amount(used.get("cost_usd")))
        talk = said.get("conversation")
        talk = talk if isinstance(talk, str) else None
        busy = called.ended.code == BUSY
        wait = amount(said.get("retry_after_seconds")) if busy else None
        return Answer(called.ended.stdout, talk, usage, problem=problem, busy=busy, retry_after_seconds=wait)

    def turns(self, events: list[dict[str, Any]], called: Called) -> Iterator[Turn]:
        yield Turn(by="agent", text=called.ended.stdout)


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("command", Command(options.get("command", {})))
