"""The command line as a whole: usage errors, closed streams, the exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def autoexp(*args: str, cwd: Path, shell: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoexp", *args]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (["strat"], "Did you mean 'start'", "autoexp --help"),
        (["start", "--lops", "3"], "No such option: --lops", "autoexp start --help"),
        (["start", "--loops", "x"], "--loops", "autoexp start --help"),
        (["show"], "Missing argument", "autoexp show --help"),
    ],
)
def test_a_misspelt_command_line_is_told_in_two_lines(tmp_path: Path, args: list[str], said: str, hint: str) -> None:
    done = autoexp(*args, cwd=tmp_path)

    assert done.returncode == 2
    what, next_command = done.stderr.splitlines()
    assert what.startswith("error: ") and said in what
    assert next_command == f"  try: {hint}"


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    done = autoexp(cwd=tmp_path)

    assert done.returncode == 2
    assert "Usage: autoexp" in done.stdout and not done.stderr


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    assert autoexp("--version", cwd=tmp_path, shell=closed).returncode == 0
