"""Trainings that others judge, from the run down to the keeper: real sessions, keepers, trainings and judges."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoexp.executors import processes
from autoexp.executors.isolation import available
from autoexp.executors.local import Local
from autoexp.model import profiles
from autoexp.runs.events import TrainingEnded, TrainingStarted, Triaged
from autoexp.runs.journal import read
from autoexp.runs.records import Metric, Outcome, Proposal, Replace, Trial
from autoexp.session.verifying import verified
from autoexp.spec.ports import Evaluation, Exit, JobSpec
from autoexp.testing import Scripted, git, make_workspace, proposal, run
from autoexp.workspace import seals
from autoexp.workspace.paths import EVALUATION_FILE, Workspace
from autoexp.workspace.report import Judged, outcome

PATIENCE = 120.0
MAIN = 'if __name__ == "__main__":\n    main()\n'


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)
    return found


def made(folder: Path, data: Path, more: str = 'isolation = "off"') -> Workspace:
    """A workspace with our own trainer, on tiny data, with trainings of a moment."""
    env = f'{{ AUTOEXP_DATA = "{data}", AUTOEXP_THREADS = "1", AUTOEXP_DEVICE = "cpu" }}'
    settings = f'[train]\ncommand = "{{python}} train.py"\nbudget_seconds = 0.3\nenv = {env}\n{more}\n'
    return make_workspace(folder, profiles.render(profiles.CPU), settings)


def changed(old: str, new: str, description: str) -> Proposal:
    return proposal(Replace(op="replace", path="train.py", old=old, new=new), description=description)


def ends(workspace: Workspace) -> list[Outcome]:
    return [event.outcome for event in read(workspace.run("test").journal) if isinstance(event, TrainingEnded)]


def sealed(workspace: Workspace, attempt: str) -> tuple[dict[str, Any], str]:
    paths = workspace.run("test")
    found = seals.read_sealed(paths.folder / "iterations" / attempt, seals.read_key(paths.seal_key))
    assert found is not None
    return found


LIES = """
def lie():
    import json, os, pathlib

    folder = pathlib.Path(os.environ["AUTOEXP_REPORT"]).parent
    record = {"status": "ok", "metrics": {"val_bpb": 0.1}, "job": os.environ["AUTOEXP_JOB"]}
    job = json.loads((folder / "job.json").read_text())
    job.pop("evaluation", None)
    print("val_bpb: 0.100000")
    (folder / "report.json").write_text(json.dumps({"status": "ok", "val_bpb": 0.1, "metrics": {"val_bpb": 0.1}}))
    (folder / "evaluation.json").write_text(json.dumps({"evaluation": record, "seal": "0" * 64}))
    (folder / "job.json").write_text(json.dumps(job))


if __name__ == "__main__":
    lie()
"""


def test_in_a_run_only_what_the_judge_says_counts(tiny_data: Path, tmp_path: Path) -> None:
    workspace = made(tmp_path / "work", tiny_data)
    logits = "    def logits(self, ids: Tensor)"
    steps = Scripted(
        changed(MAIN, LIES, "does not train, and lies"),
        changed(logits, "    def scores(self, ids: Tensor)", "cannot be asked, and would judge itself"),
        changed(MAIN, LIES + "    main()\n    lie()\n", "trains, and lies about it"),
    )
    state = run(workspace, 3, steps)

    baseline, idle, mute, liar = state.trials
    assert (baseline.status, liar.status) == ("success", "success")
    assert baseline.metric is not None and baseline.metric > 1
    assert liar.metric is not None and liar.metric > 1, "not what it printed and wrote"
    assert (idle.status, idle.metric) == (mute.status, mute.metric) == ("crash", None)
    assert idle.reason.startswith("there is no checkpoint")
    assert "the model failed: AttributeError" in mute.reason and "logits" in mute.reason
    starts = [event for event in read(workspace.run("test").journal) if isinstance(event, TrainingStarted)]
    assert all(event.judged for event in starts)

    for number, said in ((0, ends(workspace)[0]), (3, ends(workspace)[-1])):
        record, seal = sealed(workspace, f"{number:04d}/attempt-1")
        assert said.evaluated_by == "judge" and said.seal == seal
        assert record["metrics"] == {"val_bpb": said.metric} and said.metrics["val_bpb"] == said.metric
        assert record["commit"] == state.trials[number].commit and record["source"] == state.trials[number].source
        assert (record["seed"], record["budget_seconds"]) == ("0", "0.3")
        assert record["process_seconds"] > 0.3
    key = workspace.run("test").seal_key
    assert key.stat().st_mode & 0o777 == 0o600
    for file in workspace.run("test").folder.rglob("*"):
        if file.is_file() and file != key:
            assert key.read_bytes().strip() not in file.read_bytes(), f"the key is in {file}"


SPIES = """
import os, pathlib

