"""The runbook for agents: it is the same text everywhere, and every command in it works as it says."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path

import pytest
from person import PATIENCE, Person

from autoexp.session.background import live
from autoexp.workspace.inbox import parse
from autoexp.workspace.paths import RunPaths
from autoexp.workspace.scaffold import template

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "AGENTS.md").read_text()
SAID = dict(re.findall(r'^\| "(.+?)" \| `(.+?)` \|', TEXT, re.MULTILINE))
FENCED = [
    line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
PROGRAM = """\
MATRIX_LR = 0.04  # [0.005, 0.2] log; rate
WARMUP_RATIO = 0.0  # [0.0, 0.3]; warm-up

print(f"val_bpb: {1.0 + abs(MATRIX_LR - 0.05) + WARMUP_RATIO:.6f}")
"""


@pytest.mark.parametrize("name", ["AGENTS.md", "program.md"])
def test_a_workspace_gets_the_same_text(name: str) -> None:
    assert (ROOT / name).read_text() == template(name)


def test_the_ancestors_sentences_have_their_commands() -> None:
    expected = {
        "Start running the experiment, run 5 loops": "autoexp start --loops 5",
        "Run another 5 iterations": "autoexp resume --loops 5",
        "Resume run X and run 5 loops": "autoexp resume --run-id <run_id> --loops 5",
        "Only run setup and baseline": "autoexp start --only setup,baseline",
        "Only run training and decision parts in loops for 3 iterations": (
            "autoexp resume --loops 3 --only loop --loop-only train,record,decide"
        ),
        "Show the run status": "autoexp status --json",
        "What is the GPU usage": "nvidia-smi",
    }
    assert {words: SAID.get(words) for words in expected} == expected


def test_the_proposal_in_it_is_valid() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

    assert parse(example.encode(), "AGENTS.md").status == "ok"


def test_every_file_named_in_it_is_where_it_says(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.workspace(PROGRAM)
    person.types("start", "--run-id", "r", "--only", "setup,baseline", "--no-background-train")
    person.types("propose", "--set", "MATRIX_LR=0.045")
    person.types("resume", "--loops", "1", "--no-background-train")

    table = TEXT.partition("## Where things are")[2]
    for name in re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE):
        place = name.replace("<run_id>", "r").replace("<NNNN>", "0001")
        if place.startswith("refs/"):
            assert person.git("rev-parse", place)
        else:
            assert (person.at / place).exists(), name


def test_every_command_in_it_does_what_it_says(tmp_path: Path) -> None:
    """A conversation: all rows of the table in their order, then the other commands, in one workspace."""
    person = Person(tmp_path)
    person.workspace(PROGRAM)
    person.has("opencode", "exit 1")  # on PATH is all that queueing needs
    (person.at / "proposal.json").write_text(re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[0])
    run_id = ""
    done = []
    for words, command in [*SAID.items(), *((line, line) for line in FENCED)]:
        if words == "Try my edit of train.py":
            person.program(PROGRAM + "# mine\n")
        if "my.diff" in command:
            (person.at / "my.diff").write_text(person.git("diff", "train.py"))
        said = type_in(person, command.replace("<run_id>", run_id))
        done.append(command)
        if command.startswith(tuple(f"autoexp {word}" for word in ("start", "resume", "status", "audit", "ablate"))):
            status = json.loads(said)
            run_id = run_id or status["run_id"]
            assert {"live", "eta_seconds", "hint", "ended", "target", "phase", "counts", "best", "notes"} <= set(status)
            finish(person, status["run_id"])
        if command == "autoexp resume --loops 5":
            assert status["target"] >= 5
    assert done == [*SAID.values(), *FENCED]
    assert len(done) > 20


def type_in(person: Person, command: str) -> str:
    words = shlex.split(command)
    if words[0] == "autoexp":
        return person.types(*words[1:]).out
    if words == ["nvidia-smi"]:
        # its absence is one of the two answers that the runbook explains
        return person.runs("sh", "-c", "nvidia-smi || echo no NVIDIA GPU").out
    return person.runs(*words).out


def finish(person: Person, run_id: str) -> None:
    """Wait until the run is over, as the runbook's polling does."""
    deadline = time.monotonic() + PATIENCE
    while live(RunPaths(person.run_folder(run_id))):
        assert time.monotonic() < deadline, person.types("status").out
        time.sleep(0.05)
