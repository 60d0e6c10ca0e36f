"""Clock, warm-up, failures, report: the harness around a real train.py."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from autoexp.model.audit import check_causal, check_probabilities
from autoexp.model.clock import TrainingClock
from autoexp.model.data import Batches, rows_at_a_time
from autoexp.model.errors import TrainingFailed
from autoexp.model.evaluate import bits_per_byte, evaluate
from autoexp.model.prepared import read_prepared
from autoexp.model.report import LossCurve, LossGuard
from autoexp.model.trial import Trial

from .conftest import command, environment, write_train


class FakeClock:
    """A time that moves one second a step."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def trial_in_process(tiny_data: Path, folder: Path, seed: int = 1, budget: float = 6) -> tuple[Trial, FakeClock]:
    now = FakeClock()
    settings = {
        "AUTOEXP_DATA": str(tiny_data),
        "AUTOEXP_REPORT": str(folder / "report.json"),
        "AUTOEXP_SEED": str(seed),
    }
    settings |= {"AUTOEXP_DEVICE": "cpu", "AUTOEXP_THREADS": "1"}
    return Trial("cpu", settings, TrainingClock(budget, now)), now


def train_steps(
    train: Any, tiny_data: Path, folder: Path, seed: int = 1, each: Callable[..., None] = lambda *args: None
) -> tuple[list[tuple[bool, float]], dict[str, Any]]:
    """Run train.py's own loop on a clock of one second a step: (warm-up, loss) of every step, and the report."""
    trial, now = trial_in_process(tiny_data, folder, seed)
    seen: list[tuple[bool, float]] = []
    with trial:
        model = train.GPT(trial.data.vocab_size, trial.data.seq_len)
        model.init_weights(torch.float32)
        optimizer = train.MuonAdamW(model.groups(), compiles=False)
        trial.describe(depth=train.DEPTH, flops_per_token=model.flops_per_token())
        batches = trial.batches(512, 4)
        for step in trial.steps(model, optimizer, batches):
            each(step, model, optimizer)
            train.set_schedule(optimizer, step.index, step.progress)
            total = torch.zeros(())
            for inputs, targets in batches.step():
                loss = model(inputs, targets).mean() / batches.parts
                loss.backward()
                total += loss.detach()
            optimizer.step()
            model.zero_grad(set_to_none=True)
            step.done(total)
            seen.append((step.warmup, float(total)))
            now.time += 1.0
        trial.finish(model, trial.compiled(model))
    return seen, json.loads((folder / "report.json").read_text())


def test_the_budget_counts_from_the_first_real_step_and_the_warm_up_is_undone(
    train_module: ModuleType, tiny_data: Path, tmp_path: Path
) -> None:
    weights: list[list[torch.Tensor]] = []
    states: list[int] = []

    def note(step: Any, model: Any, optimizer: Any) -> None:
        weights.append([p.detach().clone() for p in model.parameters()])
        states.append(len(optimizer.state))

    seen, report = train_steps(train_module, tiny_data, tmp_path, each=note)
    warm = sum(warmup for warmup, _ in seen)
    assert warm == 1 and len(seen) == warm + 6
    assert (report["num_steps"], report["training_seconds"]) == (6, 6.0)
    assert report["total_tokens"] == 6 * 512
    assert seen[0][1] == seen[warm][1]  # the same batch through the same weights
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[warm], strict=True))
    assert states[warm] == 0 and states[warm + 1] > 0
    assert any(not torch.equal(a, b) for a, b in zip(weights[warm], weights[warm + 1], strict=True))


def test_time_that_other_programs_took_is_not_counted_up_to_twice_the_budget() -> None:
    times = {"now": 100.0, "work": 7.0}
    clock = TrainingClock(10, lambda: times["now"], lambda: times["work"])
    assert (clock.elapsed, clock.progress, clock.spent) == (0.0, 0.0, False)
    clock.start()
    for now, work, elapsed in [(4, 4, 4), (8, 6, 6), (12, 6.5, 6.5), (12.5, 30, 12.5), (30, 9, 15)]:
        times.update(now=100.0 + now, work=7.0 + work)
        assert clock.elapsed == pytest.approx(elapsed) and clock.wall == now
    assert clock.spent and clock.progress == 1.0
    clock.stop()
    times.update(now=500.0, work=400.0)
    assert (clock.wall, clock.elapsed) == (30, 15)


