"""A model on 127.0.0.1 that says what a script says: for real agents, which take it for the one they are set up with.

    server.script = [Scene("propose", Refuse(429), json.dumps(idea)), Scene("apply", Read("train.py"), ...)]

A script is scenes in their order, or a function from what is asked to the reply. Acts (Read, Change, Write, Shell)
become calls of the tools that the agent offers, whatever it calls them.
"""

from __future__ import annotations

import json
import re
import shlex
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from dialects import DIALECTS, INPUT_TOKENS, OUTPUT_TOKENS, Dialect, Json, Request, Use

Task = Literal["propose", "apply", "triage"]
FIRST_LINES: dict[str, Task] = {
    "Propose the next experiment.": "propose",
    "Apply this experiment to the program.": "apply",
    "The training of a candidate failed.": "triage",
}
TOLD_OFF = "Your previous answer could not be used: "
"""How a prompt goes on when it is asked a second time."""
FOLDER = re.compile(r"(?:[Ww]orking directory: |<cwd>)(/[^\n<]*)")
"""Where an agent tells the model which folder it works in."""


@dataclass(frozen=True)
class Read:
    path: str


@dataclass(frozen=True)
class Change:
    """Replace `old` by `new`, which is what most agents call an edit."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Write:
    path: str
    text: str


@dataclass(frozen=True)
class Shell:
    command: str


@dataclass(frozen=True)
class Refuse:
    """The server's answer instead of the model's: 429 too many requests, 500 an error, 529 overloaded."""

    status: int
    message: str = "the model is tired"
    retry_after: float | None = None


Act = Read | Change | Write | Shell
Reply = str | Act | Use | Refuse


@dataclass(frozen=True)
class Turn:
    """What the model is asked."""

    request: Request
    body: Json
    key: str
    """The one that the agent sent."""

    @cached_property
    def _asked(self) -> tuple[int, Task | None]:
        """Where in the conversation the last task was given, and which."""
        for place in range(len(self.request.said) - 1, -1, -1):
            said = self.request.said[place]
            if said.by == "user":
                for line in said.text.splitlines():
                    if line.strip() in FIRST_LINES:
                        return place, FIRST_LINES[line.strip()]
        return 0, None

    @property
    def task(self) -> Task | None:
        """Which of our questions this is a part of; None: not one of ours."""
        return self._asked[1]

    @property
    def prompt(self) -> str:
        return self.request.said[self._asked[0]].text

    @property
    def told_off(self) -> str:
        """What was wrong with the answer before; '' when it is asked for the first time.

        It is told with the task again, or, where the conversation goes on, alone.
        """
        since = [said.text for said in self.request.said[self._asked[0] :] if said.by == "user"]
        return since[-1].partition(TOLD_OFF)[2] if since else ""

    @property
    def results(self) -> tuple[str, ...]:
        """What its tools have returned since it was given the task."""
        return tuple(said.text for said in self.request.said[self._asked[0] :] if said.by == "tool")

    @property
    def folder(self) -> str:
        """The folder that the agent says it works in; '' when it does not."""
        found = [match for said in self.request.said for match in FOLDER.findall(said.text)]
        return found[-1].strip() if found else ""


class Scene:
    """The replies to one question, one for each time that the model is called for it."""

    def __init__(self, task: Task, *replies: Reply) -> None:
        self.task, self.replies = task, deque(replies)


Script = Callable[[Turn], Reply]


class ModelServer:
    """All three protocols at one address, without the `/v1`: `url`."""

    def __init__(self, script: Script | Iterable[Scene] = ()) -> None:
        self.script: Script | Iterable[Scene] = script
        self.turns: list[Turn] = []
        """What was asked, calls of which the agent makes more than the script knows about left out."""
        self.results: list[str] = []
        """What came back from the tools, in order."""
        self.wrong: list[str] = []
        """Calls that are not in the script: for the test to find empty."""
        self.refused = 0
        self.replies = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    @property
    def input_tokens(self) -> int:
        """Of all replies so far."""
        return self.replies * INPUT_TOKENS

    @property
    def output_tokens(self) -> int:
        return self.replies * OUTPUT_TOKENS

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def reply(self, turn: Turn) -> str | Use | Refuse:
        """What the script says, in the agent's own tools."""
        with self.lock:
            if turn.task is None and not (callable(self.script) and turn.request.tools):
                return "a title"  # agents ask for such things beside their work
            self.turns.append(turn)
            try:
                said = self.script(turn) if callable(self.script) else self._next(turn)
            except Exception:  # the script is at its wit's end: the agent is told to give up
                self.wrong.append(traceback.format_exc())
                return Refuse(400, self.wrong[-1])
            if isinstance(said, Refuse):
                self.refused += 1
                return said
            self.replies += 1
            return said if isinstance(said, str | Use) else in_tools(said, turn)

    def _next(self, turn: Turn) -> Reply:
        scenes = self.script = list(self.script)  # type: ignore[arg-type]
        while scenes and not scenes[0].replies:
            scenes.pop(0)
        if scenes and scenes[0].task == turn.task:
            return scenes[0].replies.popleft()
        wanted = f"a call to {scenes[0].task}" if scenes else "no call"
        self.wrong.append(f"{turn.task} was asked for, and the script has {wanted}; told off: {turn.told_off!r}")
        return Refuse(400, self.wrong[-1])

    def unused(self) -> list[Reply]:
        """What the script has left over."""
        return [] if callable(self.script) else [reply for scene in self.script for reply in scene.replies]

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._send(200, {})

            def do_GET(self) -> None:
                self._send(200, {"object": "list", "data": [{"id": "m", "object": "model"}], "models": []})

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = self.path.partition("?")[0]
                dialect = next((each for each in DIALECTS if path.endswith(each.path)), None)
                if dialect is None:
                    counted = path.endswith("/count_tokens")
                    self._send(200 if counted else 404, {"input_tokens": INPUT_TOKENS} if counted else {})
                    return
                body = json.loads(raw)
                key = self.headers.get("x-api-key") or self.headers.get("authorization") or ""
                said = server.reply(Turn(dialect.read(body), body, key.removeprefix("Bearer ")))
                if isinstance(said, Refuse):
                    wait = {} if said.retry_after is None else {"retry-after": f"{said.retry_after:g}"}
                    self._send(said.status, dialect.refusal(said.status, said.message), wait)
                elif body.get("stream"):
                    self._stream(dialect, body, said)
                else:
                    self._send(200, dialect.whole(body, said, server.replies))

            def _stream(self, dialect: Dialect, body: Json, said: str | Use) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for name, data in dialect.stream(body, said, server.replies):
                    self.wfile.write((f"event: {name}\n" if name else "").encode())
                    self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n" if dialect.path == "/chat/completions" else b"")

            def _send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
                raw = json.dumps(data).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(raw)

        return Handler


