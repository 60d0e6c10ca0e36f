"""setup: what must be there, and the preparing of data that is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import gone, until

from autoexp.errors import AutoexpError, PreconditionError
from autoexp.testing import Scripted, git, run
from autoexp.workspace.locks import held
from autoexp.workspace.paths import PREPARE_LOCK, Workspace


def with_settings(workspace: Workspace, text: str) -> Workspace:
    with workspace.settings.open("a") as file:
        file.write(text)
    return workspace


def set_up(workspace: Workspace, **plan: object) -> None:
    run(workspace, 0, Scripted(), stages=("setup",), **plan)


REQUIRES = '\n[prepare]\nrequires = ["data/*.bin"]\n'
PREPARE = "command = ['sh', '-c', '{}']\n"


def test_a_workspace_that_has_everything_passes_and_gits_view_of_it_stays_clean(workspace: Workspace) -> None:
    set_up(workspace)
    assert git(workspace.root, "status", "--porcelain") == ""
    assert git(workspace.root, "check-ignore", "workflows/runs/x", "results.tsv") == "workflows/runs/x\nresults.tsv"


@pytest.mark.parametrize("link", ["workflows", "workflows/runs"])
def test_where_the_runs_are_a_link_git_does_not_see_it_either(workspace: Workspace, tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (workspace.root / link).parent.mkdir(exist_ok=True)
    (workspace.root / link).symlink_to(tmp_path / "elsewhere")
    set_up(workspace)
    assert git(workspace.root, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        (
            '\n[metric]\n[run]\n[proposers]\n[agent]\n[prepare]\nrequires = ["no/such"]\n',
            "data is missing: no/such",
            "prepare",
        ),
        (REQUIRES + PREPARE.format("exit 3"), "preparing data failed (exit 3)", "autoexp prepare"),
        (REQUIRES + PREPARE.format("echo no network >&2; exit 1"), "no network", "autoexp prepare"),
        (REQUIRES + PREPARE.format("true"), "data is still missing after preparing: data/*.bin", "prepare.log"),
        (REQUIRES + 'command = "no-such-program"\n', "'no-such-program' is not on PATH", "install no-such-program"),
    ],
)
def test_what_is_missing_is_exit_3_with_the_way_out(workspace: Workspace, settings: str, said: str, hint: str) -> None:
    with pytest.raises(PreconditionError) as caught:
        set_up(with_settings(workspace, settings))
    assert said in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_isolation_that_is_required_and_cannot_be_is_told_before_anything_is_trained(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.settings.write_text(
        workspace.settings.read_text().replace("[train]", '[train]\nisolation = "required"', 1)
    )
    for program in ("git", "sh", "python3"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    monkeypatch.setenv("PATH", str(tmp_path))  # without bubblewrap
    with pytest.raises(PreconditionError, match=r'train\.isolation is "required"') as caught:
        set_up(workspace)
    assert "apt-get install bubblewrap" in caught.value.hint
    assert caught.value.hint.endswith("then: autoexp resume --run-id test")


def test_missing_data_is_prepared_once(workspace: Workspace) -> None:
    command = PREPARE.format("mkdir -p data; touch data/a.bin; echo x >> times")
    with_settings(workspace, REQUIRES + command)
    set_up(workspace)
    set_up(workspace)
    assert (workspace.root / "times").read_text() == "x\n"


def test_a_prepare_that_takes_too_long_is_ended_with_all_that_it_started(workspace: Workspace, tmp_path: Path) -> None:
    command = PREPARE.format("sleep 71 & echo $! > child; echo $$ > parent; wait")
    with_settings(workspace, REQUIRES + command + "timeout_seconds = 1\n")
    with pytest.raises(AutoexpError, match="took longer than 1 s"):
        set_up(workspace)
    for name in ("child", "parent"):
        assert gone(int((workspace.root / name).read_text()))


KILLED = """
import sys
from pathlib import Path
from autoexp.testing import Scripted, run
from autoexp.workspace.paths import Workspace

run(Workspace(Path(sys.argv[1])), 0, Scripted(), stages=("setup",))
"""


def test_the_prepare_of_a_killed_session_is_waited_for_and_not_done_twice(workspace: Workspace, tmp_path: Path) -> None:
    command = PREPARE.format("echo x >> times; while [ -e hold ]; do sleep 0.05; done; mkdir -p data; touch data/a.bin")
    with_settings(workspace, REQUIRES + command)
    (workspace.root / "hold").touch()
    session = subprocess.Popen([sys.executable, "-c", KILLED, str(workspace.root)])
    until(lambda: (workspace.root / "times").exists())
    session.kill()
    session.wait()
    assert held(workspace.runs / PREPARE_LOCK)

    def release() -> None:
        until(lambda: any("prepared already" in file.read_text() for file in workspace.runs.glob("*/runner.log")))
        (workspace.root / "hold").unlink()

    helper = threading.Thread(target=release)
    helper.start()
    set_up(workspace)
    helper.join()
    assert (workspace.root / "times").read_text() == "x\n"
    assert not held(workspace.runs / PREPARE_LOCK)


def test_no_auto_prepare_prepares_nothing(workspace: Workspace) -> None:
    with_settings(workspace, REQUIRES + PREPARE.format("mkdir -p data; touch data/a.bin"))
    with pytest.raises(PreconditionError, match="data is missing"):
        set_up(workspace, auto_prepare=False)
    assert not (workspace.root / "data").exists()


def test_a_failed_set_up_is_done_again_by_the_next_resume(workspace: Workspace) -> None:
    with_settings(workspace, REQUIRES)
    with pytest.raises(PreconditionError):
        set_up(workspace)
    (workspace.root / "data").mkdir()
    (workspace.root / "data" / "a.bin").touch()
    set_up(workspace)


def test_a_missing_training_command_is_found_out_before_anything_is_trained(workspace: Workspace) -> None:
    text = workspace.settings.read_text().replace("{python}", "no-such-python")
    workspace.settings.write_text(text)
    with pytest.raises(PreconditionError, match="'no-such-python' is not on PATH"):
        set_up(workspace)


def test_nothing_editable_is_found_out(workspace: Workspace) -> None:
    text = workspace.settings.read_text()
    for editable, there, said, hint in (
        ('"other.py"', "", r"no file matches files.editable \(other.py\)", "edit [files] in autoexp.toml"),
        ('"other.py"', "other.py", r"no committed file matches files.editable \(other.py\)", "git add other.py &&"),
        ("", "", r"files.editable is empty", "edit [files] in autoexp.toml"),
    ):
        if there:
            (workspace.root / there).touch()
        workspace.settings.write_text(text.replace('"train.py"', editable))
        with pytest.raises(PreconditionError, match=said) as caught:
            set_up(workspace)
        assert hint in caught.value.hint


def test_uncommitted_edits_are_told_of_and_are_no_part_of_the_run(workspace: Workspace, tmp_path: Path) -> None:
    program = workspace.root / "train.py"
    program.write_text(program.read_text().replace("LR = 0.08", "LR = 0.01"))
    state = run(workspace, 0, Scripted())
    assert "uncommitted edits are left alone" in state.notes[0].text
    assert state.trials[0].constants["LR"] == 0.08
    assert "LR = 0.01" in program.read_text()
