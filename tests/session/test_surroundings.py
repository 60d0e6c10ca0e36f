"""A broken world around good candidates: it is noticed, told, and costs no idea."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import TRAINER, Lab, leftovers, until

from autoexp.runs import events as ev
from autoexp.session import snapshot
from autoexp.testing import proposal

OPENS = TRAINER.replace('tell("started")', 'tell("started")\nopen(os.path.join(lab, "needed")).close()')
IDEAS = [proposal(LR=round(0.07 - 0.002 * n, 4)) for n in range(24)]


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Lab]:
    """A workspace whose trainer opens a file that no setting names."""
    lab = Lab(tmp_path, trainer=OPENS)
    (tmp_path / "needed").touch()
    yield lab
    lab.release()
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


def test_a_file_that_is_gone_stops_the_run_and_costs_no_idea(fragile: Lab) -> None:
    lab = fragile
    lab.script(*IDEAS)
    lab.start(1)
    (lab.path / "needed").unlink()
    said = lab.resume("--loops", "6", code=3)
    assert "the best so far does not train any more either" in said and "FileNotFoundError" in said
    assert "try: mend what is around the program" in said and "autoexp resume --run-id lab" in said
    assert lab.trainings() == ["0-1", "1-1", "2-1", "3-1", "4-1", "5-1"]
    state = lab.state
    assert [trial.excused for trial in state.trials] == [False, False, True, True, True, True]
    assert (state.trials[5].proposer, state.trials[5].commit) == ("probe", state.trials[1].commit)
    assert state.plan.target == 7 + 4  # as many ideas are left as were asked for
    assert lab.status()["stop_reason"] == "surroundings"
    assert snapshot.load(lab.paths) == state

    lab.resume(code=3)  # nothing was mended: one failure is enough now
    assert lab.trainings()[6:] == ["6-1", "7-1"]
    (lab.path / "needed").touch()
    lab.script(*IDEAS)
    lab.resume()
    state = lab.state
    assert state.closed is not None and state.closed.reason == "done"
    assert sum(not trial.excused for trial in state.trials) == 8


def test_search_tries_again_what_failed_through_no_fault_of_its_own(fragile: Lab) -> None:
    lab = fragile
    lab.command("start", "--run-id", "lab", "--loops", "0", "--proposer", "search", "--no-background-train")
    (lab.path / "needed").unlink()
    lab.resume("--loops", "5", code=3)
    excused = [trial.constants for trial in lab.state.trials if trial.excused and trial.proposer == "search"]
    assert len(excused) == 3
    (lab.path / "needed").touch()
    lab.resume()
    again = [trial.constants for trial in lab.state.trials if trial.iteration > 4]
    assert len(again) == 5
    assert excused[0] in again


def test_candidates_that_fail_alike_are_not_the_worlds_fault(lab: Lab) -> None:
    lab.script(*[proposal(LR=0.01 + n / 1000, FAILS="exit") for n in range(3)], *IDEAS)
    lab.start(4)
    trials = lab.state.trials
    assert [(t.proposer, t.decision) for t in trials[3:]] == [
        ("scripted", "crash"),
        ("probe", "discard"),
        ("scripted", "keep"),
    ]
    assert not any(trial.excused for trial in trials)
    assert trials[4].metric == trials[0].metric


def test_a_persons_proposal_waits_again(fragile: Lab) -> None:
    lab = fragile
    lab.script(*IDEAS)
    lab.start(0)
    (lab.path / "needed").unlink()
    lab.command("propose", "--set", "LR=0.02")
    lab.resume("--loops", "5", code=3)
    assert "LR = 0.02" in lab.command("propose", "--list")
    (lab.path / "needed").touch()
    lab.resume()
    first = next(trial for trial in lab.state.trials if trial.iteration == 5)
    assert (first.proposer, first.constants["LR"], first.decision) == ("queue", 0.02, "keep")


def test_a_session_that_is_killed_while_the_best_is_trained_again_trains_it_once(fragile: Lab) -> None:
    lab = fragile
    lab.script(*[proposal(LR=0.01 + n / 1000, FAILS="exit") for n in range(3)], *IDEAS)
    # SECONDS would change the program: the trainings wait for the lab's word instead
    lab.hold()
    lab.background(5)
    for count in range(1, 5):
        until(lambda count=count: len(lab.trainings()) == count, "a training")
        lab.release()
        until(lambda count=count: len(lab.events(ev.TrainingEnded)) == count, "its end")
        lab.hold()
    until(lambda: len(lab.trainings()) == 5, "the probe")
    pid = lab.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lab.live(), "the end of the session")
    lab.release()
    lab.resume()
    assert lab.trainings().count("4-1") == 1
    assert len(lab.events(ev.ProbeOpened)) == 1
    assert lab.state.trials[4].proposer == "probe"


def test_data_that_is_gone_is_told_before_the_next_idea(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings='[prepare]\nrequires = ["{root}/../data/*.bin"]\n', trainer=OPENS)
    (tmp_path / "data").mkdir()
    data = tmp_path / "data" / "a.bin"
    data.touch()
    (tmp_path / "needed").touch()
    lab.script(*IDEAS)
    lab.start(1)
    data.unlink()
    said = lab.resume("--loops", "2", code=3)
    assert "data is missing" in said and "autoexp prepare, then: autoexp resume --run-id lab" in said
    assert lab.state.completed == 1
    data.touch()
    lab.resume()
    assert lab.state.completed == 3


def test_data_that_is_gone_when_the_baseline_fails_is_told_as_such(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings='[prepare]\nrequires = ["{root}/../needed"]\n', trainer=OPENS)
    (tmp_path / "needed").touch()
    lab.script(*IDEAS)
    lab.start(2, "--only", "setup")
    (tmp_path / "needed").unlink()
    said = lab.resume("--loops", "2", code=3)
    assert "try: autoexp prepare" in said


def test_a_trainer_that_asks_for_data_is_believed(tmp_path: Path) -> None:
    asks = TRAINER.replace('tell("started")', 'tell("started")\nsys.exit("no data is prepared for the profile cpu")')
    lab = Lab(tmp_path, settings='[prepare]\ncommand = "true"\n', trainer=asks)
    said = lab.start(2, code=3)
    assert "no data is prepared for the profile cpu" in said
    assert "try: autoexp prepare, then: autoexp start" in said
