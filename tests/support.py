"""A workspace under test from outside: real commands, real trainings that can be held, counted and failed at will."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from autoexp.runs.journal import read
from autoexp.runs.records import Proposal
from autoexp.runs.state import RunState
from autoexp.session.background import live
from autoexp.testing import SETTINGS, install, make_workspace, replayed
from autoexp.workspace.paths import RunPaths

PATIENCE = 60.0
"""Seconds until a thing that should happen is taken to hang. Nothing is measured by it."""

TRAINER = '''\
"""Says when it starts and ends in $LAB/tally, and waits while $LAB/hold is there."""

import json, os, sys, time
from evaluate import val_bpb

LR = 0.08  # [0.0001, 1.0] log; learning rate
DEPTH = 4  # [1, 12]; layers
SECONDS = 0.0
FAILS = "no"

lab, key = os.environ["LAB"], os.environ["AUTOEXP_JOB"].rsplit(":", 1)[1]


def tell(word):
    with open(os.path.join(lab, "tally"), "a") as file:
        file.write(f"{key} {word} {time.monotonic()}\\n")


tell("started")
deadline = time.monotonic() + SECONDS
while time.monotonic() < deadline or os.path.exists(os.path.join(lab, "hold")):
    time.sleep(0.01)
if FAILS == "exit" or (FAILS == "once" and key.endswith("-1")):
    sys.exit("deliberately out of order")
if FAILS == "nan":
    print("val_bpb: nan")
elif FAILS != "silent":
    print(f"val_bpb: {val_bpb(LR, DEPTH):.6f}")
print("peak_vram_mb: 512.0")
tell("ended")
'''

NOISY = TRAINER.replace("import json, os, sys, time", "import json, os, random, sys, time").replace(
    'print(f"val_bpb: {val_bpb(LR, DEPTH):.6f}")',
    "luck = random.Random(f\"{LR} {DEPTH} {os.environ['AUTOEXP_SEED']}\").gauss(0.0, 0.01)\n"
    '    print(f"val_bpb: {val_bpb(LR, DEPTH) + luck:.6f}")',
)
"""The same, with numbers that hang on the seed: 0.01 is their standard deviation."""

PLUGIN = '''\
"""A proposer that reads its proposals from a file, and an agent that runs the program it is told in a file."""

import json, os, subprocess, sys
from pathlib import Path

from autoexp import hookimpl
from autoexp.proposers.agent import AgentProposer
from autoexp.runs.records import Proposal
from autoexp.spec.ports import Answer
from autoexp.testing import Scripted


class Agent:
    def available(self):
        return None

    def ask(self, question):
        command = [sys.executable, Path(os.environ["LAB"], "agent.py")]
        env = {**os.environ, "ASKED": question.prompt.splitlines()[0]}
        done = subprocess.run(
            command, cwd=question.cwd, env=env, check=True, capture_output=True, text=True, input=question.prompt
        )
        return Answer(done.stdout)


@hookimpl
def autoexp_register_proposers(register):
    register("fake", AgentProposer("fake"))
    script = Path(os.environ["LAB"], "proposals.json")
    found = json.loads(script.read_text()) if script.exists() else []
    register("scripted", Scripted(*(Proposal.model_validate(fields) for fields in found)))


@hookimpl
def autoexp_register_agents(register):
    register("fake", Agent())
'''


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} does not happen"
        time.sleep(0.01)
    return value


def leftovers(folder: Path) -> list[str]:
    """The living processes that work in `folder`, or were told to: trainers, keepers, sessions."""

    def found() -> list[str]:
        names = []
        for process in psutil.process_iter():
            try:
                place, words = process.cwd(), process.cmdline()
                if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    inside = place == str(folder) or place.startswith(f"{folder}/")
                    if inside or any(str(folder) in word for word in words):
                        names.append(f"{process.pid}: {' '.join(words)}")
            except (psutil.Error, OSError):
                continue
        return names

    deadline = time.monotonic() + 10.0
    while (names := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return names


def gone(pid: int) -> bool:
    """Whether a process has ended. A zombie that nobody reaps has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Lab:
    """A workspace, `autoexp` as a command, and the knobs of its trainer, proposer and agent."""

    run_id = "lab"

    def __init__(self, path: Path, settings: str = "", trainer: str = TRAINER) -> None:
        self.path = path
        self.root = path / "work"
        text = SETTINGS + f'\n[run]\nfallback = "scripted"\n\n[agent]\nname = "fake"\n\n{settings}'
        text = text.replace("timeout_seconds = 120", f'timeout_seconds = 120\nenv = {{ LAB = "{path}" }}')
        self.workspace = make_workspace(self.root, trainer=trainer, settings=text)
        self.plugins = path / "plugins"
        self.plugin("lab_plugin", PLUGIN)
        places = [str(self.plugins), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environ = {"LAB": str(path), "PYTHONPATH": os.pathsep.join(places)}

    def plugin(self, module: str, source: str) -> None:
        """Install a module as a plugin, for all commands."""
        self.plugins.mkdir(exist_ok=True)
        (self.plugins / f"{module}.py").write_text(source)
        install(self.plugins, {path.stem: path.stem for path in self.plugins.glob("*.py")})

    # -- the world ------------------------------------------------------------------------------------------------

    def script(self, *proposals: Proposal) -> None:
        (self.path / "proposals.json").write_text(json.dumps([p.model_dump(mode="json") for p in proposals]))

    def agent(self, program: str) -> None:
        """What the agent runs in the folder that it is asked in; what it prints is its answer."""
        (self.path / "agent.py").write_text(program)

    def hold(self) -> None:
        """No training ends until `release`."""
        (self.path / "hold").touch()

    def release(self) -> None:
        (self.path / "hold").unlink(missing_ok=True)

    def tally(self) -> list[tuple[str, str, float]]:
        """(iteration-attempt, started or ended, when) of every training."""
        file = self.path / "tally"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(key, word, float(when)) for key, word, when in lines]

    def trainings(self, word: str = "started") -> list[str]:
        return [key for key, said, _ in self.tally() if said == word]

    # -- the command ----------------------------------------------------------------------------------------------

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "autoexp", *args],
            cwd=self.root,
            env={**os.environ, **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def command(self, *args: str, code: int = 0) -> str:
        """Run `autoexp` to its end, which must be with this exit code. Returns what it printed, and said on stderr."""
        with self.popen(*args) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"exit {process.returncode}: {out[-2000:]}{err[-2000:]}"
        return out + err

    def start(self, loops: int, *args: str, code: int = 0) -> str:
        """Start in the foreground with the scripted proposer."""
        return self.command("start", *self.flags(loops), "--no-background-train", *args, code=code)

    def resume(self, *args: str, code: int = 0) -> str:
        return self.command("resume", "--run-id", self.run_id, "--no-background-train", *args, code=code)

    def resume_detached(self, loops: int) -> str:
        return self.command("resume", "--run-id", self.run_id, "--loops", str(loops))

    def background(self, loops: int, *args: str) -> str:
        return self.command("start", *self.flags(loops), *args)

    def flags(self, loops: int) -> list[str]:
        return ["--run-id", self.run_id, "--loops", str(loops), "--proposer", "scripted", "--branch", "lab/branch"]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--run-id", self.run_id, "--json"))
        return found

    # -- the run --------------------------------------------------------------------------------------------------

    @property
    def paths(self) -> RunPaths:
        return self.workspace.run(self.run_id)

    @property
    def state(self) -> RunState:
        return replayed(self.paths)

    def events(self, *kinds: type) -> list[Any]:
        return [event for event in read(self.paths.journal) if not kinds or isinstance(event, kinds)]

    def live(self) -> bool:
        return live(self.paths)

    def finished(self) -> RunState:
        """Wait until no session works on the run."""
        until(lambda: not self.live(), "the end of the session")
        return self.state


def decisions(state: RunState) -> list[tuple[int, str | None, float | None]]:
    """What a run came to: what must be equal however often it was killed."""
    return [(trial.iteration, trial.decision, trial.metric) for trial in state.trials]


def told(
    state: RunState, fields: Sequence[str] = ("iteration", "decision", "metric", "status", "source", "commit")
) -> Any:
    """More of it: the trials themselves."""
    return [trial.model_dump(include=set(fields)) for trial in state.trials]
