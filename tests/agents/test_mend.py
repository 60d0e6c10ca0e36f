"""What is told to type, or to set, when an agent is not available."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from autoexp.agents.claude import Claude
from autoexp.agents.codex import Codex
from autoexp.agents.command import Command
from autoexp.agents.openai import OpenAI
from autoexp.agents.opencode import OpenCode
from autoexp.spec.ports import mended


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (OpenCode, "npm install -g opencode-ai"),
        (Claude, "npm install -g @anthropic-ai/claude-code"),
        (Codex, "npm install -g @openai/codex"),
    ],
)
def test_a_program_that_is_not_there_is_installed(kind: Any, hint: str) -> None:
    assert mended(kind({}), "autoexp start") == f"{hint}, or: autoexp start"


def test_a_command_is_set_and_its_program_installed() -> None:
    assert mended(Command({}), "x").startswith('set [agent] args = ["my-program"')
    assert mended(Command({"args": ["nothing-like-it"]}), "x").startswith(
        "install nothing-like-it, or correct [agent] args"
    )


def test_an_endpoint_has_a_model_and_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "[agents.openai] model" in mended(OpenAI({}), "x")
    assert mended(OpenAI({"model": "m"}), "x").startswith("export OPENAI_API_KEY=")
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert mended(OpenAI({}), "x") == 'pip install "autoexp[openai]", or: x'
