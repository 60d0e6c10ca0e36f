"""Compiling ahead, with a stand-in for the package that writes down what it was asked to compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from autoexp.model.attention import fa4, fa4_ahead

PACKAGE = """
import os
from pathlib import Path
from torch._subclasses.fake_tensor import FakeTensor

def note(what, q, window):
    assert isinstance(q, FakeTensor) and q.is_cuda and q.stride() == (2048 * 6 * 128, 6 * 128, 128, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    arch, units = os.environ["FLASH_ATTENTION_ARCH"], os.environ["FLASH_ATTENTION_NUM_SMS"]
    with Path(os.environ["AUTOEXP_CACHE"], "asked").open("a") as file:
        file.write(f"{what} {window} {arch} {os.environ['CUTE_DSL_ARCH']} {units}\\n")

def _flash_attn_fwd(q, k, v, return_lse, window_size_left=None, **options):
    note("forward", q, window_size_left)
    return q.new_empty(q.shape), q.new_empty(2, 2, 2048), None

def _flash_attn_bwd(q, k, v, out, dout, lse, window_size_left=None, **options):
    note("backward", q, window_size_left)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package on the path of children, a made-up GPU, and an empty cache folder, which is returned."""
    folder = tmp_path / "site" / "flash_attn" / "cute"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "interface.py").write_text(PACKAGE)
    cache = tmp_path / "cache"
    source = Path(fa4.__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(source)]))
    monkeypatch.setenv("AUTOEXP_CACHE", str(cache))
    monkeypatch.setenv("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    return cache


def start(*windows: int) -> fa4_ahead.Processes:
    return fa4_ahead.start(2048, windows, torch.bfloat16, 128, torch.device("cuda"))


def test_each_kind_once(package: Path) -> None:
    processes = start(2048, 256, 128, 5000)
    assert len(processes) == 2
    fa4_ahead.wait(processes)
    assert processes == []
    asked = sorted((package / "asked").read_text().splitlines())
    assert asked == [f"{way} {window} sm_90 sm_90a 132" for way in ("backward", "forward") for window in (128, None)]
    assert start(1024, 4096) == []


def test_nothing_where_nothing_is_kept(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "0")
    assert start(2048) == []


def test_the_first_forward_waits_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fa4_ahead, "WAIT_SECONDS", 0.1)
    kernel = fa4.FlashAttention4(
        SimpleNamespace(_flash_attn_fwd=lambda q, k, v, **options: (q, q), _flash_attn_bwd=None)
    )
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    kernel.compiling.append(sleeper)
    q = torch.zeros(1)
    kernel.forward(q, q, q, None)
    assert sleeper.returncode is not None
    assert kernel.compiling == []
