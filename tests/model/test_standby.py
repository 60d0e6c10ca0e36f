"""The process that becomes a trainer: what it imports, what it must not touch, when it declines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autoexp.model import standby

COMMAND = [sys.executable, "-P", "-m", "autoexp.model.standby"]


def start(folder: Path) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(COMMAND, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe)


def job(folder: Path, program: str, **changes: Any) -> bytes:
    (folder / "train.py").write_text(program)
    fields = {
        "argv": [sys.executable, "train.py"],
        "cwd": str(folder),
        "env": {"GIVEN": "yes", "HOME": None},
        "log": str(folder / "log"),
        "since": time.monotonic(),
    }
    return json.dumps({**fields, **changes}).encode() + b"\n"


def test_without_a_job_it_ends_quietly(tmp_path: Path) -> None:
    assert start(tmp_path).communicate(b"half a line", timeout=100) == (b"ready\n", b"")


def test_it_becomes_the_script(tmp_path: Path) -> None:
    """It is told twice what it is: by the word, and by all that the script sees."""
    script = "import os, sys; print(os.getcwd(), sys.argv, os.environ['GIVEN'], 'HOME' in os.environ); sys.exit(5)"
    process = start(tmp_path)
    said, errors = process.communicate(job(tmp_path, script), timeout=100)
    assert (process.returncode, said, errors) == (5, b"ready\ntaken\n", b"")
    assert (tmp_path / "log").read_text() == f"{tmp_path} ['train.py'] yes False\n"


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        ("open('ran', 'w')", {"cwd": "/no/such/folder"}),
        ("open('ran', 'w')", {"log": "/no/such/folder/log"}),
        ("open('ran', 'w')", {"argv": ["python", "other.py"]}),
        ("open('ran', 'w'); import os; os.environ['A'] = 'b'", {}),
        ("open('ran', 'w')\nthis is no Python", {}),
    ],
)
def test_it_declines_what_a_new_process_would_do_better(tmp_path: Path, program: str, changes: dict[str, Any]) -> None:
    process = start(tmp_path)
    said, errors = process.communicate(job(tmp_path, program, **changes), timeout=100)
    assert (process.returncode, said) == (standby.DECLINED, b"ready\n")
    assert errors.startswith(b"not taken: ")
    assert not (tmp_path / "ran").exists()


def test_it_does_not_import_from_where_it_waits(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong one')")
    assert start(tmp_path).communicate(timeout=100)[0] == b"ready\n"


def test_an_upgrade_in_the_meantime_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some_package.py"
    file.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("some_package")
    try:
        after = file.stat().st_ctime + 0.001
        ours = [module for module in sys.modules.values() if getattr(module, "__file__", None) == str(file)]
        monkeypatch.setattr(sys, "modules", {"some_package": ours[0]})
        assert standby.changed_since(after) is None
        while file.stat().st_ctime < after:
            file.touch()
        os.utime(file, (0, 0))  # an installer may set any time
        assert standby.changed_since(after) == str(file)
        file.unlink()
        assert standby.changed_since(after + 1000) == str(file)
    finally:
        monkeypatch.undo()
        sys.modules.pop("some_package", None)


@pytest.mark.parametrize(
    ("source", "sets"),
    [
        (b"os.environ['A'] = '1'", True),
        (b'environ["A"]="1"', True),
        (b"os.environ.setdefault('A', '1')", True),
        (b"os.environ |= {}", True),
        (b"os.putenv('A', '1')", True),
        (b"del os.environ['A']", True),
        (b"if os.environ['A'] == '1': pass", False),
        (b"value = os.environ.get('A', '')", False),
    ],
)
def test_a_script_that_sets_its_environment_is_known(source: bytes, sets: bool) -> None:
    assert bool(standby.SETS_ENVIRONMENT.search(source)) is sets


def test_our_own_program_is_taken() -> None:
    assert not standby.SETS_ENVIRONMENT.search(Path(standby.__file__).with_name("train.py").read_bytes())


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"AUTOEXP_DEVICE": "cuda:1"}, True),
        ({"AUTOEXP_DEVICE": "cpu"}, False),
        ({"AUTOEXP_COMPILE": "0"}, False),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
    ],
)
def test_the_compiler_is_imported_only_where_something_may_be_compiled(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(standby, "driver_in_sight", lambda: True)
    assert standby.compiles(environ) is expected
    monkeypatch.setattr(standby, "driver_in_sight", lambda: False)
    assert standby.compiles(environ) is False


def test_afterwards_a_compiled_step_imports_next_to_nothing(tmp_path: Path) -> None:
    program = """
import os, sys
from autoexp.model import standby

before = dict(os.environ)
standby.prepare(compiled=True)
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
assert not {name for name in changed if name.startswith(("TORCH", "CUDA", "PYTORCH"))}, changed
import torch
assert not torch.cuda.is_initialized()
from autoexp.model.compiling import compile_regions, eager

there = set(sys.modules)
model = torch.nn.Sequential(torch.nn.Linear(8, 8))
compile_regions(model)
model(torch.randn(2, 8)).sum().backward()
with eager():
    model(torch.randn(3, 8))
new = sorted(name for name in set(sys.modules) - there if not name.endswith(".kernel"))  # what was compiled just now
assert len(new) < 30, new
assert not torch.cuda.is_initialized()
"""
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