def in_tools(act: Act, turn: Turn) -> Use:
    """The act as a call of a tool that the agent offers; without one, as the call that a model would try anyway."""
    tools = turn.request.tools
    path = "" if isinstance(act, Shell) else f"{turn.folder}/{act.path}" if turn.folder else act.path
    path = act.path if not isinstance(act, Shell) and act.path.startswith("/") else path
    if isinstance(act, Read):
        for name, key in (("read", "filePath"), ("Read", "file_path")):
            if name in tools:
                return Use(name, {key: path})
        return _shell(f"cat {shlex.quote(act.path)}", tools)
    if isinstance(act, Change):
        for name, keys in (
            ("edit", ("filePath", "oldString", "newString")),
            ("Edit", ("file_path", "old_string", "new_string")),
        ):
            if name in tools:
                return Use(name, dict(zip(keys, (path, act.old, act.new), strict=True)))
        program = f"import pathlib as p; f = p.Path({act.path!r}); t = f.read_text(); assert {act.old!r} in t; "
        return _shell(
            f"python3 -c {shlex.quote(program + f'f.write_text(t.replace({act.old!r}, {act.new!r}))')}", tools
        )
    if isinstance(act, Write):
        for name, key in (("write", "filePath"), ("Write", "file_path")):
            if name in tools:
                return Use(name, {key: path, "content": act.text})
        return _shell(f"printf %s {shlex.quote(act.text)} > {shlex.quote(act.path)}", tools)
    return _shell(act.command, tools)


def _shell(command: str, tools: frozenset[str]) -> Use:
    if "exec_command" in tools:
        return Use("exec_command", {"cmd": command})
    if "shell_command" in tools:
        return Use("shell_command", {"command": command})
    name = "Bash" if "Bash" in tools else "bash"
    return Use(name, {"command": command, "description": "a command"})
