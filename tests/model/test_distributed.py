"""Several processes that train one model: real ones, with gloo on the CPU, with NCCL where there are two GPUs."""

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

from autoexp.model import distributed
from autoexp.model.distributed import World, buckets, join
from autoexp.model.errors import BadInput, Missing
from autoexp.model.peers import last_words

from .conftest import command, environment

PATIENCE = 60.0  # seconds until a thing that should happen is taken to hang

JOINED = """\
import json, os, sys, time
from pathlib import Path
import torch
from autoexp.model.distributed import join

here = Path(__file__).parent
world = join(os.environ, here, lambda error: (here / "failed").write_text(str(error)))
device = torch.device(world.place(os.environ["AUTOEXP_DEVICE"]))
if device.type == "cuda":
    torch.cuda.set_device(device)
world.connect(device)
(here / f"pid-{world.rank}").write_text(str(os.getpid()))
"""
FOR_EVER = "while True: world.mean([torch.ones(100, device=device)]); time.sleep(0.01)\n"

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
DEVICES = ["cpu", pytest.param("cuda", marks=two_gpus)]


def write(folder: Path, program: str) -> Path:
    path = folder / "program.py"
    path.write_text(JOINED + program)
    return path


def started(folder: Path, program: str, device: str = "cpu", gpus: int = 2) -> subprocess.Popen[str]:
    """Rank 0 of a program, once all have met."""
    env = environment(AUTOEXP_GPUS=str(gpus), AUTOEXP_DEVICE=device)
    process = subprocess.Popen(
        [sys.executable, str(write(folder, program))], env=env, stderr=subprocess.PIPE, text=True
    )
    for rank in range(gpus):
        pid_of(folder, rank)
    return process


def pid_of(folder: Path, rank: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while not (file := folder / f"pid-{rank}").exists() or not file.read_text():
        assert time.monotonic() < deadline, f"rank {rank} does not begin"
        time.sleep(0.02)
    return int(file.read_text())


def gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def results(folder: Path, count: int = 2) -> list[Any]:
    return [json.loads((folder / f"result-{rank}").read_text()) for rank in range(count)]


TALK = """\
rank = world.rank
weights = [torch.nn.Parameter(torch.zeros(n, dtype=d, device=device)) for n, d in
           [(3, torch.float32), (5, torch.bfloat16), (7, torch.float32), (2, torch.float32)]]
for weight in weights[:3]:
    weight.grad = torch.full_like(weight, 1.0 + 2 * rank)
world.mean_gradients(weights)

model = torch.nn.Linear(2, 2).to(device)
model.register_buffer("seen", torch.tensor(rank == 0, device=device))
model.register_buffer("turned", torch.full((2, 3), float(rank), device=device).T)
with torch.no_grad():
    model.weight.fill_(rank + 1.0)
world.broadcast_parameters(model)

clock = [world.broadcast(step + 0.1 + rank, 1.0) for step in range(20)]
total = world.sum_float64(torch.tensor([2.0**53 if rank else 1.0, 0.5], dtype=torch.float64, device=device))
flags = [world.any(rank == 1), world.any(False), world.least(5 + rank) == 5, world.least(9 - rank) == 8]
world.barrier()
world.close()
(here / f"result-{rank}").write_text(json.dumps({
    "gradients": [w.grad.tolist() if w.grad is not None else None for w in weights],
    "weight": model.weight.tolist(), "seen": model.seen.item(), "turned": model.turned.tolist(),
    "clock": clock, "total": total.tolist(), "flags": flags, "leads": world.leads, "device": str(device)}))
"""


@pytest.mark.parametrize("device", DEVICES)
def test_what_they_say_to_each_other(tmp_path: Path, device: str) -> None:
    run = command(write(tmp_path, TALK), AUTOEXP_GPUS="2", AUTOEXP_DEVICE=device)
    assert run.returncode == 0, run.stderr + (tmp_path / "peer-1.log").read_text()
    first, second = results(tmp_path)
    assert (first.pop("leads"), second.pop("leads")) == (True, False)
    expected = ["cpu", "cpu"] if device == "cpu" else ["cuda:0", "cuda:1"]
    assert [first.pop("device"), second.pop("device")] == expected
    assert first == second
    assert first["gradients"] == [[2.0] * 3, [2.0] * 5, [2.0] * 7, None]
    assert first["weight"] == [[1.0, 1.0], [1.0, 1.0]] and first["seen"] is True
    assert first["turned"] == [[0.0, 0.0]] * 3
    assert first["clock"] == [[step + 0.1, 1.0] for step in range(20)]
    assert first["total"] == [2.0**53, 1.0]  # as exact as float64 is
    assert first["flags"] == [True, False, True, True]
    assert gone(int((tmp_path / "pid-1").read_text()))


def test_three_average_too(tmp_path: Path) -> None:
    program = "t = torch.tensor([3.0 * world.rank])\nworld.mean([t])\nassert t.item() == 3.0, t\nworld.close()\n"
    run = command(write(tmp_path, program), AUTOEXP_GPUS="3")
    assert run.returncode == 0, run.stderr + (tmp_path / "peer-2.log").read_text()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("program", [FOR_EVER, "time.sleep(600)\n"], ids=["that talks", "that does not"])
def test_a_killed_peer_ends_the_training(tmp_path: Path, program: str, device: str) -> None:
    """Either its next message fails, or its watcher ends it, as when it waits for a GPU that waits for the peer."""
    process = started(tmp_path, program, device, gpus=3 if device == "cpu" else 2)
    os.kill(pid_of(tmp_path, 1), signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    size = 3 if device == "cpu" else 2
    assert f"process 2 of {size} was ended by signal 9" in said
    if program != FOR_EVER:
        assert (tmp_path / "failed").read_text() == f"process 2 of {size} was ended by signal 9"
        assert said.splitlines()[-1] == f"  try: less {tmp_path / 'peer-1.log'}"
    assert all(gone(pid_of(tmp_path, rank)) for rank in range(size))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("program", [FOR_EVER, "time.sleep(600)\n"], ids=["that talks", "that does not"])
def test_a_killed_rank_0_leaves_no_peer(tmp_path: Path, program: str, device: str) -> None:
    process = started(tmp_path, program, device)
    process.kill()
    process.communicate()
    assert gone(pid_of(tmp_path, 1))


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("raise ValueError('no more memory')", "process 2 of 2 ended with exit code 1: ValueError: no more memory"),
        ("print('error: no data\\n  try: prepare'); sys.exit(3)", "process 2 of 2 ended with exit code 3: no data"),
        ("sys.exit()", "process 2 of 2 ended with exit code 0"),
    ],
)
def test_a_peer_that_fails_is_quoted(tmp_path: Path, ending: str, reason: str) -> None:
    run = command(write(tmp_path, f"if world.rank:\n    {ending}\n{FOR_EVER}"), AUTOEXP_GPUS="2")
    assert run.returncode == 1 and reason in run.stderr


