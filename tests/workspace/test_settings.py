"""Settings: where they come from, who wins, and what a mistake is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from autoexp.errors import UsageError
from autoexp.workspace.paths import Workspace
from autoexp.workspace.settings import Settings, filled, load


@pytest.fixture
def bare(tmp_path: Path) -> Workspace:
    (tmp_path / "bare").mkdir()
    return Workspace(tmp_path / "bare")


def loaded(bare: Workspace, text: str = "", **environ: str) -> Settings:
    if text:
        bare.settings.write_text(text)
    return load(bare, environ)


def test_without_a_file_the_defaults_hold(bare: Workspace) -> None:
    assert loaded(bare) == Settings()


def test_the_file_wins_over_the_defaults_and_the_environment_over_the_file(bare: Workspace) -> None:
    settings = loaded(
        bare,
        '[train]\nbudget_seconds = 60\ntimeout_seconds = 90\n[metric]\nname = "loss"',
        AUTOEXP_TRAIN__TIMEOUT_SECONDS="120",
        AUTOEXP_FILES__EDITABLE='["a.py", "b.py"]',
        UNRELATED="x",
    )
    assert (settings.train.budget_seconds, settings.train.timeout_seconds) == (60, 120)
    assert (settings.metric.name, settings.metric.direction) == ("loss", "min")
    assert settings.files.editable == ("a.py", "b.py")


def test_a_table_in_pyproject_counts_unless_there_is_a_file_of_its_own(bare: Workspace) -> None:
    (bare.root / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.autoexp.run]\nseed = 3\n')
    assert loaded(bare).run.seed == 3
    assert loaded(bare, "[run]\nworkers = 2").run == Settings().run.model_copy(update={"workers": 2})


def test_a_command_is_a_list_or_a_line_as_a_shell_splits_it(bare: Workspace) -> None:
    line = loaded(bare, "[train]\ncommand = \"uv run 'my train.py' --x=1\"").train.command
    assert line == ("uv", "run", "my train.py", "--x=1")
    assert loaded(bare, '[train]\ncommand = ["a b", "c"]').train.command == ("a b", "c")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[train]\nbudget_second = 1", "unknown setting train.budget_second", "did you mean train.budget_seconds?"),
        ("[trian]\nx = 1", "unknown setting trian", "did you mean train?"),
        ("[run]\nworker = 1", "unknown setting run.worker", "did you mean run.workers?"),
        ("[metric]\nqqqqqqqq = 1", "unknown setting metric.qqqqqqqq", "one of name, direction"),
        ("[train]\nbudget_seconds = 0", "train.budget_seconds must be greater than 0, and is 0", "edit autoexp.toml"),
        ("[train]\nbudget_seconds = -inf", "train.budget_seconds", "edit autoexp.toml"),
        ('[metric]\ndirection = "up"', "metric.direction must be 'min' or 'max', and is \"up\"", "edit autoexp.toml"),
        ("[run]\nworkers = 0", "run.workers", "edit autoexp.toml"),
        ("train = 3", "train", "edit autoexp.toml"),
        ("[train", "not valid TOML", "edit autoexp.toml"),
        ("a = 1\na = 2", "not valid TOML", "edit autoexp.toml"),
        ('[train]\ncommand = "unclosed \'quote"', "train.command: ", "edit autoexp.toml"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_way_out(bare: Workspace, text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(bare, text)
    assert said in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("AUTOEXP_RUN__WORKERS", "many", "run.workers"),
        ("AUTOEXP_FILES__EDITABLE", "[1", "not valid JSON"),
        ("AUTOEXP_RUN__WROKERS", "1", "unknown setting run.wrokers"),
        ("AUTOEXP_TRAN__X", "1", "the variable AUTOEXP_TRAN__X: unknown setting tran"),
    ],
)
def test_a_mistake_in_the_environment_is_named_too(bare: Workspace, name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(bare, "", **{name: text})
    assert said in str(caught.value)


def test_a_variable_reaches_into_the_options_of_a_part(bare: Workspace) -> None:
    settings = loaded(bare, '[agents.openai]\nbase_url = "http://x"', AUTOEXP_AGENTS__OPENAI__MODEL="m")
    assert settings.agents["openai"] == {"base_url": "http://x", "model": "m"}


def test_a_file_that_is_no_text_is_refused(bare: Workspace) -> None:
    bare.settings.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(bare, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{python} x", f"{sys.executable} x"),
        ("{root}/data", "<root>/data"),
        ("{unknown}", "{unknown}"),
        ("~/x", str(Path.home() / "x")),
        ("a~b", "a~b"),
        ("$HOME", "$HOME"),
    ],
)
def test_placeholders_are_filled_and_nothing_else_is(bare: Workspace, text: str, expected: str) -> None:
    assert filled(text, bare) == expected.replace("<root>", str(bare.root))


def test_every_setting_can_be_written_and_read_back(bare: Workspace) -> None:
    fields: dict[str, Any] = Settings().model_dump(mode="json")
    assert Settings.model_validate(fields) == Settings()