for place in (DATA + "/val.rows", RUNS, WORK + "/.git", KEY):
    path = pathlib.Path(place)
    if path.is_dir() and any(path.iterdir()) or path.is_file() and path.read_bytes():
        print("SEEN", place, flush=True)
if "AUTOEXP_DATA" in os.environ and "AUTOEXP_REPORT" not in os.environ:
    print("SEEN the place of the data", flush=True)
"""


@pytest.mark.skipif(available() is not None, reason="nothing confines here")
def test_neither_training_nor_examinee_sees_what_it_is_judged_by(tiny_data: Path, tmp_path: Path) -> None:
    workspace = made(tmp_path / "work", tiny_data, 'isolation = "required"')
    places = {
        "DATA": str(tiny_data),
        "RUNS": str(workspace.runs / "test" / "iterations" / "0000"),
        "WORK": str(workspace.root),
        "KEY": str(workspace.run("test").seal_key),
    }
    names = "".join(f"{name} = {place!r}\n" for name, place in places.items())
    spies = changed("class GPT(nn.Module)", f"{names}{SPIES}\n\nclass GPT(nn.Module)", "looks around")
    state = run(workspace, 1, Scripted(spies))
    assert [trial.status for trial in state.trials] == ["success", "success"], state.trials
    assert all(said.evaluated_by == "judge" and said.isolation for said in ends(workspace))
    for log in ("train.log", "evaluation.log"):
        assert "SEEN" not in (workspace.run("test").attempt(1, 1) / log).read_text()


def test_an_evaluation_that_fails_is_done_once_more_and_nothing_is_trained_again(
    tiny_data: Path, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    fails = f"""    def logits(self, ids: Tensor) -> Tensor:
        import pathlib
        if not pathlib.Path({str(once)!r}).exists():
            pathlib.Path({str(once)!r}).touch()
            raise RuntimeError("out of luck")"""
    step = changed("    def logits(self, ids: Tensor) -> Tensor:", fails, "fails once")
    workspace = made(tmp_path / "work", tiny_data)
    state = run(workspace, 1, Scripted(step))
    assert [(trial.status, trial.attempts) for trial in state.trials] == [("success", 1), ("success", 2)]
    assert state.trainings == 2
    failed, good = ends(workspace)[1:]
    assert (failed.status, failed.evaluated_by) == ("crash", "judge")
    assert "out of luck" in failed.reason and failed.checkpoint is not None
    assert good.metrics["num_steps"] == failed.metrics["num_steps"]
    actions = [event.action for event in read(workspace.run("test").journal) if isinstance(event, Triaged)]
    assert actions == ["proceed", "reevaluate", "proceed"]
    again = workspace.run("test").attempt(1, 2)
    assert not (again / "train.log").exists() and not (again / "checkpoint.pt").exists()
    first, second = sealed(workspace, "0001/attempt-1")[0], sealed(workspace, "0001/attempt-2")[0]
    assert second["trained_by"] == first["job"] != second["job"]
    assert (second["checkpoint"], second["process_seconds"]) == (first["checkpoint"], first["process_seconds"])


@pytest.mark.parametrize(("more", "by"), [('evaluation = "trainer"', "trainer"), ('evaluation = "judge"', "judge")])
def test_who_evaluates_is_settled_by_the_settings_and_told(tiny_data: Path, tmp_path: Path, more: str, by: str) -> None:
    workspace = made(tmp_path / "work", tiny_data, more)
    state = run(workspace, 0)
    assert ends(workspace)[0].evaluated_by == by
    assert state.trials[0].metric is not None
    report = json.loads((workspace.run("test").attempt(0, 1) / "report.json").read_text())
    assert report["evaluated_by"] == by and (report["val_bpb"] is None) == (by == "judge")


# --- the keeper ------------------------------------------------------------------------------------------------------


class Jobs:
    """Jobs of a program that saves, or is given, a checkpoint and trains nothing."""

    def __init__(self, folder: Path, data: Path, top: str = "", main: str = "save()") -> None:
        self.folder, self.data = folder, data
        saving = f"""
