"""Shared pieces: a small text, small prepared data, a way to run the real commands."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from autoexp.model import prepare, profiles
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled

torch.set_num_threads(1)  # tests share their cores, and torch's threads wait for each other
SOURCE = Path(profiles.__file__).parents[2]
TINY = dataclasses.replace(profiles.CPU, vocab_size=300, seq_len=32, eval_tokens=2048)


def environment(**changes: str | Path) -> dict[str, str]:
    """The environment of a command under test: nothing of ours but what is given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AUTOEXP_")}
    given = {key: str(value) for key, value in changes.items()}
    return {**kept, "PYTHONPATH": str(SOURCE), "AUTOEXP_THREADS": "1", "AUTOEXP_DEVICE": "cpu", **given}


def command(*arguments: str | Path, cwd: Path | None = None, **env: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def text() -> str:
    """Some 400 kB of English in paragraphs."""
    addresses = [body for _, body in zip(range(16), (body for _, body in Bundled(500).addresses()), strict=False)]
    return "\n\n".join(addresses).replace(". ", ".\n\n")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    path = tmp_path_factory.mktemp("text") / "speeches.txt"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A prepared folder of contexts of 32 tokens and 300 token ids."""
    request = prepare.plan(str(text_file), TINY, cache=tmp_path_factory.mktemp("cache"))
    prepare.prepare(request, Progress())
    return request.folder


@pytest.fixture(scope="session")
def bundled_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled texts prepared for the cpu profile by the real command, in its cache."""
    cache = tmp_path_factory.mktemp("bundled")
    run = command("-m", "autoexp.model.prepare", "--dataset", "bundled", "--profile", "cpu", AUTOEXP_CACHE=cache)
    assert run.returncode == 0, run.stderr
    return next((cache / "prepared").glob("bundled-cpu-*"))


@pytest.fixture
def train_module(tmp_path: Path) -> ModuleType:
    """The cpu train.py, as a module of its own: a test may change its constants."""
    return load_module(write_train(tmp_path / "train.py"))


def write_train(path: Path, edit: Callable[[str], str] = lambda text: text) -> Path:
    path.write_text(edit(profiles.render(profiles.CPU)))
    return path


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_under_test", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module  # type: ignore[no-any-return]
