"""What goes wrong beside the training costs at most one trial."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoexp.errors import AgentError, AutoexpError, DiskFullError, UsageError
from autoexp.runs.records import Proposal, Replace
from autoexp.runs.state import RunState
from autoexp.session.requests import Request, post
from autoexp.spec.context import Context
from autoexp.testing import TRAINER, Scripted, git, make_workspace, proposal, run
from autoexp.workspace.paths import Workspace


class Down:
    """A proposer whose service is down."""

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        raise AgentError("502 Bad Gateway")


def test_the_fallback_carries_on_when_the_proposer_fails(workspace: Workspace) -> None:
    state = run(workspace, 2, Down())

    assert [trial.proposer for trial in state.trials] == ["baseline", "search", "search"]
    assert any("502 Bad Gateway" in note.text for note in state.notes)


def test_a_changed_budget_is_refused_and_a_changed_environment_is_noted(workspace: Workspace) -> None:
    run(workspace, 1, Scripted(proposal(LR=0.04)))
    text = workspace.settings.read_text()

    workspace.settings.write_text(text.replace("[train]", "[train]\nbudget_seconds = 7", 1))
    with pytest.raises(UsageError, match=r"budget_seconds was 300 .* is now 7"):
        run(workspace, 1, Scripted(proposal(LR=0.04), proposal(LR=0.03)))
    workspace.settings.write_text(text.replace("[train]", '[train]\nenv = { NEW = "1" }', 1))
    state = run(workspace, 1, Scripted(proposal(LR=0.04), proposal(LR=0.03)))

    assert state.completed == 2
    assert any(note.text.startswith("train.env was") for note in state.notes)


def test_a_failed_baseline_stays_the_end_until_one_goes_on_without_it(tmp_path: Path) -> None:
    broken = make_workspace(tmp_path / "work", "LR = 0.08  # [0.001, 1.0] log; rate\nraise RuntimeError('no GPU')\n")
    for _ in range(2):  # also when it is resumed
        with pytest.raises(AutoexpError, match=r"does not train: .*no GPU"):
            run(broken, 2, Scripted(proposal(LR=0.04)))
    mended = Replace(op="replace", path="train.py", old="raise RuntimeError('no GPU')", new="print('val_bpb:', LR)")

    state = run(broken, 1, Scripted(proposal(mended)), stages=("setup", "loop"))

    assert [(trial.decision, trial.metric) for trial in state.trials] == [("crash", None), ("keep", 0.08)]


SAVES = "\nwith open('weights', 'wb') as file:\n    file.write(bytes(3_000_000))\n"


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_a_training_that_found_no_space_is_trained_again_when_there_is_some(small_disk: Path) -> None:
    workspace = make_workspace(small_disk / "work", TRAINER + SAVES)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1_500_000))
    with pytest.raises(DiskFullError, match=r"the disk is full|no space left") as caught:
        run(workspace, 0)
    assert "autoexp resume" in caught.value.hint

    filler.unlink()
    state = run(workspace, 0)

    assert [(trial.status, trial.attempts) for trial in state.trials] == [("success", 2)]


def test_a_request_of_another_release_is_dropped(workspace: Workspace) -> None:
    run(workspace, 0)
    paths = workspace.existing(None)
    post(paths, Request(kind="resume", loops=1, changes={"colour": "blue"}))

    state = run(workspace, 1, Scripted(proposal(LR=0.04)))

    assert state.completed == 1 and not list(paths.requests.glob("*.json"))
    assert any("not understood" in note.text for note in state.notes)


def test_a_tree_that_waits_for_its_commit_survives_a_collection(workspace: Workspace) -> None:
    script = Scripted(proposal(LR=0.04))
    run(workspace, 1, script, loop=("propose", "apply"))
    git(workspace.root, "gc", "--quiet", "--prune=now")

    state = run(workspace, 1, script, loop=("propose", "apply", "commit", "train", "triage", "record", "decide"))

    assert [trial.decision for trial in state.trials] == ["keep", "keep"]
    assert "-tree" not in git(workspace.root, "for-each-ref", "--format=%(refname)")


def test_linked_data_is_there_for_the_training_and_not_for_the_editor(tmp_path: Path) -> None:
    trainer = "LR = 0.08  # [0.001, 1.0] log; rate\nprint('val_bpb:', open('data/value').read())\n"
    settings = '[train]\ncommand = "{python} -S train.py"\n[files]\nlink = ["data"]\n'
    linked = make_workspace(tmp_path / "work", trainer, settings)
    (linked.root / ".gitignore").write_text("data\n")
    git(linked.root, "add", ".gitignore")
    git(linked.root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--message=ignore")
    (linked.root / "data").mkdir()
    (linked.root / "data" / "value").write_text("0.5")

    state = run(linked, 1, Scripted(proposal(LR=0.04)))

    assert [trial.metric for trial in state.trials] == [0.5, 0.5]
    assert (linked.root / "data" / "value").read_text() == "0.5"


@pytest.mark.parametrize("value", ["NaN", "1e999", '"\\ud800"'])
def test_a_constant_that_no_journal_could_hold_is_refused(workspace: Workspace, value: str) -> None:
    run(workspace, 0)
    paths = workspace.existing(None)
    edit = f'{{"op": "set", "name": "LR", "value": {value}}}'
    fields = {"status": "ok", "description": "d", "change_plan": "p", "commit_description": "c"}
    paths.override.write_text(json.dumps(fields)[:-1] + f', "edits": [{edit}]}}')

    state = run(workspace, 1, Scripted(proposal(LR=0.04)))

    assert state.trials[1].proposer == "under-test"
    assert any("invalid proposal" in note.text for note in state.notes)
    assert paths.override.exists(), "it is left to be corrected"
