"""A checkout of karpathy/autoresearch is recognised without settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoexp.workspace.detect import detect
from autoexp.workspace.paths import Workspace
from autoexp.workspace.settings import Settings, load


@pytest.fixture
def checkout(tmp_path: Path) -> Workspace:
    for name in ("train.py", "prepare.py", "program.md"):
        (tmp_path / name).write_text("")
    return Workspace(tmp_path)


def test_its_two_programs_give_it_away(checkout: Workspace) -> None:
    settings = load(checkout, {})
    assert settings.train.command == ("uv", "run", "train.py")
    assert (settings.files.editable, settings.files.frozen) == (("train.py",), ("prepare.py",))
    assert settings.prepare.command == ("uv", "run", "prepare.py")
    assert all(path.startswith("~/.cache/autoresearch/") for path in settings.prepare.requires)
    assert settings.metric.name == "val_bpb"


def test_settings_of_its_own_win_one_by_one(checkout: Workspace) -> None:
    checkout.settings.write_text("[train]\nbudget_seconds = 60\n[prepare]\nrequires = []\n")
    settings = load(checkout, {"AUTOEXP_TRAIN__COMMAND": "python3 train.py"})
    assert settings.train.command == ("python3", "train.py")
    assert settings.train.budget_seconds == 60
    assert settings.prepare.requires == ()
    assert settings.files.frozen == ("prepare.py",)


@pytest.mark.parametrize("missing", ["train.py", "prepare.py"])
def test_half_of_it_is_something_else(checkout: Workspace, missing: str) -> None:
    (checkout.root / missing).unlink()
    assert detect(checkout) == {}
    assert load(checkout, {}) == Settings()
