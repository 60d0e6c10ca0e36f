"""An agent that outlives the session that asked it does not edit what a later session trains."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import Lab, gone, until

from autoexp.runs.events import Committed
from autoexp.testing import git, proposal

AGENT = """\
import os, signal, subprocess, sys, time
from pathlib import Path

for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
lab = Path(__file__).parent
if os.fork():
    time.sleep(600)
os.setsid()
(lab / "pid").write_text(str(os.getpid()))
while True:
    Path("train.py").write_text("print('val_bpb: 0.001')\\n")
    time.sleep(0.001)
"""


@pytest.mark.timeout(200)
def test_an_agent_of_a_killed_session_is_ended_by_the_next_one(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (tmp_path / "stray.py").write_text(AGENT)
    settings = lab.workspace.settings
    table = f"[agents.command]\nargs = ['{sys.executable}', '{tmp_path / 'stray.py'}']"
    settings.write_text(settings.read_text().replace('name = "fake"', f'name = "command"\n{table}'))
    lab.script(proposal(LR=0.02))
    with lab.popen(
        "start", "--run-id", lab.run_id, "--loops", "1", "--proposer", "command", "--no-background-train"
    ) as run:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the agent")
        run.kill()
    pid = int((tmp_path / "pid").read_text())
    lab.resume("--proposer", "scripted")

    assert gone(pid)
    (commit,) = (event.commit for event in lab.events(Committed) if event.iteration == 1)
    assert git(lab.root, "show", f"{commit}:train.py").count("LR = 0.02") == 1
    trial = lab.state.trials[1]
    assert trial.metric is not None and trial.metric > 1.0
