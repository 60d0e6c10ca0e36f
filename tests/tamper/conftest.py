"""A real run of a tiny program on the CPU, and candidates that cheat: edits of its train.py, trained by the product."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoexp.executors import isolation
from autoexp.runs.events import TrainingEnded
from autoexp.runs.journal import read
from autoexp.runs.records import Outcome, Proposal, Replace, Trial
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.testing import git, run
from autoexp.workspace.paths import Workspace

SETTINGS = """\
[train]
command = "{{python}} train.py"
budget_seconds = 0.4
timeout_seconds = 120
can_reevaluate = true
isolation = "required"
max_processes = 60
max_disk_gb = 0.05

[train.env]
AUTOEXP_DATA = "{data}"
AUTOEXP_THREADS = "1"

[run]
rule = "margin"

[rules.margin]
by = 100.0

[files]
editable = ["train.py"]
"""
PREPARE = """\
import dataclasses, sys
from pathlib import Path
from autoexp.model import prepare, profiles
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled

text, cache, program = map(Path, sys.argv[1:])
addresses = [body for _, (_, body) in zip(range(8), Bundled(500).addresses())]
text.write_text("\\n\\n".join(addresses).replace(". ", ".\\n\\n"))
tiny = dataclasses.replace(profiles.CPU, vocab_size=300, seq_len=32, eval_tokens=2048)
request = prepare.plan(str(text), tiny, cache=cache)
prepare.prepare(request, Progress())
small = {"TOTAL_BATCH_SIZE": "2**9", "NGRAM_ROWS": "2**12"}
program.write_text(profiles.with_constants(profiles.render(profiles.CPU), small))
print(request.folder)
"""
BEFORE, MODEL = "def main() -> None:\n", "        for step in trial.steps(model, optimizer, batches):\n"
FINISH = "        trial.finish(model, losses)\n"


@dataclasses.dataclass
class Cheat:
    """What came of a candidate: the trial, how its last training ended, its log, and the folders of its trainings."""

    trial: Trial
    outcome: Outcome
    log: str
    folders: list[Path]


class Stage:
    """The run that the candidates of this module join, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "work"
        self.root.mkdir(parents=True)
        program = self.root / "train.py"
        command = [sys.executable, "-c", PREPARE, str(self.root / "text.txt"), str(folder / "cache"), str(program)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.data = Path(done.stdout.splitlines()[-1])
        (self.root / "autoexp.toml").write_text(SETTINGS.format(data=self.data))
        git(self.root, "init", "--quiet", "--initial-branch=main")
        git(self.root, "add", "--all")
        git(self.root, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "--quiet", "-m", "start")
        self.workspace = Workspace(self.root)
        self.program = program.read_text()
        self.paths = self.workspace.run("test")
        state = run(self.workspace, 0)
        assert state.trials[0].status == "success", state.trials[0].reason
        self.baseline = self.outcomes()[-1]

    def outcomes(self) -> list[Outcome]:
        return [event.outcome for event in read(self.paths.journal) if isinstance(event, TrainingEnded)]

    def cheat(self, before: str = "", model: str = "", finish: str = FINISH, **replaced: str) -> Cheat:
        """Train a candidate with this code before `main`, between the model and the training, and at the end.

        `replaced` are pairs of texts of train.py, old=new with the old one's name in OLD.
        """
        indented = "".join(f"        {line}\n" for line in model.splitlines())
        edits = [
            Replace(op="replace", path="train.py", old=BEFORE, new=f"{before}\n{BEFORE}"),
            Replace(op="replace", path="train.py", old=MODEL, new=indented + MODEL),
            Replace(op="replace", path="train.py", old=FINISH, new=finish),
            *(Replace(op="replace", path="train.py", old=OLD[name], new=new) for name, new in replaced.items()),
        ]
        changed = [edit for edit in edits if edit.old != edit.new]
        words = {"description": "a cheat", "change_plan": "cheat", "commit_description": "a cheat"}
        state = run(self.workspace, 1, Once(Proposal(status="ok", edits=tuple(changed), **words)))
        trial = state.trials[-1]
        folders = sorted(self.paths.iteration(trial.iteration).glob("attempt-?"))
        logs = [folder / "train.log" for folder in folders]  # an evaluation that is done again has none
        log = "".join(path.read_text(errors="replace") for path in logs if path.exists())
        return Cheat(trial, self.outcomes()[-1], log, folders)


class Once:
    """Proposes one change to the program as it was at the start, whatever was kept since."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        return self.proposal


OLD = {
    "embedded": "        x: Tensor = self.embedding(ids)\n",
    "loss": "        return softcap_cross_entropy(self.hidden(inputs), self.head.weight, targets, SOFTCAP)\n",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if (missing := isolation.available()) is not None:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("tamper")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("AUTOEXP_", "GIT_")):
                patch.delenv(name)
        patch.setenv("AUTOEXP_CACHE", str(folder / "cache"))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        yield Stage(folder)


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "stage" in request.fixturenames:
        monkeypatch.setenv("AUTOEXP_CACHE", str(request.getfixturevalue("stage").folder / "cache"))
