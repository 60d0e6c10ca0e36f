"""A real OpenCode works for a person by AGENTS.md: it reads it, types its commands, and reports what came of them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installed import folder_of
from model_server import ModelServer, Read, Reply, Shell, Turn
from person import Person
from surroundings import for_opencode

from autoexp.runs.events import Proposed
from autoexp.runs.journal import read
from autoexp.testing import replayed
from autoexp.workspace.paths import RunPaths

PROGRAM = """\
import os, time

MATRIX_LR = 0.04  # [0.005, 0.2] log; rate
WARMUP_RATIO = 0.0  # [0.0, 0.3]; warm-up

while os.environ["AUTOEXP_JOB"].endswith(":1-1") and not os.path.exists("{gate}"):
    time.sleep(0.02)
print(f"val_bpb: {1.0 + abs(MATRIX_LR - 0.05) + WARMUP_RATIO:.6f}")
"""
ASKED = (
    "Read AGENTS.md. Start running the experiment, run 3 loops; in the next iteration, increase the LR by 10%. "
    "When it is over, tell me about the results."
)


class Follower:
    """A model that knows nothing of autoexp but what it has read in AGENTS.md."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate
        self.looks: list[dict[str, Any]] = []
        self.steps = self._work()
        self.last = ""

    def __call__(self, turn: Turn) -> Reply:
        self.last = turn.results[-1] if turn.results else ""
        return next(self.steps)

    def _work(self) -> Iterator[Reply]:
        yield Read("AGENTS.md")
        text = re.sub(r"^\s*\d+: ", "", self.last, flags=re.MULTILINE)  # it is shown with the numbers of its lines
        said = dict(re.findall(r'^\| "(.+?)" \| `(.+?)` \|', text, re.MULTILINE))
        present = re.search(r"^git show \S+$", text, re.MULTILINE)
        assert present, "AGENTS.md says how to read the present value"

        yield Shell(said["Is everything ready?"])
        assert json.loads(self.last)["ready"], self.last
        yield Shell(said["Start running the experiment, run 5 loops"].replace("5", "3"))
        run_id = json.loads(self.last)["run_id"]
        while not self._status()["baseline_done"]:  # until the run has a program that is the best
            yield Shell(said["Show the run status"])
            self.looks.append(json.loads(self.last))
        yield Shell(present[0].replace("<run_id>", run_id))
        value = re.search(r"^MATRIX_LR = ([0-9.]+)", self.last, re.MULTILINE)
        assert value, self.last
        command = said["In the next iteration, increase the LR by 10%"]
        yield Shell(re.sub(r"MATRIX_LR=\S+", f"MATRIX_LR={float(value[1]) * 1.1:.4f}", command))
        self.gate.touch()  # the first experiment is under way when the person speaks
        while self._status()["live"]:
            wait = min(600, max(5, self._status()["eta_seconds"] or 30))
            assert 5 <= wait <= 600
            yield Shell(f"sleep 0.5; {said['Show the run status']}")  # a test does not sleep as long as it is told
            self.looks.append(json.loads(self.last))
        yield Shell(said["Tell me about the results so far"])
        trials = json.loads(self.last)
        yield json.dumps({"run": run_id, "ended": self._status()["ended"], "trials": trials})

    def _status(self) -> dict[str, Any]:
        return self.looks[-1] if self.looks else {"baseline_done": False, "live": True}


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """Has a workspace as `autoexp init` makes it, and what an agent's shell needs."""
    person = Person(tmp_path)
    for name in ("bash", "sleep"):
        (person.bin / name).symlink_to(str(shutil.which(name)))
    person.has("autoexp", f'exec {sys.executable} -m autoexp "$@"')
    person.workspace(PROGRAM.replace("{gate}", str(tmp_path / "gate")))
    return person


@pytest.fixture
def server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


def test_opencode_runs_the_night_for_a_person(person: Person, server: ModelServer) -> None:
    follower = Follower(person.path / "gate")
    server.script = follower
    environ = for_opencode(person.path / "home", server.url) | {"PWD": str(person.at)}  # which it believes
    command = (str(folder_of("opencode") / "opencode"), "run", "--title", "a night", "--format", "json", ASKED)

    said = person.runs(*command, **environ).out

    assert not server.wrong, server.wrong[0]
    told = [event["part"]["text"] for event in map(json.loads, said.splitlines()) if event["type"] == "text"]
    report = json.loads(told[-1])
    paths = RunPaths(person.run_folder(report["run"]))
    state = replayed(paths)
    assert report["ended"] == "done: 3 iterations" and not follower.looks[-1]["live"]
    assert [run.name for run in person.run_folder().parent.iterdir() if run.is_dir()] == [report["run"]]
    assert report["trials"] == [trial.model_dump(mode="json") for trial in state.trials]
    assert len(report["trials"]) == 4
    proposed = [event for event in read(paths.journal) if isinstance(event, Proposed)]
    assert [event.proposer for event in proposed] == ["search", "queue", "search"]
    assert state.trials[2].constants["MATRIX_LR"] == pytest.approx(float(state.trials[0].constants["MATRIX_LR"]) * 1.1)
    assert person.git("status", "--porcelain") == ""
