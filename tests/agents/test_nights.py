"""Whole nights with the real agents, through the real command line; the model alone is a script."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import PACKAGES, folder_of
from model_server import ModelServer
from night import NIGHT_SECONDS, TALKATIVE, busy, look_at, named, night, night_in_words, sleep_through, took
from support import Lab, leftovers
from surroundings import KEY, for_claude, for_codex, for_opencode

pytestmark = pytest.mark.timeout(2 * NIGHT_SECONDS)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A workspace whose trainer prints its environment."""
    lab = Lab(tmp_path, trainer=TALKATIVE)
    yield lab
    if lab.live():  # the test has failed, and nobody waits for the morning
        lab.command("stop", "--run-id", lab.run_id, "--now")
        lab.finished()
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


def has(lab: Lab, agent: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The person of this lab uses the agent: it is on PATH if it is a program, and is the one that is asked."""
    if agent in PACKAGES:
        monkeypatch.setenv("PATH", f"{folder_of(agent)}{os.pathsep}{os.environ['PATH']}")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AUTOEXP_AGENT__NAME", agent)


SURROUNDINGS = {"opencode": for_opencode, "claude": for_claude, "codex": for_codex}


@pytest.mark.parametrize("agent", SURROUNDINGS)
def test_a_night(agent: str, lab: Lab, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    has(lab, agent, SURROUNDINGS[agent](lab.path / "home", server.url), monkeypatch)
    server.script = night()
    sleep_through(lab, server, agent)
    look_at(lab, server, agent)
    busy(lab, server, waits_itself=True)
    named(lab)
    took(lab, server)


def test_a_night_with_the_openai_sdk(lab: Lab, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    has(lab, "openai", {"OPENAI_API_KEY": KEY}, monkeypatch)
    monkeypatch.setenv("AUTOEXP_AGENTS__OPENAI", json.dumps({"model": "m", "base_url": f"{server.url}/v1"}))
    server.script = night_in_words()
    sleep_through(lab, server, "openai")
    look_at(lab, server, "openai")
    busy(lab, server, waits_itself=False)
    told_off = [turn.told_off for turn in server.turns if turn.told_off]
    assert len(told_off) == 1 and "evaluate.py is not editable" in told_off[0]
    took(lab, server)
