"""What the agents that are programs have in common: options, environment, one conversation, a transcript."""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoexp.agents.call import Called, call, exit_problem, finished
from autoexp.agents.environment import environment
from autoexp.errors import PreconditionError, UsageError
from autoexp.spec.answers import number
from autoexp.spec.ports import Answer, Ask
from autoexp.spec.secrets import secrets_in, secrets_in_file
from autoexp.spec.transcripts import Turn


class Options:
    """The table of an agent: model, args, config, env. Raises UsageError when it holds what it cannot."""

    def __init__(self, name: str, table: Mapping[str, Any], known: Sequence[str] = ()) -> None:
        valid = ("model", "args", "config", "env", *known)
        if unknown := sorted(set(table) - set(valid)):
            near = difflib.get_close_matches(unknown[0], valid, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(valid)}"
            raise UsageError(f"[agents.{name}] has no {', '.join(unknown)}", hint)
        self.name = name
        self.model = self._typed(table, "model", str, "")
        self.args = tuple(str(word) for word in self._typed(table, "args", (list, tuple), ()))
        self.config: str | dict[str, Any] = self._typed(table, "config", (str, dict), "")
        self.env = {str(k): str(v) for k, v in self._typed(table, "env", dict, {}).items()}
        self.secrets = list(secrets_in(table))
        if isinstance(self.config, str) and self.config:
            self.config = str(Path(self.config).expanduser())
            self.secrets += secrets_in_file(Path(self.config))

    def _typed(self, table: Mapping[str, Any], key: str, kind: Any, default: Any) -> Any:
        value = table.get(key, default)
        if not isinstance(value, kind):
            raise UsageError(f"[agents.{self.name}] {key} is {value!r}", "edit autoexp.toml, then try again")
        return value


class Program:
    """An agent that is a program: it gets the prompt on stdin and prints what it does as lines of JSON."""

    binary = ""
    install = ""
    """What to type when it is not there."""
    names: tuple[str, ...] = ()
    """The environment variables that are its own."""
    known: tuple[str, ...] = ()
    """Options beside those that all have."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = Options(self.binary, options, self.known)

    @property
    def mend(self) -> str:
        """What to type, or to set, when it is not available."""
        return self.install.partition(", or: ")[0]

    def available(self) -> str | None:
        return None if shutil.which(self.binary) else f"{self.binary} is not on PATH"

    def ask(self, question: Ask) -> Answer:
        if self.available() and shutil.which(self.binary, path=self.options.env.get("PATH")) is None:
            raise PreconditionError(f"{self.available()}", self.install)
        answer = None
        if question.conversation is not None:
            answer = self._once(question, question.conversation)
            question = replace(question, prompt=question.anew or question.prompt, conversation=None)
        return answer or self._once(question, None) or Answer("", problem=f"{self.binary} gave no answer")

    def _once(self, question: Ask, conversation: str | None) -> Answer | None:
        """One call; None when the conversation is gone."""
        env = environment(self.names, question.env, more={**self.options.env, **self.variables(question)})
        called = call(
            self.command(question, conversation),
            self.stdin(question),
            question,
            hint=self.install,
            env=env,
            enough=self.enough(),
            secrets=self.options.secrets,
        )
        events = list(json_lines(called.ended.stdout))
        if conversation is not None and self.gone(events, called):
            return None
        answer = self.read(events, called, conversation)
        if called.problem:
            answer = replace(answer, problem=called.problem)
        turns = (Turn(by="autoexp", text=question.prompt), *self.turns(events, called))
        return finished(called.folder, answer, turns, self.options.secrets)

    # -- what each of them says for itself ------------------------------------------------------------------------

    def stdin(self, question: Ask) -> str:
        return question.prompt

    def command(self, question: Ask, conversation: str | None) -> list[str]:
        """The command line. The prompt is not in it: other users of the machine can read it."""
        raise NotImplementedError

    def variables(self, question: Ask) -> dict[str, str]:
        """What is set in its environment."""
        return {}

    def enough(self) -> Callable[[bytes], bool] | None:
        """A function that is shown the output, and says that it only waits for its server: that is done here."""
        return None

    def gone(self, events: list[dict[str, Any]], called: Called) -> bool:
        """Whether it ended because it does not know the conversation."""
        return False

    def read(self, events: list[dict[str, Any]], called: Called, conversation: str | None) -> Answer:
        """What it answered."""
        raise NotImplementedError

    def turns(self, events: list[dict[str, Any]], called: Called) -> Iterator[Turn]:
        """What was said, for the transcript."""
        raise NotImplementedError

    def exit_problem(self, called: Called) -> str:
        return exit_problem((self.binary,), called.ended)


def refuse_secrets(name: str, config: Any, instead: str) -> None:
    """Raise UsageError for a configuration with a key in it, where it goes into a command line."""
    if any(True for _ in secrets_in(config)):
        raise UsageError(
            f"[agents.{name}] config holds a key, and goes into the command line of {name}, which everybody can read",
            instead,
        )


def json_lines(stdout: str) -> Iterator[dict[str, Any]]:
    """The objects in the stream, one a line; lines that are something else are passed over."""
    for line in stdout.splitlines():
        if not line.lstrip().startswith("{"):
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def table(event: Any, *keys: str) -> dict[str, Any]:
    """The table at `event[key][key]…`; an empty one where there is something else."""
    for key in keys:
        event = event.get(key) if isinstance(event, dict) else None
    return event if isinstance(event, dict) else {}


def summed(*counts: Any) -> int | None:
    """The sum of the counts that are known; None when none is."""
    known = [count for each in counts if (count := number(each)) is not None]
    return sum(known) if known else None