def test_one_that_never_comes_is_no_reason_to_wait(tmp_path: Path) -> None:
    """It ends before it has met the others."""
    path = write(tmp_path, "")
    path.write_text("import os, sys\nif 'RANK' in os.environ: sys.exit('no GPU for me')\n" + path.read_text())
    run = command(path, AUTOEXP_GPUS="2")
    assert run.returncode == 1 and "process 2 of 2 ended with exit code 1: no GPU for me" in run.stderr


def test_a_failed_training_takes_the_others_with_it(tmp_path: Path) -> None:
    program = "if world.rank: time.sleep(600)\nworld.close(failed=True)\nprint('closed')\n"
    run = command(write(tmp_path, program), AUTOEXP_GPUS="2")
    assert (run.returncode, run.stdout) == (0, "closed\n")
    running = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in running if str(tmp_path) in line]


@two_gpus
def test_a_failed_training_does_not_wait_for_what_a_gpu_waits_for(tmp_path: Path) -> None:
    program = "if world.rank: time.sleep(600)\nworld.mean([torch.ones(9, device=device)])\nworld.close(failed=True)\n"
    run = command(write(tmp_path, program), AUTOEXP_GPUS="2", AUTOEXP_DEVICE="cuda")
    assert run.returncode == 0, run.stderr


def test_torchrun_may_start_them(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run = command(*torchrun, write(tmp_path, TALK), AUTOEXP_GPUS="7", OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr
    first, second = results(tmp_path)
    assert first["gradients"] == second["gradients"] == [[2.0] * 3, [2.0] * 5, [2.0] * 7, None]
    assert not (tmp_path / "peer-1.log").exists()


def test_alone_nothing_is_done(tmp_path: Path) -> None:
    for environ in (
        {},
        {"AUTOEXP_GPUS": "1"},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"WORLD_SIZE": "", "AUTOEXP_GPUS": ""},
    ):
        world = join(environ, tmp_path)
        assert world == World() and world.leads
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), 0.1)
    world.connect(torch.device("cpu"))
    world.mean_gradients([weight])
    world.broadcast_parameters(torch.nn.Linear(2, 2))
    assert weight.grad.tolist() == torch.full((3,), 0.1).tolist()
    assert world.broadcast(0.1, 2.0) == [0.1, 2.0]
    assert world.sum_float64(torch.tensor([0.5])).dtype == torch.float64
    assert [world.any(True), world.any(False), world.least(7)] == [True, False, 7]
    world.barrier()
    world.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["AUTOEXP_GPUS", "WORLD_SIZE"])
@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_numbers_that_are_none(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(BadInput, match=f"{name}={text} is no whole number of 1 or more"):
        join({name: text}, tmp_path)


def test_each_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(distributed, "best_device", lambda: "cuda")
    second = World(rank=1, size=2, local_rank=1, local_size=2)
    assert [second.place(name) for name in ("best", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert [World().place(name) for name in ("best", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    for name in ("cuda:1", "mps"):
        with pytest.raises(BadInput, match=f"2 processes cannot train on {name}"):
            second.place(name)
    with pytest.raises(Missing, match="3 processes need a GPU each: there are 2") as caught:
        World(size=3, local_size=3).place("best")
    assert caught.value.hint == "AUTOEXP_GPUS=2 python train.py"
    World(rank=3, size=4, local_rank=1, local_size=2).place("cuda")  # two machines


def test_buckets_hold_one_type_and_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 40)
    sizes = [(6, torch.float32), (4, torch.float32), (1, torch.bfloat16), (1, torch.float32), (99, torch.float32)]
    tensors = [torch.zeros(n, dtype=dtype) for n, dtype in sizes]
    found = [[t.numel() for t in bucket] for bucket in buckets(tensors)]
    assert found == [[6, 4], [1], [99], [1]]
    assert not list(buckets([]))


def test_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    for text, words in [
        (b"", ""),
        (b"one\n\ntwo\xff \n\n", "two\ufffd"),
        (b"x\nerror: what\n  try: this\n", "what"),
        (b"error: long ago\na\nb\n", "b"),
        (b"[rank1]: Traceback\n[rank1]: KeyError: 'x'\n", "KeyError: 'x'"),
        (b"y" * 9999, "y" * 200),
    ]:
        log.write_bytes(text)
        assert last_words(log) == words
