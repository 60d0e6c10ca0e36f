"""Mixes of proposers: whose turn it is, where a mix can be said, and what is none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from autoexp.errors import UsageError
from autoexp.runs.records import Plan, chosen, shares
from autoexp.session.planning import first_plan
from autoexp.session.status import status
from autoexp.testing import Registering, Scripted, proposal, run
from autoexp.workspace.paths import Workspace
from autoexp.workspace.settings import load

STAGES = (("setup", "baseline", "loop"), ("propose", "apply", "commit", "train", "triage", "record", "decide"))
FIRST = Scripted(*[proposal(LR=0.08 + n / 100) for n in range(1, 20)])
SECOND = Scripted(*[proposal(LR=0.5 + n / 100) for n in range(1, 20)])
BOTH: dict[str, Any] = {"mix": Registering(proposers={"first": FIRST, "second": SECOND})}


def who(state: Any) -> list[str]:
    return [trial.proposer for trial in state.trials[1:]]


def test_turns_are_by_the_shares_and_the_same_for_the_same_seed() -> None:
    mix = {"a": 0.7, "b": 0.3}
    turns = [chosen(mix, 1, n) for n in range(1000)]
    assert turns == [chosen(dict(mix), 1, n) for n in range(1000)]
    assert turns != [chosen(mix, 2, n) for n in range(1000)]
    assert 650 < Counter(turns)["a"] < 750
    assert {chosen({"only": 3.0}, seed, seed) for seed in range(9)} == {"only"}


def test_shares_need_not_add_up_to_one() -> None:
    assert [chosen({"a": 7, "b": 3}, 1, n) for n in range(50)] == [
        chosen({"a": 0.7, "b": 0.3}, 1, n) for n in range(50)
    ]


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("search", {"search": 1.0}),
        ("a=0.7,b=0.3", {"a": 0.7, "b": 0.3}),
        (" a = 7 , b ", {"a": 7.0, "b": 1.0}),
        ("a=1e-3,b=2", {"a": 0.001, "b": 2.0}),
    ],
)
def test_a_mix_is_names_with_shares(text: str, mix: dict[str, float]) -> None:
    assert shares(text) == Plan(proposer=text).proposers == mix


@pytest.mark.parametrize("text", ["", "=1", "a=", "a=0", "a=-1", "a=nan", "a=inf", "a=many", "a,,b", "a=1,a=2"])
def test_what_is_no_mix_is_refused_in_two_lines(workspace: Workspace, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        first_plan(load(workspace), STAGES, 1, {"proposer": text})
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"proposer {text}: ") and "\n" not in str(caught.value)
    assert caught.value.hint == "autoexp start --proposer opencode=0.7,search=0.3"


def test_an_unknown_name_in_a_mix_is_refused_with_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match=r"there is no proposer 'nobody' \(there are: .*search"):
        first_plan(load(workspace), STAGES, 1, {"proposer": "search=0.5,nobody=0.5"})


@pytest.mark.parametrize(
    ("file", "environ", "mix"),
    [
        ('proposer = "search=0.7,command=0.3"', {}, {"search": 0.7, "command": 0.3}),
        ("proposers = {search = 0.7, command = 0.3}", {}, {"search": 0.7, "command": 0.3}),
        ("", {"AUTOEXP_RUN__PROPOSERS": '{"search": 0.25, "command": 4}'}, {"search": 0.25, "command": 4.0}),
        ("proposers = {search = 1, command = 1}", {"AUTOEXP_RUN__PROPOSERS": '{"search": 1}'}, {"search": 1.0}),
        ("proposers = {search = 1, command = 1}", {"AUTOEXP_RUN__PROPOSER": "command"}, {"command": 1.0}),
        ('proposer = "command"\nproposers = {search = 1}', {}, {"search": 1.0}),
    ],
)
def test_the_settings_can_say_it_in_each_way(
    workspace: Workspace, file: str, environ: dict[str, str], mix: dict[str, float]
) -> None:
    with workspace.settings.open("a") as settings:
        settings.write(f"\n[run]\n{file}\n")
    assert first_plan(load(workspace, environ), STAGES, 1, {}).proposers == mix
    assert first_plan(load(workspace, environ), STAGES, 1, {"proposer": "search"}).proposers == {"search": 1.0}


@pytest.mark.parametrize("table", ["{search = 0}", "{search = -1}", '{search = "much"}'])
def test_a_table_without_positive_shares_is_named(workspace: Workspace, table: str) -> None:
    with workspace.settings.open("a") as settings:
        settings.write(f"\n[run]\nproposers = {table}\n")
    with pytest.raises(UsageError, match=r"autoexp\.toml: run\.proposers\.search must be"):
        load(workspace)


def test_a_run_takes_turns_says_who_proposed_what_and_can_change_its_mix(workspace: Workspace) -> None:
    mix = "first=0.5,second=0.5"
    state = run(workspace, 6, mix, plugins=BOTH)
    expected = [chosen(shares(mix), state.seed, number) for number in range(1, 7)]
    assert who(state) == expected and len(set(expected)) == 2
    report = status(workspace.run("test"))
    assert report.proposer == mix
    assert report.best is not None and report.best.proposer == "baseline"
    assert who(run(workspace, 2, "second", plugins=BOTH))[-2:] == ["second", "second"]
    assert status(workspace.run("test")).proposer == "second"


def test_turns_do_not_hang_on_where_a_run_was_cut(workspace: Workspace) -> None:
    mix = "first=0.5,second=0.5"
    for _ in range(6):
        state = run(workspace, 1, mix, plugins=BOTH)
    assert who(state) == [chosen(shares(mix), state.seed, number) for number in range(1, 7)]
