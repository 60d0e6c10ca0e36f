"""The tracker `jsonl`, and what a session does with trackers."""

from __future__ import annotations

import json
from pathlib import Path

from autoexp.runs.events import Event
from autoexp.runs.state import RunState
from autoexp.testing import Registering, Scripted, TrackerCases, proposal, run
from autoexp.trackers.jsonl import JsonLines
from autoexp.workspace.paths import Workspace


class TestConformance(TrackerCases):
    def make(self, path: Path) -> JsonLines:
        return JsonLines(str(path / "trials.jsonl"))

    def check(self, path: Path, state: RunState) -> None:
        """A line for each decided trial, in order."""
        lines = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
        assert lines == [trial.model_dump(mode="json") for trial in state.trials]


def test_settings_switch_it_on_and_say_where(workspace: Workspace, tmp_path: Path) -> None:
    with workspace.settings.open("a") as file:
        file.write(f'\n[run]\ntrackers = ["jsonl"]\n[trackers.jsonl]\npath = "{tmp_path}/all.jsonl"\n')
    run(workspace, 1, Scripted(proposal(LR=0.04)))
    assert [json.loads(line)["decision"] for line in (tmp_path / "all.jsonl").open()] == ["keep", "keep"]


class Broken:
    def track(self, event: Event, state: RunState) -> None:
        raise RuntimeError(f"no network for {event.type}")


class Counting:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def track(self, event: Event, state: RunState) -> None:
        self.seen.append(event.type)


def test_one_that_raises_is_logged_and_stops_neither_the_run_nor_the_others(workspace: Workspace) -> None:
    with workspace.settings.open("a") as file:
        file.write('\n[run]\ntrackers = ["broken", "counting"]\n')
    counting = Counting()
    plugins = {"trackers": Registering(trackers={"broken": Broken(), "counting": counting})}
    state = run(workspace, 1, Scripted(proposal(LR=0.04)), plugins=plugins)
    assert state.completed == 1
    assert counting.seen[-1] == "session_closed"
    assert counting.seen.count("decided") == 2
    assert "tracker broken: RuntimeError('no network for decided')" in workspace.run("test").log.read_text()
