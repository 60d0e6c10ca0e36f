"""A training whose evaluation fails is evaluated again from its checkpoint, not trained again."""

from __future__ import annotations

import json
from pathlib import Path

from autoexp.testing import SETTINGS, Scripted, make_workspace, proposal, run

TRAINER = """\
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
"""


def test_only_the_evaluation_is_repeated_and_only_once(tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    more = f"[train]\ncan_reevaluate = true\nenv = {{ TALLY = {json.dumps(str(tally))} }}"
    workspace = make_workspace(tmp_path / "work", TRAINER, SETTINGS.replace("[train]", more, 1))
    later, never = proposal(EVALUATION="works later", LR=0.02), proposal(EVALUATION="never works", LR=0.01)

    state = run(workspace, loops=2, proposer=Scripted(later, never))
    paths = workspace.existing(None)

    assert tally.read_text().split() == ["trained", "trained", "evaluated", "trained", "evaluated"]
    assert [(trial.decision, trial.metric, trial.attempts) for trial in state.trials] == [
        ("keep", 1.08, 1),
        ("keep", 1.02, 2),
        ("crash", None, 2),
    ]
    kept = sorted(str(file.relative_to(paths.folder)) for file in paths.folder.rglob("checkpoint.pt"))
    assert kept == ["iterations/0001/attempt-1/checkpoint.pt"], "the best one's, and no other"
