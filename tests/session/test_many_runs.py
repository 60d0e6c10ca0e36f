"""Several runs in one workspace: which is meant, which may begin, which stops."""

from __future__ import annotations

import json

from support import Lab, until

from autoexp.testing import proposal
from autoexp.workspace.paths import WAIT_FILE


def test_a_run_whose_set_up_failed_is_not_the_newest(lab: Lab) -> None:
    lab.script(proposal(LR=0.04))
    lab.start(1)
    settings = lab.root / "autoexp.toml"
    good = settings.read_text()
    settings.write_text(good + '\n[prepare]\nrequires = ["nowhere/*.bin"]\n')
    said = lab.command("start", "--run-id", "broken", "--no-background-train", code=3)
    assert "autoexp prepare, then: autoexp resume --run-id broken" in said
    assert json.loads(lab.command("status", "--json"))["run_id"] == "lab"
    assert "--run-id" not in lab.command("status")  # the commands that it names mean it by themselves
    assert json.loads(lab.command("status", "--json", "--run-id", "broken"))["stop_reason"] == "error"
    settings.write_text(good)
    lab.command("resume", "--run-id", "broken", "--only", "setup", "--no-background-train")
    assert json.loads(lab.command("status", "--json"))["run_id"] == "broken"  # now it is a run like any other


def test_an_only_run_is_the_newest_whatever_became_of_it(lab: Lab) -> None:
    settings = lab.root / "autoexp.toml"
    settings.write_text(settings.read_text() + '\n[prepare]\nrequires = ["nowhere/*.bin"]\n')
    lab.start(0, code=3)
    assert json.loads(lab.command("status", "--json"))["run_id"] == "lab"


def test_a_second_start_is_refused_while_a_run_is_live_and_begins_one_by_its_name(lab: Lab) -> None:
    lab.script(proposal(LR=0.04))
    lab.hold()
    lab.background(1)
    until(lambda: lab.trainings() == ["0-1"], "the training")
    said = lab.command("start", "--loops", "1", code=1)
    assert "run lab is live" in said
    assert "autoexp resume --run-id lab --loops 5" in said and "--run-id NEW" in said
    assert lab.command("doctor").splitlines()[-1] == "ready, and a run is at work: autoexp status"
    assert lab.workspace.run_ids() == ["lab"]

    lab.command("start", "--loops", "1", "--run-id", "beside", "--proposer", "scripted")
    beside = lab.workspace.run("beside")
    until(lambda: (beside.attempt(0, 1) / WAIT_FILE).exists(), "its wait for the device")
    assert "2 runs are live" in lab.command("stop", code=1)
    said = lab.command("stop", "--run-id", "beside")  # it has nothing to lose
    assert said.startswith("stopped")
    assert json.loads(lab.command("status", "--json", "--run-id", "beside"))["stop_reason"] == "stopped"
    assert json.loads(lab.command("status", "--json"))["run_id"] == "beside"  # the newest; stop means the live one
    assert "stopping" in lab.command("stop")
    lab.release()
    lab.finished()
    lab.command("resume", "--run-id", "beside", "--no-background-train")
    trained = json.loads(lab.command("log", "--json", "--run-id", "beside"))
    assert [trial["decision"] for trial in trained] == ["keep", "keep"]


def test_of_starts_at_the_same_moment_one_begins(lab: Lab) -> None:
    lab.hold()
    starts = [lab.popen("start", "--loops", "1") for _ in range(4)]
    said = [start.communicate(timeout=120)[1] for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 1, 1, 1], said
    assert sum("is live in this workspace" in each for each in said) == 3
    assert len(lab.workspace.run_ids()) == 1
    lab.command("stop", "--now")


def test_all_runs_are_listed(lab: Lab) -> None:
    assert "there is no run yet" in lab.command("runs")
    lab.script(proposal(LR=0.04))
    lab.start(1)
    for number in range(6):
        lab.command("start", "--run-id", f"more-{number}", "--only", "setup", "--no-background-train")
    lines = lab.command("runs").splitlines()
    assert [line.split()[0] for line in lines] == ["lab", *(f"more-{number}" for number in range(6))]
    assert "1 iteration " in lines[0] and "val_bpb 1.076248" in lines[0] and "done" in lines[0]
    found = json.loads(lab.command("runs", "--json"))
    assert (found[0]["run_id"], found[0]["iterations_completed"], found[0]["live"]) == ("lab", 1, False)
    said = lab.command("status", "--run-id", "nowhere", code=1)
    assert "autoexp runs (it lists all 7" in said


def test_what_an_older_run_is_said_to_need_is_typed_with_its_name(lab: Lab) -> None:
    lab.script(proposal(LR=0.04), proposal(LR=0.03))
    lab.start(1, "--loop-only", "propose")
    lab.command("start", "--run-id", "newer", "--only", "setup", "--no-background-train")
    said = lab.command("status", "--run-id", "lab")
    assert "autoexp resume --run-id lab goes on" in said
    assert said.count("--run-id lab --run-id") == 0
    assert lab.status()["hint"] == "autoexp resume --run-id lab"


def test_an_ended_run_tells_nothing_of_a_training_that_is_over(lab: Lab) -> None:
    lab.hold()
    lab.background(1)
    until(lambda: lab.trainings() == ["0-1"], "the training")
    (lab.paths.attempt(0, 1) / "metrics.jsonl").write_text('{"step": 7, "elapsed": 3.0, "progress": 0.4}\n')
    (lab.paths.attempt(0, 1) / WAIT_FILE).touch()
    assert lab.status()["in_progress"][0]["progress"]["fraction"] == 0.4
    lab.command("stop", "--now")
    (item,) = lab.status()["in_progress"]
    assert (item["progress"], item["waits_for_device"]) == (None, False)
    lab.release()


def test_a_note_that_another_run_is_live_goes_when_it_is_not(lab: Lab) -> None:
    lab.script(proposal(LR=0.04))
    lab.hold()
    lab.background(0)
    until(lambda: lab.trainings() == ["0-1"], "the training")
    lab.command("start", "--run-id", "beside", "--only", "setup", "--no-background-train")
    beside = json.loads(lab.command("status", "--json", "--run-id", "beside"))
    assert beside["notes"] == []  # it has ended; the note was about its trainings
    lab.release()
    lab.finished()


def test_words_where_no_agent_is_asked(lab: Lab) -> None:
    """The list and the note say why they wait, by their words; so does the plan."""
    lab.script(proposal(LR=0.04), proposal(LR=0.03))
    lab.start(0)
    lab.command("propose", "make it better")
    lab.resume("--loops", "1", "--no-stochastic")
    (note,) = (text for text in lab.status()["notes"] if "left in place" in text)
    assert "'make it better'" in note and "the run asks no agent (--no-stochastic" in note
    assert "make it better [cannot be used: the run asks no agent" in lab.command("propose", "--list")
    assert "no agent is asked (until resume --stochastic)" in lab.paths.log.read_text()
