"""A whole trial in several processes: the training and the number are those of one, and no failure hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from .conftest import command, environment, write_train

PATIENCE = 60.0  # seconds until a thing that should happen is taken to hang

COUNTED = """\
\"\"\"train.py on a clock of one second a step.\"\"\"
import json
from pathlib import Path
import torch
import train
from autoexp.model.clock import TrainingClock

class Trial(train.Trial):
    def __init__(self, profile):
        self.time, self.seen = 0, []
        super().__init__(profile, clock=TrainingClock(6, lambda: self.time))
    def steps(self, *args):
        for step in super().steps(*args):
            yield step
            self.time += 1
            self.seen.append(step)
    def finish(self, *args):
        answer = super().finish(*args)
        losses = [float(step.loss) for step in self.seen]
        Path(f"seen-{self.world.rank}").write_text(json.dumps([losses, answer, [step.progress for step in self.seen]]))

class Descent(train.MuonAdamW):
    @torch.no_grad()
    def step(self):  # Muon and AdamW blow a gradient of nothing but rounding up to a full step
        for group in self.param_groups:
            for param in group["params"]:
                param.sub_(0.5 * param.grad)

train.Trial, train.MuonAdamW = Trial, Descent
train.TOTAL_BATCH_SIZE, train.DEVICE_BATCH_SIZE = 512, 4
train.GRAD_CLIP = 0.5
train.main()
"""


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def counted(folder: Path, data: Path, gpus: int, **env: str | Path) -> dict[str, Any]:
    """The report of a training of six steps."""
    folder.mkdir()
    write_train(folder / "train.py")
    (folder / "counted.py").write_text(COUNTED)
    given = {"AUTOEXP_DATA": data, "AUTOEXP_REPORT": folder / "report.json", "AUTOEXP_GPUS": str(gpus), **env}
    run = command("counted.py", cwd=folder, **given)
    logs = [path.read_text() for path in folder.glob("peer-*.log")]
    assert run.returncode == 0, run.stderr + "".join(logs)
    assert logs == [""] * (gpus - 1) and run.stdout.count("val_bpb") == 1
    return read(folder / "report.json")  # type: ignore[no-any-return]


def test_two_processes_train_and_judge_as_one_does(tiny_data: Path, tmp_path: Path) -> None:
    one, two = counted(tmp_path / "1", tiny_data, 1), counted(tmp_path / "2", tiny_data, 2)
    alone, first, second = (read(tmp_path / place) for place in ("1/seen-0", "2/seen-0", "2/seen-1"))
    assert first == second  # losses, answer, progress
    assert len(first[0]) == 7 and first[0][0] == pytest.approx(alone[0][0], rel=1e-6)
    assert first[0] == pytest.approx(alone[0], rel=1e-5)
    assert first[0][-1] < first[0][1]
    assert first[2] == alone[2]
    assert two["val_bpb"] == pytest.approx(one["val_bpb"], rel=1e-5)
    same = ("num_steps", "total_tokens", "num_params", "seed")
    assert {key: one[key] for key in same} == {key: two[key] for key in same}
    assert (one["gpus"], two["gpus"]) == (1, 2)

    again = counted(tmp_path / "3", tiny_data, 3, AUTOEXP_CHECKPOINT=tmp_path / "1" / "checkpoint.pt")
    assert again["val_bpb"] == pytest.approx(one["val_bpb"], rel=1e-6)


def run_train(folder: Path, data: Path, *before: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"AUTOEXP_DATA": data, "AUTOEXP_REPORT": folder / "report.json", "AUTOEXP_BUDGET_SECONDS": "0.3", **env}
    return command(*before, "train.py", cwd=folder, **given)


def test_torchrun_trains_it_too(tiny_data: Path, tmp_path: Path) -> None:
    write_train(tmp_path / "train.py")
    run = run_train(
        tmp_path, tiny_data, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", OMP_NUM_THREADS="1"
    )
    assert run.returncode == 0, run.stderr
    report = read(tmp_path / "report.json")
    assert (report["status"], report["gpus"]) == ("ok", 2)
    assert run.stdout.count("val_bpb:") == 1


def test_a_program_that_does_not_average_is_not_judged(tiny_data: Path, tmp_path: Path) -> None:
    write_train(tmp_path / "train.py", lambda text: text.replace("if trial.mean_gradients(model):", "if True:"))
    run = run_train(tmp_path, tiny_data, AUTOEXP_GPUS="2")
    assert run.returncode == 1 and "without trial.mean_gradients(model)" in run.stderr
    assert read(tmp_path / "report.json")["status"] == "failed"
    (tmp_path / "alone").mkdir()
    (tmp_path / "train.py").rename(tmp_path / "alone" / "train.py")
    assert run_train(tmp_path / "alone", tiny_data).returncode == 0


def test_what_is_missing_is_told_once(tmp_path: Path) -> None:
    write_train(tmp_path / "train.py")
    report = tmp_path / "report.json"
    env = {"AUTOEXP_CACHE": tmp_path / "empty", "AUTOEXP_REPORT": report, "AUTOEXP_GPUS": "2"}
    run = command("train.py", cwd=tmp_path, **env)
    assert run.returncode == 3
    assert len(run.stderr.splitlines()) == 2 and "autoexp.model.prepare" in run.stderr


@pytest.mark.parametrize("killed", ["peer", "rank 0"])
def test_a_trial_that_loses_a_process_ends(tiny_data: Path, tmp_path: Path, killed: str) -> None:
    write_train(tmp_path / "train.py")
    report, metrics = tmp_path / "report.json", tmp_path / "metrics.jsonl"
    env = environment(AUTOEXP_DATA=tiny_data, AUTOEXP_REPORT=report, AUTOEXP_BUDGET_SECONDS="600", AUTOEXP_GPUS="2")
    command = [sys.executable, "train.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not (metrics.exists() and '"train"' in metrics.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        [peer] = psutil.Process(process.pid).children()
        assert os.getpgid(peer.pid) == os.getpgid(process.pid)
        os.kill(peer.pid if killed == "peer" else process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
    psutil.wait_procs([peer], timeout=PATIENCE)
    assert not peer.is_running()
    if killed == "peer":
        assert process.returncode == 1
        assert said == (f"error: process 2 of 2 was ended by signal 9\n  try: less {tmp_path / 'peer-1.log'}\n")
        failed = read(report)
        assert failed == {"status": "failed", "phase": "train", "reason": "process 2 of 2 was ended by signal 9"}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one_does(tiny_data: Path, tmp_path: Path) -> None:
    one, two = (counted(tmp_path / str(n), tiny_data, n, AUTOEXP_DEVICE="cuda") for n in (1, 2))
    alone, together = (read(tmp_path / place / "seen-0") for place in "12")
    assert together[0] == pytest.approx(alone[0], rel=2e-2)
    assert together == read(tmp_path / "2" / "seen-1")
    assert two["val_bpb"] == pytest.approx(one["val_bpb"], rel=1e-2)


def test_all_take_as_many_rows_at_once_as_the_least_of_them_can(tiny_data: Path, tmp_path: Path) -> None:
    less = ("DEVICE_BATCH_SIZE, row_bytes", "DEVICE_BATCH_SIZE if trial.world.leads else 4, row_bytes")
    write_train(tmp_path / "train.py", lambda text: text.replace(*less))
    run = run_train(tmp_path, tiny_data, AUTOEXP_GPUS="2")
    assert run.returncode == 0, run.stderr
    assert read(tmp_path / "report.json")["device_batch"] == 4


@pytest.mark.parametrize("who", ["not trial.world.leads", "trial.world.leads", "True"])
def test_out_of_memory_in_any_of_them_starts_all_again_with_half(tiny_data: Path, tmp_path: Path, who: str) -> None:
    small = (
        "                with device.autocast():",
        f"""                if inputs.size(0) > 20 and {who}:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                with device.autocast():""",
    )
    write_train(tmp_path / "train.py", lambda text: text.replace(*small))
    run = run_train(tmp_path, tiny_data, AUTOEXP_GPUS="2", AUTOEXP_CACHE=str(tmp_path / "cache"))
    assert run.returncode == 0, run.stdout + run.stderr
    report = read(tmp_path / "report.json")
    assert (report["status"], report["gpus"], report["device_batch"]) == ("ok", 2, 16)
