"""Whole runs by real commands: start, resume, stop, signals, workers, selected stages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support import Lab, decisions, until

from autoexp.runs import events as ev
from autoexp.runs.records import SetConstant
from autoexp.session import snapshot
from autoexp.testing import git, proposal

KEEP, DROP = proposal(LR=0.04), proposal(LR=0.5)
CRASH = proposal(FAILS="exit")


def test_a_run_keeps_discards_and_crashes_and_tells_it_everywhere(lab: Lab) -> None:
    lab.script(KEEP, DROP, CRASH, proposal(DEPTH=6))
    said = lab.start(4)
    assert decisions(lab.state) == [
        (0, "keep", pytest.approx(1.121557, abs=1e-5)),
        (1, "keep", pytest.approx(1.076248, abs=1e-5)),
        (2, "discard", pytest.approx(1.328650, abs=1e-5)),
        (3, "crash", None),
        (4, "keep", pytest.approx(1.036248, abs=1e-5)),
    ]
    best = lab.state.trials[4].commit
    assert lab.state.best is not None and lab.state.best.commit == best
    assert git(lab.root, "rev-parse", "lab/branch") == best
    assert git(lab.root, "log", "--format=%s", "main..lab/branch") == "DEPTH = 6\nLR = 0.04"
    rows = [line.split("\t") for line in (lab.root / "results.tsv").read_text().splitlines()]
    assert rows[0] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert [(row[1], row[2], row[3]) for row in rows[1:]] == [
        ("1.121557", "0.5", "keep"),
        ("1.076248", "0.5", "keep"),
        ("1.328650", "0.5", "discard"),
        ("0.000000", "0.0", "crash"),
        ("1.036248", "0.5", "keep"),
    ]
    assert lab.paths.results.read_text() == (lab.root / "results.tsv").read_text()
    for number in range(5):  # each candidate can be looked at for ever
        assert git(lab.root, "rev-parse", f"refs/autoexp/lab/{number:04d}-1") == lab.state.trials[number].commit
    assert "deliberately out of order" in lab.state.trials[3].reason
    assert "decide: crash" in said
    status = lab.status()
    assert (status["live"], status["phase"], status["iterations_completed"]) == (False, "done", 4)
    assert status["best"]["commit"] == best
    assert snapshot.load(lab.paths) == lab.state


def test_a_baseline_that_crashes_stops_the_run_with_exit_1(lab: Lab) -> None:
    (lab.root / "train.py").write_text("raise RuntimeError('no such GPU')\n")
    git(lab.root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--all", "--message=break")
    lab.script(KEEP)
    said = lab.start(3, code=1)
    assert "the unchanged program does not train" in said
    assert "no such GPU" in said
    assert "try: " in said
    assert decisions(lab.state) == [(0, "crash", None)]
    assert lab.events(ev.Proposed) == []


def test_an_agents_crash_is_repaired_by_another_attempt(lab: Lab) -> None:
    """The candidate fails once, triage asks the agent, the agent repairs it, and the second attempt counts."""
    lab.script(proposal(description="use a better rate"))
    lab.agent(
        "import json, os, sys, pathlib\n"
        "train = pathlib.Path('train.py')\n"
        "if os.environ['ASKED'].startswith('The training of a candidate failed'):\n"
        "    print(json.dumps({'action': 'fix_and_rerun', 'reason': 'a typo'})); sys.exit()\n"
        "text = train.read_text()\n"
        "broken = 'LR = 0.08' in text\n"
        "text = text.replace('LR = 0.08', 'LR = 0.02').replace('FAILS = \"no\"', 'FAILS = \"exit\"')\n"
        "train.write_text(text if broken else text.replace('\"exit\"', '\"no\"', 1))\n"
        "print(json.dumps({'status': 'applied', 'summary': 'done'}))\n"
    )
    lab.start(1)
    trial = lab.state.trials[1]
    assert (trial.decision, trial.attempts, trial.constants["LR"]) == ("keep", 2, 0.02)
    assert lab.trainings() == ["0-1", "1-1", "1-2"]
    actions = [event.action for event in lab.events(ev.Triaged)]
    assert actions == ["proceed", "fix_and_rerun", "proceed"]
    for attempt in (1, 2):
        assert git(lab.root, "rev-parse", f"refs/autoexp/lab/0001-{attempt}")


def test_selected_stages_run_in_order_and_the_rest_stays_pending(lab: Lab) -> None:
    lab.script(KEEP)
    lab.start(1, "--loop-only", "propose,apply")
    assert lab.status()["in_progress"][0]["stage"] == "commit"
    assert lab.trainings() == ["0-1"]
    assert lab.state.closed is not None and lab.state.closed.reason == "pending"
    lab.resume("--loop-only", "train")
    assert lab.trainings() == ["0-1", "1-1"]
    skipped = [(event.iteration, event.stage) for event in lab.events(ev.StageSkipped)]
    assert skipped == []  # what is trained is committed first
    lab.resume()
    assert lab.state.completed == 1
    assert lab.trainings() == ["0-1", "1-1"]


def test_only_setup_then_only_baseline_then_the_loop_from_a_stage_on(lab: Lab) -> None:
    lab.script(KEEP)
    lab.start(1, "--only", "setup")
    assert (lab.state.setup_done, lab.state.trials) == (True, ())
    lab.resume("--to-stage", "baseline")
    assert decisions(lab.state)[0][:2] == (0, "keep")
    lab.resume("--from-stage", "loop", "--loops", "1")
    assert lab.state.completed == 1


def test_a_decision_without_a_record_is_made_on_a_record(lab: Lab) -> None:
    lab.script(KEEP)
    lab.start(1, "--loop-only", "propose,apply,commit,train,decide")
    assert decisions(lab.state)[1][:2] == (1, "keep")


def test_flags_that_do_not_go_together_are_exit_2_and_make_nothing(lab: Lab) -> None:
    lab.start(1, "--only", "setup", "--from-stage", "loop", code=2)
    lab.command("start", "--proposer", "nobody", code=2)
    lab.command("start", "--branch", "..", code=2)
    assert lab.workspace.run_ids() == []


def test_more_loops_are_added_to_what_is_completed(lab: Lab) -> None:
    lab.script(KEEP, DROP, proposal(DEPTH=5))
    lab.start(1)
    lab.resume("--loops", "2")
    lab.resume()
    assert lab.state.completed == 3
    lab.start(1, code=1)  # the run exists
    assert lab.trainings() == ["0-1", "1-1", "2-1", "3-1"]


def test_the_background_start_returns_and_the_run_finishes(lab: Lab) -> None:
    lab.script(KEEP)
    lab.hold()
    said = json.loads(lab.background(1, "--json"))
    assert (said["run_id"], said["live"]) == ("lab", True)
    assert lab.state.trials == ()  # it did not wait for the training
    lab.command("start", *lab.flags(1), code=1)
    refused = lab.command("start", *lab.flags(1), "--no-background-train", code=1)
    assert "exists already" in refused
    lab.release()
    assert lab.finished().completed == 1
    assert lab.state.session is not None and lab.state.session.pid == said["pid"]


def test_a_second_session_is_refused_while_one_is_live(lab: Lab) -> None:
    from autoexp.errors import RunError
    from autoexp.session.loop import Session

    lab.script(KEEP)
    lab.hold()
    lab.background(1)
    before = lab.paths.journal.read_bytes()
    with pytest.raises(RunError, match="another session works on run lab"):
        Session(lab.workspace, lab.paths, say=lambda line: None).run()
    assert lab.paths.journal.read_bytes().startswith(before)
    lab.release()
    assert lab.finished().completed == 1


def test_resume_adds_to_a_live_run(lab: Lab) -> None:
    lab.script(KEEP, DROP, proposal(DEPTH=5))
    lab.hold()
    lab.background(1)
    until(lambda: lab.trainings() == ["0-1"], "the baseline")
    lab.command("resume", "--run-id", lab.run_id, "--loops", "2")
    until(lambda: lab.state.plan.target == 3, "the new plan")
    lab.release()
    assert lab.finished().completed == 3
    assert lab.trainings() == ["0-1", "1-1", "2-1", "3-1"]
    assert len(lab.events(ev.SessionOpened)) == 1


def test_stop_finishes_what_is_open_and_resume_goes_on(lab: Lab) -> None:
    lab.script(KEEP, DROP)
    lab.hold()
    lab.background(2)
    until(lambda: lab.trainings() == ["0-1"], "the baseline")
    lab.command("stop", "--run-id", lab.run_id)
    lab.release()
    state = lab.finished()
    assert state.closed is not None and state.closed.reason == "stopped"
    assert [trial.iteration for trial in state.trials] == [0]
    lab.resume()
    assert lab.state.completed == 2
    assert lab.trainings() == ["0-1", "1-1", "2-1"]


def test_stop_now_ends_the_training_and_resume_trains_it_again(lab: Lab) -> None:
    lab.script(KEEP)
    lab.hold()
    lab.background(1)
    until(lambda: lab.trainings() == ["0-1"], "the baseline")
    lab.command("stop", "--run-id", lab.run_id, "--now")
    state = lab.finished()
    assert state.trials == ()
    lab.release()
    lab.resume()
    assert decisions(lab.state)[1][:2] == (1, "keep")
    assert lab.trainings("ended") == ["0-2", "1-1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_session_at_a_safe_point_and_the_training_goes_on(lab: Lab, number: signal.Signals) -> None:
    lab.script(KEEP)
    lab.hold()
    process = lab.popen("start", *lab.flags(1), "--no-background-train", start_new_session=True)
    until(lambda: lab.trainings() == ["0-1"], "the baseline")
    os.killpg(process.pid, number)  # as a terminal does: to the whole foreground group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert f"stopped by {number.name}" in err
    assert "autoexp resume" in err
    assert lab.state.closed is not None and lab.state.closed.reason == "interrupted"
    lab.release()
    until((lab.paths.attempt(0, 1) / "exit.json").exists, "the end of the training")
    lab.resume()
    assert decisions(lab.state)[1][:2] == (1, "keep")
    assert lab.trainings() == ["0-1", "1-1"]


def test_workers_train_at_the_same_time_and_are_decided_in_order(lab: Lab) -> None:
    """Iteration 1 trains until 2 has ended: it is decided first all the same."""
    lab.script(proposal(SECONDS=1.5, LR=0.04), proposal(SECONDS=0.0, DEPTH=5), proposal(LR=0.02), proposal(LR=0.01))
    lab.start(4, "--workers", "2")
    times = {(key, word): when for key, word, when in lab.tally()}
    assert times["2-1", "started"] < times["1-1", "ended"]
    assert times["2-1", "ended"] < times["1-1", "ended"]
    assert [trial.iteration for trial in lab.state.trials] == [0, 1, 2, 3, 4]
    order = [event.iteration for event in lab.events(ev.Decided)]
    assert order == [0, 1, 2, 3, 4]
    assert {event.slot for event in lab.events(ev.TrainingStarted)} == {0, 1}
    running = 0
    for _, word, _ in sorted(lab.tally(), key=lambda entry: entry[2]):
        running += 1 if word == "started" else -1
        assert 0 <= running <= 2


def test_a_persons_proposals_come_first_each_once(lab: Lab) -> None:
    lab.script(*[proposal(LR=0.03)] * 3)
    (lab.path / "mine.json").write_text(proposal(DEPTH=5, description="from a file").model_dump_json())
    lab.start(0)
    lab.paths.override.write_text(proposal(DEPTH=7, description="dropped").model_dump_json())
    lab.resume("--loops", "3", "--proposal-file", str(lab.path / "mine.json"))
    found = [(event.proposer, event.proposal.description) for event in lab.events(ev.Proposed)]
    assert found == [("proposal_file", "from a file"), ("next_proposal", "dropped"), ("scripted", "LR = 0.03")]


def test_the_same_program_is_not_trained_twice_unless_a_person_asks(lab: Lab) -> None:
    lab.script(proposal(LR=0.5), proposal(LR=0.5), proposal(LR=0.08), proposal(LR=0.03))
    lab.start(2)
    assert lab.state.trials[2].reason == "the same program as iteration 1"
    assert lab.trainings() == ["0-1", "1-1"]
    lab.paths.override.write_text(proposal(LR=0.5).model_dump_json())
    lab.resume("--loops", "1")
    assert lab.trainings() == ["0-1", "1-1", "3-1"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (SetConstant(name="NO_SUCH", value=1), "no editable file has a constant NO_SUCH"),
        (SetConstant(name="LR", value="high"), "another kind"),
        (SetConstant(name="LR", value=0.08), "nothing was changed"),
        (SetConstant(name="LR", value=0.5, path="../train.py"), "is not editable"),
    ],
)
def test_edits_that_cannot_be_made_are_a_crash_that_says_why(lab: Lab, edit: SetConstant, said: str) -> None:
    lab.script(proposal(edit))
    lab.start(1)
    trial = lab.state.trials[1]
    assert (trial.decision, trial.status) == ("crash", "untrained")
    assert said in trial.reason
    assert lab.trainings() == ["0-1"]


def test_an_edited_table_of_the_users_is_put_aside_not_lost(lab: Lab) -> None:
    (lab.root / "results.tsv").write_text("commit\tmine\nabc\t1\n")
    lab.start(0)
    copies = list(lab.paths.folder.glob("results.edited-*.tsv"))
    assert [copy.read_text() for copy in copies] == ["commit\tmine\nabc\t1\n"]
    assert "val_bpb" in (lab.root / "results.tsv").read_text()


def test_a_full_run_leaves_nothing_running_and_its_journal_replays_to_the_same_views(lab: Lab) -> None:
    lab.script(KEEP, DROP)
    lab.start(2)
    views = {path: path.read_bytes() for path in (lab.paths.results, lab.root / "results.tsv")}
    before = json.loads(lab.paths.state.read_text())
    for path in (*views, lab.paths.state):
        path.unlink()
    lab.resume()
    assert {path: path.read_bytes() for path in views} == views
    after = json.loads(lab.paths.state.read_text())
    for name in ("best", "counts", "iterations_completed", "baseline", "best_trial", "next_number"):
        assert after[name] == before[name]


EVALUATING = """\
import json, os, pathlib, sys

