"""A training whose evaluation fails is evaluated again from its checkpoint, not trained again."""

from __future__ import annotations

import json
from pathlib import Path

from autoexp.testing import git, proposal, replayed, run
from autoexp.workspace.paths import Workspace

TRAINER = '''\
import json, os, pathlib

LR = 0.08  # [0.0001, 1.0] log; learning rate
EVALUATION = "works"

report = pathlib.Path(os.environ["AUTOEXP_REPORT"])
checkpoint = os.environ.get("AUTOEXP_CHECKPOINT")
with open(os.environ["TALLY"], "a") as tally:
    tally.write("evaluated" if checkpoint else "trained")
    tally.write("\\n")
if checkpoint is None:
    saved = report.with_name("checkpoint.pt")
    saved.write_text(str(1 + LR))
else:
    saved = pathlib.Path(checkpoint)
failed = {"status": "failed", "phase": "evaluate", "reason": "evaluation broke", "checkpoint": str(saved)}
if EVALUATION == "never works" or (EVALUATION == "works later" and checkpoint is None):
    report.write_text(json.dumps(failed))
    raise SystemExit(1)
report.write_text(json.dumps({"status": "ok", "val_bpb": float(saved.read_text())}))
'''


def program(workspace: Workspace, tally: Path) -> None:
    (workspace.root / "train.py").write_text(TRAINER)
    settings = workspace.settings.read_text() if workspace.settings.exists() else ""
    assert "[train]" in settings
    more = f"[train]\ncan_reevaluate = true\nenv = {{ TALLY = {json.dumps(str(tally))} }}"
    workspace.settings.write_text(settings.replace("[train]", more, 1))
    git(workspace.root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--all", "--message=program")


def test_only_the_evaluation_is_repeated_and_only_once(workspace: Workspace, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    program(workspace, tally)
    later, never = proposal(EVALUATION="works later", LR=0.02), proposal(EVALUATION="never works", LR=0.01)

    paths = run(workspace, later, never)
    state = replayed(paths)

    assert tally.read_text().split() == ["trained", "trained", "evaluated", "trained", "evaluated"]
    assert [(trial.decision, trial.metric, trial.attempts) for trial in state.trials] == [
        ("keep", 1.08, 1),
        ("keep", 1.02, 2),
        ("crash", None, 2),
    ]
    kept = sorted(str(file.relative_to(paths.folder)) for file in paths.folder.rglob("checkpoint.pt"))
    assert kept == ["iterations/0001/attempt-1/checkpoint.pt"], "the best one's, and no other"
