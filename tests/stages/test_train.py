"""train: what a trainer leaves behind is written down, whatever it is, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoexp.executors import local
from autoexp.runs.records import Replace, Trial
from autoexp.testing import SETTINGS, Scripted, make_workspace, proposal, replayed, run
from autoexp.workspace.paths import Workspace

GOOD = 'LR = 0.5\nprint("val_bpb:", LR)\n'


def trained(path: Path, program: str) -> Trial:
    """The trial of `program` instead of a good one. The journal, read again, agrees."""
    workspace = make_workspace(path, GOOD)
    edit = Replace(op="replace", path="train.py", old=GOOD, new=program)
    state = run(workspace, 1, Scripted(proposal(edit, description="another program")))
    assert [trial.iteration for trial in state.trials] == [0, 1]
    assert replayed(workspace.existing(None)).trials == state.trials
    return state.trials[1]


REPORTING = """\
import os, sys
with open(os.environ["AUTOEXP_REPORT"], "w") as file:
    file.write({report})
print("val_bpb: 0.5")
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("report", "code", "expected"),
    [
        ("""'{"val_bpb": 0.25, "n": 1' + "0" * 400 + "}" """, 0, ("success", "", 0.25)),
        ("""'{"val_bpb": 1' + "0" * 400 + "}" """, 0, ("crash", "val_bpb is inf", None)),
        ("'[' * 200000", 0, ("success", "", 0.5)),  # it is no report: what was printed counts
        (r"""'{"status": "failed", "reason": "\\ud800 oops"}'""", 1, ("crash", "\ufffd oops", None)),
    ],
    ids=["a long number beside", "a long metric", "deep", "surrogate"],
)
def test_no_report_stops_a_run(tmp_path: Path, report: str, code: int, expected: object) -> None:
    trial = trained(tmp_path, REPORTING.format(report=report, code=code))
    assert (trial.status, trial.reason, trial.metric) == expected


def test_no_constant_stops_a_run(tmp_path: Path) -> None:
    trial = trained(tmp_path, r'SEP = "\ud800"' + f"\nBIG = 0x{'f' * 5000}\n{GOOD}")
    assert (trial.status, trial.constants) == ("success", {"LR": 0.5})


def test_a_training_that_floods_its_log_is_a_crash_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOG_BYTES", 1 << 20)
    trial = trained(tmp_path, "while True: print('val_bpb: 0.5')\n")
    assert (trial.status, trial.attempts, trial.metric) == ("crash", 1, None)
    assert trial.reason == "its log passed 0.000977 GiB"


def test_a_training_is_told_how_many_gpus_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shell of the person says."""
    monkeypatch.setenv("AUTOEXP_GPUS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    program = 'import os\nprint("val_bpb: 0." + os.environ["AUTOEXP_GPUS"] + os.environ["CUDA_VISIBLE_DEVICES"][-1])\n'
    workspace = make_workspace(tmp_path, program, SETTINGS.replace("[train]", "[train]\ngpus = 2"))
    assert run(workspace, 0, Scripted()).trials[0].metric == 0.25


def test_a_job_of_another_commit_is_put_aside_not_believed(workspace: Workspace) -> None:
    """As after a journal was put back from an older copy: iteration 1 comes again, with another candidate."""
    first = run(workspace, 1, Scripted(proposal(LR=0.02)))
    paths = workspace.existing(None)
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    until = next(number for number, line in enumerate(lines) if b'"proposed"' in line)
    paths.journal.write_bytes(b"".join(lines[:until]))
    paths.snapshot.unlink(missing_ok=True)

    again = run(workspace, 1, Scripted(proposal(LR=0.03)))

    assert again.trials[1].metric != first.trials[1].metric
    assert (paths.iteration(1) / "attempt-1.stale-1" / "job.json").exists()