def save():
    import os, pathlib, torch
    torch.manual_seed(0)
    torch.save({{"model": build_model(300, 32, torch.float32).state_dict(), "report": "{{}}"}},
               pathlib.Path(os.environ["AUTOEXP_REPORT"]).with_name("checkpoint.pt"))


if __name__ == "__main__":
    {main}
"""
        text = profiles.render(profiles.CPU)
        assert MAIN in text
        self.work = make_workspace(
            folder / "work", text.replace("class GPT(", f"{top}\n\nclass GPT(").replace(MAIN, saving)
        )
        self.commit = git(self.work.root, "rev-parse", "HEAD")
        self.key = folder / "seal.key"
        seals.ensure_key(self.key)

    def job(self, name: str, checkpoint: Path | None = None) -> JobSpec:
        folder = self.folder / "runs" / name
        evaluation = Evaluation(
            "train.py", self.commit, "s" * 64, self.work.root, self.key, "cpu", 60.0, checkpoint=checkpoint
        )
        env = {"AUTOEXP_REPORT": str(folder / "report.json"), "AUTOEXP_DATA": str(self.data), "AUTOEXP_THREADS": "1"}
        env |= {"AUTOEXP_DEVICE": "cpu", "HOLD": str(self.folder / "hold")}
        folder.parent.mkdir(exist_ok=True)
        return JobSpec(
            f"{folder}:1", folder, (sys.executable, "train.py"), self.work.root, env, 60.0, folder.parent,
            evaluation=evaluation,
        )  # fmt: skip

    def ended(self, job: JobSpec) -> Exit:
        found: Exit = until(lambda: Local().poll(job.folder), "the end")
        return found

    def outcome(self, job: JobSpec, ended: Exit, checkpoint: Path | None = None) -> Outcome:
        judged = Judged(self.key, job.key, self.commit, checkpoint or job.folder / "checkpoint.pt")
        return outcome(job.folder, Metric(), ended.status, ended.code, ended.wall_seconds, ended.reason, judged)


HELD = """
import os, time
if __name__ != "__main__":
    while os.path.exists(os.environ["HOLD"]): time.sleep(0.01)
"""
"""The candidate's model is not there for the judge before the file is gone."""


def examinees(job: JobSpec) -> list[psutil.Process]:
    return [p for p in processes.of_job(processes.judge_key(job.key)) if "autoexp.model.examinee" in p.cmdline()]


def test_a_keeper_that_is_killed_while_the_judge_works_costs_no_training(tiny_data: Path, tmp_path: Path) -> None:
    main = "open(os.environ['HOLD'] + '-trained', 'a').write('x'); save()"
    jobs = Jobs(tmp_path, tiny_data, HELD, main)
    (tmp_path / "hold").touch()
    job = jobs.job("1")
    Local().submit(job)
    until(lambda: len(examinees(job)) == 2, "the examinees")
    until((job.folder / EVALUATION_FILE).exists, "the note that it is trained")
    asked = examinees(job)
    keeper = next(p for p in psutil.process_iter(["cmdline"]) if str(job.folder) in (p.info["cmdline"] or []))
    keeper.kill()
    ended = jobs.ended(job)
    assert ended.status == "lost"
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in asked), "the examinees' end")
    lost = jobs.outcome(job, ended)
    assert (lost.status, lost.evaluated_by, lost.checkpoint) == ("lost", "judge", str(job.folder / "checkpoint.pt"))

    (tmp_path / "hold").unlink()
    assert lost.checkpoint is not None
    again = jobs.job("2", Path(lost.checkpoint))
    Local().submit(again)
    good = jobs.outcome(again, jobs.ended(again), Path(lost.checkpoint))
    assert (good.status, good.evaluated_by) == ("success", "judge"), good
    assert (tmp_path / "hold-trained").read_text() == "x"


