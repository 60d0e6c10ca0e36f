"""A training that the decision rule sees no hope for is ended early: a discard with its reason, and no crash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import gone

from autoexp.decisions.confirm import Confirm
from autoexp.executors.local import Local
from autoexp.runs.journal import read
from autoexp.runs.records import Evidence
from autoexp.runs.state import RunState
from autoexp.spec.ports import Case, Verdict
from autoexp.testing import SETTINGS, Registering, Scripted, make_workspace, proposal, run
from autoexp.workspace.paths import STOPPED_FILE, Workspace

TRAINER = """\
import json, os, pathlib, time
from evaluate import val_bpb

LR = 0.08
DEPTH = 4
WAITS = 0

report = pathlib.Path(os.environ["AUTOEXP_REPORT"])
value = val_bpb(LR, DEPTH)
curve = []
with report.with_name("metrics.jsonl").open("w") as metrics:
    for twentieth in range(1, 21):
        loss = value + 3.0 / twentieth
        curve.append([twentieth / 20, loss])
        line = {"phase": "train", "step": twentieth, "loss": loss, "progress": twentieth / 20 - 0.001}
        metrics.write(json.dumps(line) + "\\n")
        metrics.flush()
        if WAITS and twentieth == 12:
            time.sleep(600)
report.write_text(json.dumps({"status": "ok", "val_bpb": value, "loss_curve": curve, "device": "none"}))
"""


class Impatient(Confirm):
    """Ends what has a larger loss than a number, once half of it is done."""

    asked: list[tuple[int, int, float]] = []

    def foresee(self, case: Case, seed: int, curve: Sequence[tuple[float, float]]) -> Verdict | None:
        self.asked.append((case.trial.iteration, seed, curve[-1][0]))
        assert case.trial.metric is None and case.incumbent[0].curve[0][0] == 0.05
        if curve[-1][0] < 0.5 or curve[-1][1] < 1.35:
            return None
        numbers = Evidence(difference=0.2, error=0.01, candidate=1, best=1, better=0.001)
        return Verdict("discard", "hopeless: +0.2 +/- 0.01", evidence=numbers)


def stopping(path: Path) -> tuple[Workspace, dict[str, Any]]:
    workspace = make_workspace(path, TRAINER, SETTINGS)
    return workspace, {"plugins": {"rule": Registering(rules={"impatient": Impatient()})}, "rule": "impatient"}


def check(state: RunState, workspace: Workspace) -> None:
    kept, stopped, after = state.trials[1:]
    assert (kept.decision, after.decision) == ("keep", "keep")
    assert (stopped.decision, stopped.status, stopped.metric) == ("discard", "stopped", None)
    assert stopped.why == stopped.reason == "hopeless: +0.2 +/- 0.01"
    assert stopped.evidence is not None and stopped.evidence.better == 0.001
    assert stopped.attempts == 1
    assert (workspace.run("test").attempt(2, 1) / STOPPED_FILE).exists()
    assert [m.iteration for m in state.measurements if m.iteration] == [1, 3], "a stopped training measures nothing"
    row = (workspace.root / "results.tsv").read_text().splitlines()[3]
    assert row.split("\t")[1:4] == ["0.000000", "0.0", "discard"]


IDEAS = Scripted(proposal(LR=0.04), proposal(LR=0.9, WAITS=1), proposal(DEPTH=5))


def test_a_hopeless_training_is_ended_and_discarded(tmp_path: Path) -> None:
    workspace, how = stopping(tmp_path / "work")
    Impatient.asked.clear()
    state = run(workspace, 3, IDEAS, **how)
    check(state, workspace)
    pids = [json.loads((workspace.run("test").attempt(2, 1) / "exit.json").read_text())]
    assert pids[0]["status"] == "killed"
    asked = [(seed, done) for iteration, seed, done in Impatient.asked if iteration == 2]
    assert len(asked) == len(set(asked)) and max(done for _, done in asked) < 0.61, "once for each twentieth"
    started = [event for event in read(workspace.run("test").journal) if event.type == "training_started"]
    assert all(event.pid is None or gone(event.pid) for event in started)


def test_a_kill_between_the_reason_and_the_end_changes_nothing(tmp_path: Path) -> None:
    workspace, how = stopping(tmp_path / "work")

    class Killed(Local):
        """Where the session is cut off after stopped.json."""

        def kill(self, folder: Path) -> None:
            raise KeyboardInterrupt

    plugins = {**how["plugins"], "executor": Registering(executors={"cut": Killed()})}
    try:
        run(workspace, 3, IDEAS, plugins=plugins, rule="impatient", executor="cut")
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it was not cut off")
    Impatient.asked.clear()
    state = run(workspace, 2, IDEAS, **how, executor="local")
    check(state, workspace)
    assert 2 not in {iteration for iteration, _, _ in Impatient.asked}, "the reason is there already"