LR = 0.08

folder = pathlib.Path(os.environ["AUTOEXP_REPORT"]).parent
checkpoint = os.environ.get("AUTOEXP_CHECKPOINT")
with open(os.path.join(os.environ["LAB"], "tally"), "a") as file:
    file.write(f"{os.environ['AUTOEXP_JOB'].rsplit(':', 1)[1]} {'evaluated' if checkpoint else 'started'} 0\\n")
if checkpoint is None:
    (folder / "model").write_text(str(LR))
    report = {"status": "failed", "phase": "evaluate", "checkpoint": str(folder / "model"), "reason": "out of memory"}
    (folder / "report.json").write_text(json.dumps(report))
    sys.exit(1)
print("val_bpb:", pathlib.Path(checkpoint).read_text())
"""


def test_a_failed_evaluation_is_done_again_from_the_checkpoint_without_training(tmp_path: Path) -> None:
    lab = Lab(tmp_path, trainer=EVALUATING)
    lab.workspace.settings.write_text(
        lab.workspace.settings.read_text().replace("[train]\n", "[train]\ncan_reevaluate = true\n")
    )
    lab.script(proposal(LR=0.04))
    lab.start(1)
    assert decisions(lab.state) == [(0, "keep", 0.08), (1, "keep", 0.04)]
    assert [trial.attempts for trial in lab.state.trials] == [2, 2]
    assert [(key, word) for key, word, _ in lab.tally()] == [
        ("0-1", "started"),
        ("0-2", "evaluated"),
        ("1-1", "started"),
        ("1-2", "evaluated"),
    ]
