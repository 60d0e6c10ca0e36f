"""Whole nights with the real agents, through the real command line; the model alone is a script."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import folder_of
from model_server import ModelServer
from night import KEY, TALKATIVE, look_at, night, sleep_through
from support import Lab, leftovers


@pytest.fixture
def server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A workspace whose trainer prints its environment, in a home of its own."""
    lab = Lab(tmp_path, trainer=TALKATIVE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for kind in ("DATA", "CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / "home" / kind.lower()))
    (tmp_path / "home").mkdir()
    yield lab
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


def on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_opencode(lab: Lab, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(folder_of("opencode"), monkeypatch)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{server.url}/v1", "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {"m": {"name": "m", "tool_call": True, "limit": {"context": 32000, "output": 4000}}},
    }
    config = {
        "model": "stub/m",
        "small_model": "stub/m",
        "share": "disabled",
        "autoupdate": False,
        "enabled_providers": ["stub"],
        "permission": {"edit": "allow", "bash": "allow"},
        "provider": {"stub": provider},
    }
    folder = Path(os.environ["XDG_CONFIG_HOME"], "opencode")
    folder.mkdir(parents=True)
    (folder / "opencode.json").write_text(json.dumps(config))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENCODE_DISABLE_MODELS_FETCH", "1")
    monkeypatch.setenv("AUTOEXP_AGENT__NAME", "opencode")
    server.script = night()
    sleep_through(lab, server, "opencode")
    look_at(lab, server, "opencode")
    assert {turn.key for turn in server.turns} == {KEY}
