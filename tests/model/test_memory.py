"""What counts as out of memory, starting again at half in a real process, and what is remembered of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autoexp.model.errors import BadInput, TrainingFailed
from autoexp.model.memory import DEVICE_BATCH, fact_path, is_out_of_memory, most_rows, remember, retry_at_half

from .conftest import command, environment

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CARD = ("NVIDIA A100-SXM4-40GB", 42_298_834_944)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.2 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory."),
    ],
)
def test_out_of_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasGemmEx`"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
        TrainingFailed("loss is nan at step 3"),
        KeyError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_failures(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_real_allocation_that_cannot_be(device: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)


def full(*args: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def chained(cause: bool = False, hidden: bool = False) -> BaseException:
    try:
        try:
            full()
        except RuntimeError as error:
            if cause:
                raise ValueError("the compiler failed") from error
            if hidden:
                raise ValueError("something else") from None
            raise ValueError("the compiler failed")  # noqa: B904
    except ValueError as error:
        return error
    raise AssertionError


def test_what_led_to_an_error_counts_unless_it_is_hidden() -> None:
    assert is_out_of_memory(chained())
    assert is_out_of_memory(chained(cause=True))
    assert not is_out_of_memory(chained(hidden=True))

    ring = ValueError("round")
    ring.__context__ = KeyError("and round")
    ring.__context__.__context__ = ring
    assert not is_out_of_memory(ring)


@pytest.mark.filterwarnings("ignore")  # torch's own, of its own
def test_what_the_compiler_makes_of_it_counts() -> None:
    failing: Any = torch.compile(lambda x: x + 1, backend=lambda graph, inputs: full())
    with pytest.raises(Exception, match="OutOfMemory") as caught:
        failing(torch.ones(2))
    torch._dynamo.reset()
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    assert is_out_of_memory(caught.value)


# -- starting again ---------------------------------------------------------------------------------------------------

# A training that fits so many rows, wired up as a harness would. Prints one line of JSON when it is through.
TRAINING = """
import json, os, sys, threading, time
from pathlib import Path
import torch
from autoexp.model.memory import fact_path, is_out_of_memory, most_rows, remember, retry_at_half

fits, wanted = int(sys.argv[1]), int(sys.argv[2])
fact = fact_path("hash", "card", 1, os.environ)
rows = most_rows(wanted, fact, os.environ)
print("trying", rows, os.getpid())
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
lock = open(os.environ["LOCK"], "a")
os.set_inheritable(lock.fileno(), True)
try:
    if rows > fits:
        raise torch.OutOfMemoryError("CUDA out of memory.")
except Exception as error:
    if not is_out_of_memory(error):
        raise
    remember(fact, max(1, rows // 2))
    retry_at_half(rows, os.environ)
    sys.exit("crashed")
print(json.dumps({"rows": rows, "pid": os.getpid(), "argv": sys.argv, "no_user_site": sys.flags.no_user_site,
                  "prefix": sys.prefix, "mine": os.environ["MINE"]}))
"""


def train(folder: Path, *arguments: str, **env: str) -> tuple[subprocess.Popen[str], str, str]:
    script = folder / "train.py"
    script.write_text(TRAINING)
    given = environment(AUTOEXP_CACHE=folder / "cache", LOCK=folder / "lock", MINE="a b", **env)
    process = subprocess.Popen(
        [sys.executable, "-s", str(script), *arguments],
        env=given,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=120)
    return process, out, err


def test_it_comes_down_to_what_fits_as_the_same_process(tmp_path: Path) -> None:
    process, out, err = train(tmp_path, "20", "64", "a b")

    assert process.returncode == 0, err
    *_, last = out.splitlines()
    done = json.loads(last)
    assert [line.split()[1] for line in out.splitlines() if line.startswith("trying")] == ["64", "32", "16"]
    assert "out of memory with 64 rows at once: starting again with 32" in out
    assert {line.split()[2] for line in out.splitlines() if line.startswith("trying")} == {str(process.pid)}
    assert done == {
        **{"rows": 16, "pid": process.pid, "no_user_site": 1, "prefix": sys.prefix, "mine": "a b"},
        "argv": [str(tmp_path / "train.py"), "20", "64", "a b"],
    }

    _, out, _ = train(tmp_path, "20", "64", "a b")  # the same source again: it starts at what fitted
    assert [line.split()[1] for line in out.splitlines() if line.startswith("trying")] == ["16"]


# Holds half of the GPU's free memory and asks for more than the other half, until it is one row.
GREEDY = """
import os
import torch
from autoexp.model.memory import is_out_of_memory, most_rows, retry_at_half
from pathlib import Path

free = torch.cuda.mem_get_info()[0]
print("free", free)
rows = most_rows(2, Path("none"), os.environ)
held = torch.empty(free // 2, dtype=torch.uint8, device="cuda")
try:
    if rows > 1:
        torch.empty(free * 3 // 4, dtype=torch.uint8, device="cuda")
except Exception as error:
    assert is_out_of_memory(error)
    retry_at_half(rows, os.environ)
"""


@NEEDS_CUDA
def test_the_memory_of_the_gpu_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GREEDY)
    run = command("train.py", cwd=tmp_path, AUTOEXP_DEVICE="cuda")

    assert run.returncode == 0, run.stderr
    first, second = [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("free")]
    assert second > 0.75 * first


def test_a_row_that_does_not_fit_is_a_crash(tmp_path: Path) -> None:
    process, out, err = train(tmp_path, "0", "2")

    assert (process.returncode, err) == (1, "crashed\n")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("trying")] == ["2", "1"]


def test_one_of_several_processes_does_not_start_again_alone(tmp_path: Path) -> None:
    process, out, _ = train(tmp_path, "10", "64", RANK="0", WORLD_SIZE="2")

    assert process.returncode == 1 and "starting again" not in out


def test_what_cannot_be_started_again_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    retry_at_half(8, {})  # it would end the test otherwise


# -- what is remembered -----------------------------------------------------------------------------------------------


def test_what_is_remembered_holds_for_one_source_on_one_card(tmp_path: Path) -> None:
    environ = {"AUTOEXP_CACHE": str(tmp_path)}
    path = fact_path("abc", *CARD, environ)
    assert most_rows(128, path, environ) == 128
    remember(path, 32)

    assert path.parent == tmp_path / "device-batch"
    assert most_rows(128, path, environ) == 32
    assert most_rows(16, path, environ) == 16
    assert most_rows(128, path, {**environ, DEVICE_BATCH: "64"}) == 64
    others = [("abd", *CARD), ("abc", "another", CARD[1]), ("abc", CARD[0], 1), (None, *CARD)]
    assert all(fact_path(*other, environ) != path for other in others)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": 0}', '{"rows": "8"}', '{"rows": null}'])
def test_a_file_that_makes_no_sense_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "fact.json").write_text(text)

    assert most_rows(128, tmp_path / "fact.json", {}) == 128


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remember(tmp_path / "file" / "fact.json", 8)


@pytest.mark.parametrize("named", ["0", "-1", "many", "1.5"])
def test_a_device_batch_that_is_none_is_named(tmp_path: Path, named: str) -> None:
    with pytest.raises(BadInput, match=f"{DEVICE_BATCH}={named}"):
        most_rows(128, tmp_path / "fact.json", {DEVICE_BATCH: named})
