"""Whole nights with the real agents, through the real command line; the model alone is a script."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import folder_of
from model_server import ModelServer
from night import TALKATIVE, look_at, night, sleep_through
from support import Lab, leftovers
from surroundings import KEY, for_opencode


@pytest.fixture
def server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A workspace whose trainer prints its environment."""
    yield Lab(tmp_path, trainer=TALKATIVE)
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


def has(lab: Lab, agent: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The person of this lab has the agent on PATH, and it is the one that is asked."""
    monkeypatch.setenv("PATH", f"{folder_of(agent)}{os.pathsep}{os.environ['PATH']}")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AUTOEXP_AGENT__NAME", agent)


def test_opencode(lab: Lab, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    has(lab, "opencode", for_opencode(lab.path / "home", server.url), monkeypatch)
    server.script = night()
    sleep_through(lab, server, "opencode")
    look_at(lab, server, "opencode")
    assert {turn.key for turn in server.turns} == {KEY}
