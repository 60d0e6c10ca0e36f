"""What all tests share. `support` is the module beside this file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support import Lab, leftovers

from autoexp.testing import make_workspace
from autoexp.workspace.paths import Workspace

os.environ["AUTOEXP_RUN__RULE"] = RULE = "improvement"
"""Most tests count trainings: one for each idea, judged by strict less-than. Fixtures of whole modules see it too."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No settings, caches, agents, GPUs or git configuration of whoever runs the tests."""
    for name in os.environ:
        if name.startswith(("AUTOEXP_", "GIT_")) and not name.startswith("AUTOEXP_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AUTOEXP_CACHE", str(tmp_path_factory.getbasetemp() / "autoexp-cache"))
    monkeypatch.setenv("AUTOEXP_RUN__RULE", RULE)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The tiny program of `autoexp.testing`, committed."""
    return make_workspace(tmp_path / "work")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A workspace worked on by real `autoexp` commands. Whatever they left running fails the test."""
    lab = Lab(tmp_path)
    yield lab
    lab.release()
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of 256 KiB or of what the test asks for."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '256k')}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
