"""Audits, reproductions and ablations: real commands, real trainings, killed where it hurts."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import TRAINER, Lab, leftovers, until

from autoexp.runs import events as ev
from autoexp.testing import git, proposal
from autoexp.workspace.repository import refs

NOISY = TRAINER.replace(
    'print(f"val_bpb: {val_bpb(LR, DEPTH):.6f}")',
    """import random

luck = random.Random(os.environ["AUTOEXP_SEED"])
value = val_bpb(LR, DEPTH) + NOISE * luck.gauss(0, 1)
if os.path.exists(os.path.join(lab, "shift")):
    value += float(open(os.path.join(lab, "shift")).read())
print(f"val_bpb: {value:.6f}")
if "test" in os.environ.get("AUTOEXP_EVALUATE", "").split(","):
    print(f"test_bpb: {value + 0.1 + NOISE * luck.gauss(0, 1):.6f}")""",
).replace('FAILS = "no"', 'FAILS = "no"\nNOISE = 0.001\nIDLE = 1')


@pytest.fixture
def noisy(tmp_path: Path) -> Any:
    """A run of three changes: one that helps much, one that changes nothing, one that helps a little."""
    lab = Lab(tmp_path, trainer=NOISY)
    lab.script(proposal(LR=0.04), proposal(LR=0.04, DEPTH=5), proposal(LR=0.03))
    yield lab
    lab.release()
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


def shown(lab: Lab, *args: str, code: int = 0) -> dict[str, Any]:
    """What a check found, made in the foreground."""
    said = lab.command(*args, "--no-background-train", "--json", code=code)
    found: dict[str, Any] = json.loads(said)
    return found


def test_an_audit_trains_both_with_seeds_that_no_decision_used(noisy: Lab) -> None:
    noisy.start(2)
    before = noisy.state
    status = noisy.status()
    assert status["standing"] == "claimed"
    assert "claimed" in noisy.command("status") and "claimed" in noisy.command("log")
    found = shown(noisy, "audit")
    assert (found["key"], found["finding"], found["done"]) == ("audit-1", "confirmed", 6)
    seeds = {training["seed"] for training in found["trainings"]}
    assert len(seeds) == 3 and before.seed not in seeds
    own, test = found["comparisons"]
    assert (own["metric"], test["metric"]) == ("val_bpb", "test_bpb")
    assert own["low"] < own["gain"] < own["high"] and own["p"] == own["least_p"] == pytest.approx(0.05)
    assert found["claimed"] == pytest.approx(before.trials[0].metric - before.best.metric)  # type: ignore[operator,union-attr]
    after = noisy.state
    assert (after.trials, after.best, after.open) == (before.trials, before.best, before.open)
    assert after.trainings == before.trainings
    assert noisy.status()["standing"] == "audited"
    assert "audited, confirmed" in noisy.command("status")
    assert "audited, confirmed" in noisy.command("log")
    assert "audited, confirmed" in git(noisy.root, "config", "branch.lab/branch.description")
    # decisions never saw the test split: no iteration was asked for it
    iterations = [event for event in noisy.events(ev.TrainingEnded) if event.outcome.metrics.get("test_bpb")]
    assert not iterations
    assert "everything holds" in noisy.command("verify")


@pytest.mark.parametrize("victim", ["session", "keeper"])
def test_killed_in_the_middle_of_an_audit_it_goes_on_and_trains_nothing_twice(noisy: Lab, victim: str) -> None:
    noisy.start(1)
    done = len(noisy.trainings())
    noisy.hold()
    noisy.command("audit")
    until(lambda: len(noisy.trainings()) > done, "a training of the audit")
    until(lambda: noisy.events(ev.CheckStarted), "its event")
    if victim == "session":
        session = noisy.status()["pid"]
        psutil.Process(session).send_signal(signal.SIGKILL)
        until(lambda: not noisy.live(), "the end of the session")
    else:
        folder = noisy.paths.folder / noisy.events(ev.CheckStarted)[0].job.folder
        keepers = [p for p in psutil.process_iter() if _words(p)[-2:] == ["autoexp.executors.supervisor", str(folder)]]
        keepers[0].send_signal(signal.SIGKILL)
        noisy.command("stop", "--run-id", "lab")
    noisy.release()
    noisy.finished()
    noisy.resume()
    state = noisy.state
    assert state.checks[0].verdict is not None and state.checks[0].verdict.finding == "confirmed"
    assert state.completed == 1
    ended = noisy.trainings("ended")[done:]
    assert len(ended) == 6
    assert len(noisy.trainings()) - done == (6 if victim == "session" else 7)  # what was killed is done again
    assert noisy.command("verify")


@pytest.mark.parametrize("how", ["now", "interrupt"])
def test_an_audit_that_is_stopped_goes_on_when_it_is_asked_for_again(noisy: Lab, how: str) -> None:
    noisy.start(1)
    done = len(noisy.trainings())
    noisy.hold()
    process = noisy.popen("audit", "--no-background-train")
    until(lambda: len(noisy.trainings()) > done, "a training of the audit")
    if how == "now":
        noisy.command("stop", "--now")
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert noisy.status()["stop_reason"] == "stopped"
    else:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
    assert "0 of 6 trainings; autoexp audit goes on" in noisy.status()["waiting_on"]
    noisy.release()
    found = shown(noisy, "audit")
    assert (found["key"], found["finding"]) == ("audit-1", "confirmed")
    assert len(noisy.trainings()) - done == (7 if how == "now" else 6)
    assert noisy.events(ev.CheckEnded)[0].action == ("rerun" if how == "now" else "proceed")


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.Error, OSError):
        return []


def test_an_audit_of_a_stopped_run_leaves_its_iterations_alone(noisy: Lab) -> None:
    noisy.start(1)
    noisy.hold()
    noisy.resume_detached(2)
    until(lambda: noisy.status()["in_progress"] and noisy.status()["in_progress"][0]["stage"] == "train", "a training")
    assert "a session works on run lab" in noisy.command("audit", code=1)
    psutil.Process(noisy.status()["pid"]).send_signal(signal.SIGTERM)
    until(lambda: not noisy.live(), "the end of the session")
    noisy.release()
    before = noisy.state
    assert shown(noisy, "audit")["finding"] == "confirmed"
    assert noisy.state.open == before.open and noisy.state.next_number == before.next_number
    noisy.resume()
    assert noisy.state.completed == 3


def test_a_trial_is_reproduced_from_its_commit(noisy: Lab) -> None:
    noisy.start(2)
    found = shown(noisy, "reproduce", "1")
    assert (found["finding"], found["done"], found["wanted"]) == ("reproduced", 1, 3)
    assert "to the last digit" in found["words"]
    several = shown(noisy, "reproduce", "1", "--seeds", "3")
    assert (several["finding"], several["done"]) == ("reproduced", 3)
    assert len({training["metric"] for training in several["trainings"]}) == 3


def test_a_trial_that_comes_to_something_else_is_not_reproduced(noisy: Lab) -> None:
    """What it hangs on outside of its commit is another by now: data, a library."""
    noisy.start(1)
    (noisy.path / "shift").write_text("0.05")
    found = shown(noisy, "reproduce", "1", code=1)
    assert (found["finding"], found["done"]) == ("different", 3)
    assert "what was recorded is better than what it comes to" in found["words"]
    (noisy.path / "shift").unlink()
    assert shown(noisy, "reproduce", "1")["finding"] == "reproduced"


def test_an_ablation_says_what_each_change_carries_and_offers_a_simpler_best(tmp_path: Path) -> None:
    lab = Lab(tmp_path, trainer=NOISY.replace("NOISE = 0.001", "NOISE = 0.0"))
    lab.script(proposal(LR=0.04), proposal(DEPTH=5))
    lab.start(2)
    found = shown(lab, "ablate")
    assert found["finding"] == "measured"
    gains = {each["against"]: each["gain"] for each in found["comparisons"] if each["metric"] == "val_bpb"}
    assert gains["without-1"] > 0 and gains["without-2"] == pytest.approx(0.03)
    assert gains["without-1"] + gains["without-2"] == pytest.approx(gains["baseline"])
    assert "seeds change nothing" in " ".join(found["notes"])
    assert found["offer"] is None
    for number, constant in ((1, "LR = 0.08"), (2, "DEPTH = 4")):
        ref = f"{refs('lab')}/ablate-1/without-{number}"
        assert constant in git(lab.root, "show", f"{ref}:train.py")
    assert lab.command("verify")


def test_what_carries_nothing_is_offered_to_be_taken_out_and_taken_out_on_request(tmp_path: Path) -> None:
    """The first change was kept by its luck: with other seeds it is worth nothing."""
    lucky = NOISY.replace(
        "value = val_bpb(LR, DEPTH) + NOISE * luck.gauss(0, 1)",
        'value = val_bpb(LR, DEPTH) - (0.01 if IDLE == 2 and os.environ["AUTOEXP_SEED"] == "0" else 0.0)',
    )
    lab = Lab(tmp_path, trainer=lucky)
    lab.script(proposal(IDLE=2), proposal(LR=0.04))
    state = lab.start(2) and lab.state
    assert [trial.decision for trial in state.trials] == ["keep", "keep", "keep"]
    best = state.best.commit
    found = shown(lab, "ablate", "--seeds", "2")
    assert found["offer"]["removed"] == [1]
    assert lab.state.best.commit == best  # the improvement rule wants it strictly better
    assert "IDLE = 1" in git(lab.root, "show", f"{found['offer']['ref']}:train.py")
    found = shown(lab, "ablate", "--seeds", "2", "--keep-simplified")
    assert found["key"] == "ablate-2"
    assert lab.state.best.commit == found["offer"]["commit"] != best
    assert git(lab.root, "rev-parse", "lab/branch") == found["offer"]["commit"]
    assert lab.status()["standing"] == "claimed"
    assert lab.command("verify")
    audit = shown(lab, "audit")
    assert audit["finding"] == "confirmed"
    # what is left to be taken out is the other change only
    assert [each["program"] for each in shown(lab, "ablate", "--seeds", "1")["trainings"]] == ["best", "without-2"]


def test_nothing_is_audited_where_nothing_was_kept(noisy: Lab) -> None:
    noisy.start(0)
    assert "claims nothing" in noisy.command("audit", code=1)
    assert "claims nothing" in noisy.command("ablate", code=1)
    assert "no decided trial 7" in noisy.command("reproduce", "7", code=1)


def test_a_run_audits_itself_at_its_end_unless_it_is_told_not_to(noisy: Lab) -> None:
    noisy.environ |= {"AUTOEXP_AUDIT__AUTO": "true", "AUTOEXP_AUDIT__SEEDS": "2", "AUTOEXP_AUDIT__SHARE": "100"}
    noisy.start(1)
    (check,) = noisy.state.checks
    assert check.auto and check.verdict is not None and check.verdict.finding == "confirmed"
    status = noisy.status()
    assert (status["standing"], status["stop_reason"], status["phase"]) == ("audited", "done", "done")
    noisy.resume()  # it is not audited twice
    assert len(noisy.state.checks) == 1
    noisy.resume("--loops", "2")  # another best: what was audited is not what is claimed now
    best = noisy.state.best
    assert best is not None
    assert len(noisy.state.checks) == (2 if best.iteration > 1 else 1)


def test_too_short_a_run_is_not_audited_by_itself_and_says_so(noisy: Lab) -> None:
    noisy.environ |= {"AUTOEXP_AUDIT__AUTO": "true", "AUTOEXP_AUDIT__SHARE": "0.000001"}
    noisy.start(1)
    assert not noisy.state.checks
    assert "too large a part of so short a run" in noisy.command("status")


def test_a_flag_decides_whether_a_run_audits_itself_whatever_the_settings_say(noisy: Lab) -> None:
    noisy.environ |= {"AUTOEXP_AUDIT__AUTO": "true", "AUTOEXP_AUDIT__SEEDS": "2", "AUTOEXP_AUDIT__SHARE": "100"}
    noisy.start(1, "--no-audit")
    noisy.resume()
    assert not noisy.state.checks, "it was said of the run"
    noisy.environ |= {"AUTOEXP_AUDIT__AUTO": "false", "AUTOEXP_AUDIT__SHARE": "0.000001"}
    noisy.resume("--audit")
    (check,) = noisy.state.checks
    assert check.auto and check.verdict is not None and len(check.seeds) == 2
