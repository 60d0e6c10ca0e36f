"""Programs that pose as agents, and a model server that answers from a script."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from installed import folder_of

pytest.register_assert_rewrite("night")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a Python program on PATH, by default under the name `opencode`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(source: str, name: str = "opencode") -> Path:
        path = folder / name
        path.write_text(
            f"#!{sys.executable}\nimport json, os, signal, subprocess, sys, time\n{textwrap.dedent(source)}"
        )
        path.chmod(0o755)
        return path

    return write


class ModelServer:
    """OpenAI's chat completions on 127.0.0.1, streamed. Each call with tools takes the next reply of `script`:
    a text, or (tool, arguments)."""

    def __init__(self) -> None:
        self.script: list[str | tuple[str, dict[str, Any]]] = []
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(server.status)
                if server.status != 200:
                    raw = json.dumps({"error": {"type": "refused", "message": "the model is tired"}}).encode()
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                    return
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for chunk in server.reply(body):
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def reply(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        said: str | tuple[str, dict[str, Any]] = "a title"
        if body.get("tools"):
            self.asked.append(body)
            said = self.script.pop(0)
        delta: dict[str, Any] = {"role": "assistant", "content": said}
        if isinstance(said, tuple):
            function = {"name": said[0], "arguments": json.dumps(said[1])}
            call = {"index": 0, "id": f"call_{len(self.asked)}", "type": "function", "function": function}
            delta = {"role": "assistant", "tool_calls": [call]}
        end = "tool_calls" if isinstance(said, tuple) else "stop"
        for choice in ({"delta": delta, "finish_reason": None}, {"delta": {}, "finish_reason": end}):
            yield {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0} | choice],
            }


@pytest.fixture
def model() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(scope="session")
def opencode_bin() -> Path:
    """The folder of the real OpenCode. Skips where it cannot be had."""
    return folder_of("opencode")


@pytest.fixture(scope="session")
def opencode_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: OpenCode makes a database in a new home, which takes seconds."""
    return tmp_path_factory.mktemp("opencode-home")


@pytest.fixture
def opencode(
    opencode_bin: Path, opencode_home: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> ModelServer:
    """The real OpenCode on PATH, and the server that it takes for a model."""
    home = opencode_home
    config = {
        "model": "stub/m",
        "small_model": "stub/m",
        "share": "disabled",
        "autoupdate": False,
        "enabled_providers": ["stub"],
        "permission": {"edit": "allow", "bash": "allow"},
        "provider": {
            "stub": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": model.url, "apiKey": "none"},
                "models": {"m": {"name": "m", "tool_call": True, "limit": {"context": 32000, "output": 4000}}},
            }
        },
    }
    surroundings = {
        "PATH": f"{opencode_bin}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("DATA", "CONFIG", "STATE", "CACHE")},
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    return model
