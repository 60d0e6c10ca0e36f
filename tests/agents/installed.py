"""The real agents, each installed once from npm into a cache that all test runs share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PACKAGES = {
    "opencode": "opencode-ai@1.18.33",
    "claude": "@anthropic-ai/claude-code@2.1.197",
    "codex": "@openai/codex@0.169.0",
}
"""By command. 177 to 404 MB each, which npm gets and unpacks in 5 to 10 seconds on a good line."""
CACHE = Path(os.environ.get("AUTOEXP_TEST_CACHE") or Path("~/.cache/autoexp-tests").expanduser())
"""Looked up here, before a test sets a home of its own."""
LIMIT_SECONDS = 300
CACHED = "AUTOEXP_TEST_AGENTS"
"""`cached` in the environment: nothing is installed; an agent that is not there skips its tests."""
RETRY_SECONDS = 3600.0
"""How long an installation that failed is not tried again: without a way to the registry each try takes a minute."""


def folder_of(command: str) -> Path:
    """The folder with the real `command` in it. Skips the test where it cannot be had, and says why."""
    package = PACKAGES[command]
    home = CACHE / package.replace("/", "+")
    folder = home / "node_modules" / ".bin"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other worker of pytest-xdist wants the same
        if not (folder / command).exists() and (missing := _missing(package, command, home)):
            pytest.skip(missing)
    return folder


def _missing(package: str, command: str, home: Path) -> str:
    """Why the agent cannot be had; '' once it is installed. What failed a while ago is not tried again."""
    if os.environ.get(CACHED) == "cached":
        return f"{package} is not in {CACHE}, and npm cannot be reached"
    failed = home.with_name(f"{home.name}.failed")
    if failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        return failed.read_text()
    missing = _install(package, command, home)
    failed.write_text(missing) if missing else failed.unlink(missing_ok=True)
    return missing


def _install(package: str, command: str, home: Path) -> str:
    """Install it whole or not at all. Returns why it could not be, or ''."""
    if shutil.which("npm") is None:
        return f"npm is not installed, so the real {command} cannot be had"
    with tempfile.TemporaryDirectory(dir=home.parent) as made:
        # an npm that asks before it runs a package's own installer would leave a program that only tells to run it
        install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts=false", "--prefix", made, package]
        try:
            done = subprocess.run(install, cwd=made, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"npm install {package} did not end in {LIMIT_SECONDS} seconds"
        program = Path(made, "node_modules", ".bin", command)
        works = program.exists() and subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
        if not works or works.returncode:
            said = done.stderr.strip() or (works and works.stderr.strip()) or "it is not there"
            return f"npm install {package} gave no working {command}: {said[-300:]}"
        shutil.rmtree(home, ignore_errors=True)
        Path(made).rename(home)
        Path(made).mkdir()
    return ""
