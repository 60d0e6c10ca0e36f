"""The text of train.py: every constant that may be searched is one line that a program can read."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from autoexp.model import profiles

from .conftest import command

LINE = re.compile(r"^([A-Z][A-Z0-9_]*) = (.+?)  # (.*)$")
NUMBERS = re.compile(r"\[([^,\]]+), ([^,\]]+)\]( log)?; \S")
CHOICES = re.compile(r"\{([^}]+)\}; \S")


def value_of(text: str) -> object:
    if power := re.fullmatch(r"(\d+)\*\*(\d+)", text):
        return int(power[1]) ** int(power[2])
    return ast.literal_eval(text)


@pytest.mark.parametrize("name", list(profiles.PROFILES))
def test_every_annotated_value_lies_in_its_range(name: str) -> None:
    text = profiles.render(profiles.PROFILES[name])
    compile(text, "train.py", "exec")
    searchable = 0
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        constant, value, comment = match[1], value_of(match[2]), match[3]
        if numbers := NUMBERS.match(comment):
            low, high = value_of(numbers[1]), value_of(numbers[2])
            assert isinstance(value, int | float) and isinstance(low, int | float) and isinstance(high, int | float)
            assert low <= value <= high, constant
            assert isinstance(low, float) == isinstance(high, float) == isinstance(value, float), constant
            assert low > 0 or not numbers[3], f"{constant} has a log range from 0"
            searchable += 1
        elif choices := CHOICES.match(comment):
            assert value in [value_of(each.strip()) for each in choices[1].split(", ")], constant
            searchable += 1
        else:
            assert not re.match(r"[\[{]", comment), constant
    assert searchable >= 15
    assert f'PROFILE = "{name}"' in text


def test_every_value_of_a_profile_is_in_the_text() -> None:
    text = profiles.render(profiles.CPU)
    for constant, (value, limits) in profiles.CPU.constants.items():
        assert f"\n{constant} = {value}  # {limits}" in text


def test_command_writes_once_and_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "new" / "train.py"
    arguments = ("-m", "autoexp.model.profiles", "--profile", "cpu", "--out", out)
    run = command(*arguments, AUTOEXP_CACHE=tmp_path)
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert {**facts, "data_dir": ""} == {
        "profile": "cpu",
        "device": "cpu",
        "budget_seconds": 20,
        "dataset": "bundled",
        "data_dir": "",
    }
    assert Path(facts["data_dir"]).parent == tmp_path / "prepared"
    assert out.read_text() == profiles.render(profiles.CPU)
    out.write_text("mine")
    run = command(*arguments, AUTOEXP_CACHE=tmp_path)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 2
    assert out.read_text() == "mine"
