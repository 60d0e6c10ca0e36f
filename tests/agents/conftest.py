"""Programs that pose as agents; and where the helpers of these tests are."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.register_assert_rewrite("night")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a Python program on PATH, by default under the name `opencode`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(source: str, name: str = "opencode") -> Path:
        path = folder / name
        path.write_text(
            f"#!{sys.executable}\nimport json, os, signal, subprocess, sys, time\n{textwrap.dedent(source)}"
        )
        path.chmod(0o755)
        return path

    return write
