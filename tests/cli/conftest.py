"""Real runs in real repositories, through the real command line, in pipes and in terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoexp.workspace.paths import LOG_FILE, RunPaths

TRAINER = """
import json, os, pathlib, time
LR = 0.04
WIDTH = 64
folder = pathlib.Path(os.environ["AUTOEXP_REPORT"]).parent
with open(folder / "metrics.jsonl", "w") as metrics:
    line = {"step": 7, "loss": 3.25, "tokens_per_second": 123456.0, "elapsed": 3.0, "budget": 6.0, "progress": 0.5}
    metrics.write(json.dumps(line) + "\\n")
print("step 7 \\x1b[31mloss 3.25", flush=True)
gate = os.environ.get("GATE")
while gate and not os.path.exists(gate):
    time.sleep(0.02)
if WIDTH == 13:
    raise SystemExit("out of luck")
print(f"val_bpb: {1.0 + (LR - 0.01) ** 2 * 40:.6f}")
print("peak_vram_mb: 2048.0")
"""
GUARD_SECONDS = 60.0
"""After which a test gives up on a program that does not do what it should."""


def proposal(name: str, value: object, description: str) -> dict[str, Any]:
    return {
        "status": "ok",
        "description": description,
        "change_plan": f"Set {name} to {value}.\nBecause the loss is noisy at the end.",
        "commit_description": description,
        "edits": [{"op": "set", "name": name, "value": value}],
    }


SIZE = ("NO_COLOR", "COLUMNS", "LINES")
"""What would say more about a terminal than the terminal does; pytest-xdist sets the last two."""


class Cli:
    """`autoexp` in one folder."""

    def __init__(self, root: Path, **env: str) -> None:
        self.root = root
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOEXP_", "GIT_")) and k not in SIZE}
        self.env = {**keep, "TERM": "xterm-256color", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1", **env}
        self.env.setdefault("AUTOEXP_AUDIT__AUTO", "false")  # trainings of no time are soon worth an audit

    def __call__(self, *args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "autoexp", *args]
        done = subprocess.run(
            command, cwd=self.root, env=self.env | env, capture_output=True, text=True, timeout=GUARD_SECONDS
        )

        assert done.returncode == code, done.stdout + done.stderr

        return done

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "--json").stdout)

    def propose(self, *args: str, **fields: Any) -> None:
        file = self.root / "workflows" / "p.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(proposal(**fields)))
        self(*args, "--no-background-train", "--loops", "1", "--proposal-file", str(file))

    def commit(self) -> None:
        commit(self.root)

    def run_folder(self) -> Path:
        return max((self.root / "workflows" / "runs").glob("*/history.jsonl")).parent

    def terminal(self, *args: str, columns: int = 100, rows: int = 35, **env: str) -> Terminal:
        return Terminal([sys.executable, "-m", "autoexp", *args], self.root, self.env | env, columns, rows)


class Terminal:
    """A program in a terminal of its own, its controlling one, so that Ctrl-C means what it means to a person."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], columns: int, rows: int) -> None:
        self.end, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inner)
        self.raw = ""

    @property
    def text(self) -> str:
        """What was printed, without the escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def read_until(self, wanted: str | None) -> str:
        """Read until `wanted` was seen; None: until the program has ended."""
        deadline = time.monotonic() + GUARD_SECONDS
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < deadline, self.text[-3000:]
            if not select.select([self.end], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self.end, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                data = b""
            if not data:
                assert wanted is None, self.text[-3000:]
                break
            self.raw += data.decode(errors="replace")
        return self.text

    def type(self, keys: bytes) -> None:
        os.write(self.end, keys)

    def finish(self) -> int:
        self.read_until(None)
        os.close(self.end)
        return self.process.wait(GUARD_SECONDS)


def commit(root: Path) -> None:
    """Commit everything, as the person would."""
    for command in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)


def _workspace(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "train.py").write_text(TRAINER)
    (root / "autoexp.toml").write_text('[train]\ncommand = ["{python}", "train.py"]\n')
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    commit(root)
    return root


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A workspace without a run."""
    return Cli(_workspace(tmp_path / "work"))


@pytest.fixture
def gated(cli: Cli) -> Iterator[tuple[Cli, Callable[[], None]]]:
    """A live run whose trainings wait, and the function that lets them go on."""
    gate = cli.root.parent / "gate"
    cli("start", "--loops", "1", "--run-id", "gated", GATE=str(gate))
    log, deadline = RunPaths(cli.run_folder()).attempt(0, 1) / LOG_FILE, time.monotonic() + GUARD_SECONDS
    while not (log.exists() and b"loss" in log.read_bytes()):  # the trainer has said all that it says before the gate
        assert time.monotonic() < deadline, "the trainer does not begin"
        time.sleep(0.02)
    yield cli, gate.touch
    gate.touch()
    cli("watch")  # nothing is left running behind a test


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A run with a baseline and trials that were kept, crashed and discarded. It is shared: not to be changed."""
    cli = Cli(_workspace(tmp_path_factory.mktemp("finished") / "work"))
    cli.propose("start", name="LR", value=0.02, description="Halve the rate \x1b[31m日本語 [red]")
    cli.propose("resume", name="WIDTH", value=13, description="Unlucky width")
    cli.propose("resume", name="LR", value=0.2, description="Ten times the rate")
    return cli
