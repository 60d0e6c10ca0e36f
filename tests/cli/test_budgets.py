"""Budgets, spending and outages as a person sees them: flags, exit codes, status, watch, log, show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from autoexp.testing import proposal
from tests.support import Lab, until

PRICED = '''\
"""The agent `priced`: it proposes, tells what it took, and is down while $LAB/down is there."""

import json, os
from pathlib import Path

from autoexp import hookimpl
from autoexp.proposers.agent import AgentProposer
from autoexp.spec.ports import Answer, Usage


class Agent:
    def available(self):
        return None

    def ask(self, question):
        lab = Path(os.environ["LAB"])
        if (lab / "down").exists():
            return Answer("", problem="429 Too Many Requests", busy=True)
        number = len(list(lab.glob("asked-*")))
        (lab / f"asked-{number}").touch()
        value = 0.07 - number / 1000
        fields = {"status": "ok", "description": f"rate {value}", "change_plan": "p", "commit_description": "c"}
        edits = [{"op": "set", "name": "LR", "value": value}]
        usage = Usage(input_tokens=1000, output_tokens=100, cost_usd=0.5 if number else None)
        return Answer(json.dumps({**fields, "edits": edits}), usage=usage)


@hookimpl
def autoexp_register_proposers(register):
    register("priced", AgentProposer("priced"))


@hookimpl
def autoexp_register_agents(register):
    register("priced", Agent())
'''


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, settings="[budget]\n")
    made.plugin("priced_plugin", PRICED)
    text = made.workspace.settings.read_text().replace('name = "fake"', 'name = "priced"\npatience_seconds = 0')
    made.workspace.settings.write_text(text)
    made.script(*[proposal(DEPTH=d) for d in (5, 7, 8, 9, 10, 11, 12, 3, 2, 1)] * 9)
    return made


def begin(lab: Lab, *args: str, code: int = 0) -> str:
    return lab.command("start", "--run-id", "lab", *args, code=code)


def test_hours_alone_are_enough_to_say(lab: Lab) -> None:
    """`autoexp start --max-hours 8`, with a night of two seconds."""
    begin(lab, "--max-hours", "0.0006", "--proposer", "search", "--no-background-train")
    report = lab.status()
    assert (report["stop_reason"], report["target"], report["phase"], report["live"]) == (
        "max_hours",
        None,
        "done",
        False,
    )
    assert report["iterations_completed"] >= 1
    assert re.fullmatch(r"max_hours: 0\.000\d+ of 0\.0006 hours", report["ended"])
    said = lab.command("status")
    assert re.search(r"^budget +max_hours: 0\.000\d+ of 0\.0006 hours$", said, re.M)
    assert re.search(r"^next +autoexp log   autoexp resume --max-hours 2$", said, re.M)
    assert re.search(r"^ended +max_hours: ", lab.command("watch"), re.M)
    assert "session closed: max_hours: " in lab.paths.log.read_text()


def test_without_loops_and_without_a_budget_there_is_only_the_baseline(lab: Lab) -> None:
    begin(lab, "--no-background-train")
    report = lab.status()
    assert (report["iterations_completed"], report["target"], report["stop_reason"]) == (0, 0, "done")
    assert report["baseline_done"]


@pytest.mark.parametrize("flags", [("--proposer", "search"), ("--proposer", "priced", "--no-stochastic")])
def test_dollars_alone_cannot_end_a_run_that_asks_no_agent(lab: Lab, flags: tuple[str, ...]) -> None:
    said = begin(lab, "--max-cost", "0.5", "--max-tokens", "900", *flags, code=2)
    assert "--max-cost 0.5 and --max-tokens 900 would never end the run" in said
    assert "try: autoexp start --max-cost 0.5 --max-tokens 900 --max-hours 8" in said
    assert not lab.paths.folder.exists()
    begin(lab, "--max-cost", "0.5", "--loops", "1", *flags, "--no-background-train")
    said = lab.command("resume", "--max-cost", "1", "--no-background-train", code=2)
    assert "--max-cost 1 would never end the run" in said and "try: autoexp resume --run-id lab --max-hours 8" in said
    assert lab.status()["stop_reason"] == "error"


def test_the_budget_of_the_settings_is_enough_too_and_a_flag_lifts_it(lab: Lab) -> None:
    text = lab.workspace.settings.read_text()
    lab.workspace.settings.write_text(text.replace("[budget]", "[budget]\nmax_trials = 3"))
    begin(lab, "--proposer", "scripted", "--no-background-train")
    assert lab.status()["stop_reason"] == "max_trials" and lab.trainings() == ["0-1", "1-1", "2-1"]
    lab.resume("--max-trials", "none", "--loops", "2")
    report = lab.status()
    assert (report["stop_reason"], report["iterations_completed"], report["limits"]) == ("done", 4, [])


def test_a_live_run_takes_a_limit_in(lab: Lab) -> None:
    lab.hold()
    lab.background(50)
    lab.command("resume", "--run-id", "lab", "--max-trials", "2")
    until(lambda: lab.status()["limits"], "the limit")
    report = lab.status()
    assert report["live"] and report["stop_reason"] is None and report["target"] == 50
    lab.release()
    state = lab.finished()
    assert lab.status()["stop_reason"] == "max_trials"
    assert state.trainings == 3


def test_a_night_in_the_background_ends_by_itself(lab: Lab) -> None:
    begin(lab, "--plateau", "4", "--proposer", "scripted")
    lab.command("watch")
    report = lab.status()
    assert report["stop_reason"] == "plateau" and report["counts"]["keep"] >= 1


@pytest.mark.parametrize("args", [["--max-hours", "soon"], ["--max-trials", "1.5"], ["--proposer", "search=0"]])
def test_what_makes_no_sense_is_two_lines_and_exit_2(lab: Lab, args: list[str]) -> None:
    for command in ("start", "resume"):
        if command == "resume":
            begin(lab, "--no-background-train")
        said = lab.command(command, *args, code=2).splitlines()
        assert len(said) == 2 and said[0].startswith("error: ") and said[1].startswith("  try: autoexp start --")
        assert args[1] in said[0]


def test_an_outage_shows_while_it_lasts_and_what_was_spent_is_told(lab: Lab) -> None:
    begin(lab, "--proposer", "priced", "--loops", "2", "--no-background-train")
    (lab.path / "down").touch()
    lab.resume("--loops", "2")
    said = lab.command("status")
    assert re.search(
        r"^agent +priced was not reachable since [-0-9: ]+ \(429 Too Many Requests\)$",
        said,
        re.M,
    )
    told = (
        "4 calls, at least 2,000 + 200 tokens (2 of 4 calls did not tell), at least $0.5000 (3 of 4 calls did not tell)"
    )
    assert re.search(rf"^spent +{re.escape(told)}$", said, re.M)
    assert f"agents: priced {told}" in lab.command("log")
    assert re.search(r"^spent +1 call, 1,000 \+ 100 tokens, \$0\.5000$", lab.command("show", "2"), re.M)
    assert re.search(r"^spent +1 call, tokens unknown, cost unknown$", lab.command("show", "3"), re.M)
    watched = lab.command("watch")
    assert "priced was not reachable since" in watched and told in watched
    report: dict[str, Any] = lab.status()
    assert report["spent"]["cost_usd"] == 0.5 and report["spent"]["agents"]["priced"]["unpriced"] == 3
    assert report["unreachable"][0]["agent"] == "priced"
    assert "iteration 2 propose: priced was asked (0 s, 1000 + 100 tokens, $0.5000)" in lab.paths.log.read_text()

    (lab.path / "down").unlink()
    lab.resume("--loops", "1")
    assert lab.status()["unreachable"] == [] and "not reachable" not in lab.command("status")
    assert lab.status()["best"]["proposer"] in ("priced", "scripted")


def test_dollars_end_a_run_with_exit_0(lab: Lab) -> None:
    begin(lab, "--proposer", "priced", "--max-cost", "1", "--no-background-train")
    report = lab.status()
    assert (report["stop_reason"], report["iterations_completed"]) == ("max_cost", 3)
    assert report["limits"] == [
        {"name": "max_cost", "limit": 1.0, "used": 1.0, "doubt": "at least: 1 of 3 calls did not tell what it cost"}
    ]
    assert "max_cost: $1.00 of $1.00" in lab.command("status")


def test_a_misspelt_fallback_is_told_before_the_night(lab: Lab) -> None:
    text = lab.workspace.settings.read_text()
    lab.workspace.settings.write_text(text.replace('fallback = "scripted"', 'fallback = "serch"'))
    said = begin(lab, "--loops", "3", "--proposer", "search", code=2)
    assert "there is no proposer 'serch'" in said
    assert not lab.paths.folder.exists()