def test_same_seed_same_training_other_seed_other_training(
    train_module: ModuleType, tiny_data: Path, tmp_path: Path
) -> None:
    first, report = train_steps(train_module, tiny_data, tmp_path / "a")
    again, same = train_steps(train_module, tiny_data, tmp_path / "b")
    other, _ = train_steps(train_module, tiny_data, tmp_path / "c", seed=2)
    assert first == again and report["val_bpb"] == same["val_bpb"]
    assert first[0] != other[0]


def test_batches_visit_every_row_once_an_epoch_in_an_order_of_the_seed() -> None:
    rows = np.arange(10, dtype=np.uint16)[:, None].repeat(5, axis=1)
    orders = []
    for seed in (0, 0, 1):
        batches = Batches(rows, 4, 2, seed, torch.device("cpu"))
        seen = [part[0][:, 0].tolist() for _ in range(5) for part in batches.step()]
        flat = [row for part in seen for row in part]
        assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
        assert batches.parts == 2 and batches.tokens_per_step == 16 and batches.epoch == 2
        orders.append(seen)
    assert orders[0] == orders[1] != orders[2]


def test_ids_above_the_sign_bit_arrive_whole() -> None:
    rows = np.array([[1, 40_000, 65_535]], dtype=np.uint16)
    [(inputs, targets)] = Batches(rows, 1, 1, 0, torch.device("cpu")).step()
    assert inputs.tolist() == [[1, 40_000]] and targets.tolist() == [[40_000, 65_535]]


def test_any_step_is_cut_into_equal_parts() -> None:
    assert rows_at_a_time(256, 128) == 128
    assert rows_at_a_time(24, 7) == 6
    assert rows_at_a_time(13, 12) == 1
    assert rows_at_a_time(64, 128) == 64
    assert rows_at_a_time(64, 64, row_bytes=100, free=2000) == 16
    assert rows_at_a_time(64, 64, row_bytes=100, free=10) == 1


