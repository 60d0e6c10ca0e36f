"""Any program that reads the prompt on stdin and writes its answer on stdout: `[agent] name = "command"`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoexp.agents.call import call, exit_problem
from autoexp.errors import AgentError, PreconditionError
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Agent

HINT = 'set [agent] args = ["my-program", "--its-option"] in autoexp.toml'


class Command:
    """`args` of the settings are the whole command line."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.timeout_seconds = float(options.get("timeout_seconds", 600.0))
        self.command: tuple[str, ...] = tuple(options.get("args", ()))

    def available(self) -> str | None:
        if not self.command:
            return "the agent 'command' has no command line: agent.args is empty"
        return None if shutil.which(self.command[0]) else f"{self.command[0]} is not on PATH"

    def ask(self, prompt: str, cwd: Path, transcript: Path, stop: Callable[[], bool]) -> str:
        if missing := self.available():
            raise PreconditionError(missing, HINT)
        ended = call(self.command, prompt, cwd, transcript, self.timeout_seconds, stop, hint=HINT)
        if problem := exit_problem(self.command, ended):
            raise AgentError(f"{problem} (see {transcript})", "autoexp doctor")
        return ended.stdout


@hookimpl
def autoexp_register_agents(register: Callable[[str, Agent], None], options: dict[str, Any]) -> None:
    register("command", Command(options))
