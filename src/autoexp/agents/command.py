"""Any program that reads the prompt on stdin and writes its answer on stdout: `[agent] name = "command"`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from autoexp.agents.call import call, exit_problem
from autoexp.errors import PreconditionError
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent, Answer, Ask

HINT = 'set [agent] args = ["my-program", "--its-option"] in autoexp.toml'


class Command:
    """`args` of the settings are the whole command line."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.command: tuple[str, ...] = tuple(options.get("args", ()))

    def available(self) -> str | None:
        if not self.command:
            return "the agent 'command' has no command line: agent.args is empty"
        return None if shutil.which(self.command[0]) else f"{self.command[0]} is not on PATH"

    def ask(self, question: Ask) -> Answer:
        if missing := self.available():
            raise PreconditionError(missing, HINT)
        called = call(self.command, question.prompt, question, hint=HINT)
        problem = exit_problem(self.command, called.ended)
        said = f"{problem} (see {called.folder})" if problem else ""
        return Answer(called.ended.stdout, problem=said, transcript=called.folder)


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, dict[str, Any]]) -> None:
    register("command", Command(options.get("command", {})))