def test_bits_per_byte_by_hand(tiny_data: Path, tmp_path: Path) -> None:
    trial, _ = trial_in_process(tiny_data, tmp_path)
    data = read_prepared(tiny_data)
    assert data is not None
    rows = data.rows("val")
    chosen = rows[np.linspace(0, len(rows) - 1, data.eval_rows).round().astype(int)]
    size = data.token_bytes()[chosen[:, 1:]]

    def losses(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.where(targets == data.vocab_size - 4, 1e6, inputs / 7.0)  # what BOS costs counts nowhere

    nats = (chosen[:, :-1] / 7.0)[size > 0].sum()
    with trial:
        for at_a_time in (1, 7, 64):
            got = evaluate(losses, data, trial.device, at_a_time)
            assert got == pytest.approx(bits_per_byte(nats, int(size.sum())), rel=1e-6)
            assert got == pytest.approx(nats / math.log(2) / size.sum(), rel=1e-6)
        with pytest.raises(TrainingFailed, match="val_bpb is nan"):
            evaluate(lambda inputs, targets: inputs * math.nan, data, trial.device, 8)


def test_the_test_split_is_evaluated_when_a_check_asks_and_not_otherwise(tiny_data: Path, tmp_path: Path) -> None:
    script = write_train(tmp_path / "train.py")
    reports = []
    for name, more in (("night", {}), ("check", {"AUTOEXP_EVALUATE": "val,test"})):
        report = tmp_path / name / "report.json"
        settings = {"AUTOEXP_DATA": tiny_data, "AUTOEXP_REPORT": report, "AUTOEXP_BUDGET_SECONDS": "0.1", **more}
        run = command(script, cwd=tmp_path, **settings)
        assert run.returncode == 0, run.stderr
        reports.append(json.loads(report.read_text())["metrics"])
    assert set(reports[0]) == {"val_bpb"} and set(reports[1]) == {"val_bpb", "test_bpb"}
    assert 0 < abs(reports[1]["test_bpb"] - reports[1]["val_bpb"]) < 1.0  # of the same language, in other rows


def test_rows_that_are_not_those_that_were_prepared_give_no_number(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    rows = bytearray((data / "val.rows").read_bytes())
    rows[2] ^= 1
    (data / "val.rows").write_bytes(rows)
    write_train(tmp_path / "train.py")
    run = run_train(tmp_path, data, AUTOEXP_BUDGET_SECONDS="0.1")
    assert run.returncode == 1
    assert f"{data / 'val.rows'} is not what was prepared" in run.stderr
    assert read(tmp_path / "report.json")["status"] == "failed"


def test_what_is_no_language_model_is_found_out(train_module: ModuleType, tiny_data: Path, tmp_path: Path) -> None:
    trial, _ = trial_in_process(tiny_data, tmp_path)
    with trial:
        model: Any = train_module.GPT(trial.data.vocab_size, trial.data.seq_len)
        model.init_weights(torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        check_causal(model, trial.data, trial.device, 2)
        check_probabilities(model, trial.data, trial.device)

        def peeks(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return model(inputs, targets) - 0.1 * (inputs.roll(-1, dims=1) == targets)

        def flatters(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return 0.9 * model(inputs, targets)

        with pytest.raises(TrainingFailed, match="sees tokens"):
            check_causal(peeks, trial.data, trial.device, 2)
        with pytest.raises(TrainingFailed, match="not those of probabilities"):
            check_probabilities(flatters, trial.data, trial.device)


def test_the_guard_stops_what_is_lost_and_lets_a_spike_pass() -> None:
    for lost in (math.nan, math.inf, 101.0):
        with pytest.raises(TrainingFailed, match="at step 0"):
            LossGuard().check(0, lost)
    guard = LossGuard()
    for step in range(60):
        guard.check(step, 20.0 if step == 30 else 6.0)
    with pytest.raises(TrainingFailed, match="diverged"):
        for step in range(60, 100):
            guard.check(step, 20.0)


def test_the_curve_has_about_twenty_points() -> None:
    curve = LossCurve()
    for step in range(1000):
        curve.add(step / 999, 6 - step / 999)
    points = curve.points()
    assert len(points) == 20 and points[-1][0] == 1.0 and points[0][1] > points[-1][1]


# --- the real file in a process of its own --------------------------------------------------------------------------


def run_train(folder: Path, data: Path, **env: str | Path) -> subprocess.CompletedProcess[str]:
    return command("train.py", cwd=folder, AUTOEXP_DATA=data, AUTOEXP_REPORT=folder / "report.json", **env)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_the_cpu_profile_learns_and_its_checkpoint_evaluates_to_the_same(bundled_data: Path, tmp_path: Path) -> None:
    write_train(tmp_path / "train.py")
    run = run_train(tmp_path, bundled_data, AUTOEXP_BUDGET_SECONDS="4", AUTOEXP_SEED="7")
    assert run.returncode == 0, run.stderr
    report = read(tmp_path / "report.json")
    data = read_prepared(bundled_data)
    assert data is not None
    untrained = math.log2(data.vocab_size) * data.meta["val"]["tokens"] / data.meta["val"]["bytes"]
    assert report["val_bpb"] < 0.85 * untrained
    assert report["metrics"] == {"val_bpb": report["val_bpb"]}
    assert (report["status"], report["phase"], report["seed"], report["device"]) == ("ok", "done", 7, "cpu")
    assert report["attention"] == "sdpa" and report["dtype"] == "float32" and report["mfu_percent"] is None
    assert 4 <= report["training_seconds"] < report["total_seconds"]
    assert report["data"] == {"dataset": "bundled", "hash": data.meta["hash"]}
    for key in (
        "startup_seconds",
        "eval_seconds",
        "peak_memory_mb",
        "num_params",
        "tokens_per_second",
        "depth",
        "torch",
    ):
        assert report[key], key
    curve = report["loss_curve"]
    assert len(curve) > 10 and curve[-1][1] < curve[0][1]

    block = dict(line.split(":") for line in run.stdout.partition("---\n")[2].splitlines())
    assert float(block["val_bpb"]) == pytest.approx(report["val_bpb"], abs=1e-6)
    assert list(block) == [
        *("val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent"),
        *("total_tokens_M", "num_steps", "num_params_M", "depth"),
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"warmup", "train", "evaluate"}
    keys = {"step", "loss", "tokens_per_second", "elapsed", "budget", "progress", "lr_multiplier", "phase"}
    assert all(set(line) == keys and 0 <= line["progress"] <= 1 for line in lines)
    assert len(lines) < 60

    (tmp_path / "again").mkdir()
    write_train(tmp_path / "again" / "train.py")
    again = run_train(tmp_path / "again", bundled_data, AUTOEXP_CHECKPOINT=tmp_path / "checkpoint.pt")
    assert again.returncode == 0, again.stderr
    second = read(tmp_path / "again" / "report.json")
    kept = ("val_bpb", "num_steps", "training_seconds", "total_tokens", "loss_curve", "seed")
    assert {key: second[key] for key in kept} == {key: report[key] for key in kept}
    assert not (tmp_path / "again" / "checkpoint.pt").exists()


def test_killed_in_evaluation_it_leaves_a_checkpoint_to_go_on_from(bundled_data: Path, tmp_path: Path) -> None:
    write_train(tmp_path / "train.py")
    report = tmp_path / "report.json"
    env = environment(AUTOEXP_DATA=bundled_data, AUTOEXP_REPORT=report, AUTOEXP_BUDGET_SECONDS="0.5")
    process = subprocess.Popen([sys.executable, "train.py"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    while process.poll() is None and not report.exists():
        time.sleep(0.002)
    process.kill()
    process.wait()
    left = read(report)
    assert (left["status"], left["phase"], left["checkpoint"]) == (
        "evaluating",
        "evaluate",
        str(tmp_path / "checkpoint.pt"),
    )
    run = run_train(tmp_path, bundled_data, AUTOEXP_CHECKPOINT=left["checkpoint"])
    assert run.returncode == 0, run.stderr
    done = read(report)
    assert done["status"] == "ok" and 0 < done["val_bpb"] < 8 and done["num_steps"] == left["num_steps"]


@pytest.mark.parametrize(
    ("edit", "phase", "reason", "trace"),
    [
        (("step.done(total,", 'step.done(total * float("nan"),'), "warmup", "loss is nan at step 0", False),
        (("targets, SOFTCAP)", "targets, SOFTCAP) * 0.9"), "evaluate", "the losses are not", False),
        (("return multiplier", "return multiplier / 0"), "warmup", "ZeroDivisionError", True),
    ],
)
def test_a_failure_is_fast_and_says_why(
    tiny_data: Path, tmp_path: Path, edit: tuple[str, str], phase: str, reason: str, trace: bool
) -> None:
    write_train(tmp_path / "train.py", lambda text: text.replace(*edit))
    run = run_train(tmp_path, tiny_data, AUTOEXP_BUDGET_SECONDS="60" if phase == "warmup" else "0.2")
    assert run.returncode == 1
    report = read(tmp_path / "report.json")
    assert (report["status"], report["phase"]) == ("failed", phase)
    assert report["reason"].startswith(reason) and reason in run.stderr
    assert ("Traceback" in run.stderr) == trace


def test_a_step_holds_the_same_tokens_however_many_rows_fit(tiny_data: Path, tmp_path: Path) -> None:
    with trial_in_process(tiny_data, tmp_path)[0] as trial:
        for share in (0.25, 0.5, 1.0):
            for most in (1, 3, 7, 64, 1000):
                batches = trial.batches(32 * 96, most, share=share)
                assert batches.tokens_per_step == 32 * 96
                parts = batches.parts * share
                assert parts == round(parts) >= 1 and batches.rows_per_part <= most


def test_out_of_memory_comes_down_to_what_fits_and_the_next_trial_starts_there(tiny_data: Path, tmp_path: Path) -> None:
    small = (
        "                with device.autocast():",
        """                if inputs.size(0) > 10:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                with device.autocast():""",
    )
    write_train(tmp_path / "train.py", lambda text: text.replace(*small))
    env = {"AUTOEXP_BUDGET_SECONDS": "0.2", "AUTOEXP_CACHE": tmp_path / "cache"}
    run = run_train(tmp_path, tiny_data, **env)
    assert run.returncode == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if "out of memory" in line] == [
        "out of memory with 64 rows at once: starting again with 32",
        "out of memory with 32 rows at once: starting again with 16",
        "out of memory with 16 rows at once: starting again with 8",
    ]
    report = read(tmp_path / "report.json")
    assert (report["status"], report["device_batch"]) == ("ok", 8)
    assert report["total_tokens"] == report["num_steps"] * 64 * 32  # the step is as large as before
    again = run_train(tmp_path, tiny_data, **env)
    assert again.returncode == 0 and "out of memory" not in again.stdout


def test_without_data_it_says_what_to_type(tmp_path: Path) -> None:
    write_train(tmp_path / "train.py")
    run = command("train.py", cwd=tmp_path, AUTOEXP_CACHE=tmp_path / "empty")
    assert run.returncode == 3
    assert len(run.stderr.splitlines()) == 2 and "autoexp.model.prepare" in run.stderr


def test_terminate_ends_it_at_once_and_runs_without_a_report_path_clobber_nothing(
    tiny_data: Path, tmp_path: Path
) -> None:
    write_train(tmp_path / "train.py")
    (tmp_path / "out" / "001").mkdir(parents=True)
    env = environment(AUTOEXP_DATA=tiny_data, AUTOEXP_BUDGET_SECONDS="600")
    process = subprocess.Popen([sys.executable, "train.py"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "out" / "002" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"train"' in metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    assert not any((tmp_path / "out" / "001").iterdir())