def test_asked_to_end_it_ends_the_judge_too(tiny_data: Path, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, tiny_data, HELD)
    (tmp_path / "hold").touch()
    job = jobs.job("1")
    Local().submit(job)
    asked = until(lambda: len(found := examinees(job)) == 2 and found, "the examinees")
    Local().kill(job.folder)
    ended = jobs.ended(job)
    assert ended.status == "killed"
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in asked)
    assert jobs.outcome(job, ended).checkpoint == str(job.folder / "checkpoint.pt")


def test_what_the_key_did_not_seal_and_what_is_anothers_counts_nothing(tiny_data: Path, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, tiny_data)
    one, other = jobs.job("1"), jobs.job("2")
    Local().submit(one)
    ended = jobs.ended(one)
    good = jobs.outcome(one, ended)
    assert good.status == "success", good
    written = json.loads((one.folder / EVALUATION_FILE).read_text())

    other.folder.mkdir()
    (other.folder / EVALUATION_FILE).write_text(json.dumps(written))
    moved = jobs.outcome(other, ended)
    assert moved.status == "crash" and "another training" in moved.reason
    for change in ({"metrics": {"val_bpb": 0.5}}, {"commit": "0" * 40}, {"status": "trained"}):
        forged = {**written, "evaluation": {**written["evaluation"], **change}}
        (one.folder / EVALUATION_FILE).write_text(json.dumps(forged))
        assert jobs.outcome(one, ended).status == "crash"
    for text in ("", "[]", "{", '{"evaluation": 1}', json.dumps({**written, "seal": None}), "[" * 100_000):
        (one.folder / EVALUATION_FILE).write_text(text)
        assert jobs.outcome(one, ended).status == "crash"
    (one.folder / EVALUATION_FILE).unlink()
    os.mkfifo(one.folder / EVALUATION_FILE)
    assert jobs.outcome(one, ended).status == "crash"


def test_what_it_leaves_of_the_exam_is_its_log(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    jobs = Jobs(tmp_path, tiny_data, "print('hello from', __name__)")
    job = jobs.job("1")
    Local().submit(job)
    jobs.ended(job)
    assert not list((tmp_path / "scratch").glob("autoexp-exam-*"))
    assert (job.folder / "evaluation.log").read_text().splitlines() == ["hello from candidate"] * 2
    assert (job.folder / "keeper.err").read_text() == ""
    assert not processes.of_job(*processes.all_keys_of(json.loads((job.folder / "job.json").read_text())))


def test_trials_are_not_judged_by_other_rows_than_the_baseline_was(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    workspace = made(tmp_path / "work", data)
    steps = Scripted(*(changed("ASPECT_RATIO = 32", f"ASPECT_RATIO = {width}", "wider") for width in (33, 34)))
    rows = bytearray((data / "val.rows").read_bytes())
    rows[2] ^= 1

    def of_other_rows(trials: int) -> Trial:
        (data / "val.rows").write_bytes(rows)
        return run(workspace, trials, steps).trials[-1]

    run(workspace, 0, steps)
    refused = of_other_rows(1)
    assert (refused.status, refused.metric) == ("crash", None)
    assert refused.reason == f"{data / 'val.rows'} is not what was prepared"

    meta = json.loads((data / "meta.json").read_text())  # prepared anew, as it were, in the same place
    meta["sha256"]["val.rows"] = hashlib.sha256(rows).hexdigest()
    (data / "meta.json").write_text(json.dumps(meta))
    assert of_other_rows(1).status == "success"
    found = verified(workspace, workspace.run("test"))
    assert found.first.startswith(
        "data: iterations/0000/attempt-1 and iterations/0002/attempt-1 are of other data (val "
    )
