"""The real agents, each set up to take a model server of ours for its model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from installed import folder_of
from surroundings import KEY, a_home, opencode_config

from autoexp.agents.claude import Claude
from autoexp.agents.codex import Codex
from autoexp.agents.openai import OpenAI
from autoexp.agents.opencode import OpenCode
from autoexp.spec.ports import Agent

AGENTS = ("opencode", "claude", "codex", "openai")
EDITING = AGENTS[:3]


def set_up(name: str, url: str, home: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Agent:
    """The agent, in a home of its own, with KEY as the person's key. `url` is the server's, without /v1."""
    if name != "openai":
        monkeypatch.setenv("PATH", f"{folder_of(name)}{os.pathsep}{os.environ['PATH']}")
    for variable, value in a_home(home).items():
        monkeypatch.setenv(variable, value)
    make = {"opencode": _opencode, "claude": _claude, "codex": _codex, "openai": _openai}[name]
    return make(url, monkeypatch, options)


def _opencode(url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> Agent:
    monkeypatch.setenv("OPENCODE_DISABLE_MODELS_FETCH", "1")
    return OpenCode({"model": "stub/m", "config": opencode_config(url, KEY), **options})


def _claude(url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> Agent:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    # a person who lets it do everything: where it may not edit, it still must not
    config = {"permissions": {"allow": ["Edit", "Write", "Bash"]}, "env": {"ANTHROPIC_API_KEY": KEY}}
    return Claude({"model": "m", "config": config, **options})


def _codex(url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> Agent:
    provider = {"name": "Stub", "base_url": f"{url}/v1", "env_key": "OPENAI_API_KEY", "wire_api": "responses"}
    config = {
        "model_provider": "stub",
        "model_providers": {"stub": {**provider, "request_max_retries": 0, "stream_max_retries": 0}},
        "check_for_update_on_startup": False,
        "analytics": {"enabled": False},
    }
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Codex({"model": "m", "config": config, **options})


def _openai(url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> Agent:
    monkeypatch.setenv("STUB_KEY", KEY)
    table = {"model": "m", "base_url": f"{url}/v1", "api_key_env": "STUB_KEY", "request": {"temperature": 0.5}}
    return OpenAI({**table, **options})


def everything_in(folder: Path) -> str:
    return json.dumps([path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()])
