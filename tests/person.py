"""A person at a terminal: `autoexp` as a command, in a home of its own, with git and nothing else on PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = '''\
"""Three constants and a score."""

RATE = 0.08  # [0.001, 1.0] log; how fast
DEPTH = 4  # [1, 12]; how deep
SHAPE = "SSL"  # {"L", "SL", "SSL"}; which pattern

score = 1.0 + abs(RATE - 0.05) + (DEPTH - 6) ** 2 / 100 + len(SHAPE) / 1000
print(f"val_bpb: {score:.6f}")
'''
PATIENCE = 120


@dataclass(frozen=True)
class Said:
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Person:
    """Types commands in `at`, which need not be a workspace."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.bin = path, path / "work", path / "bin"
        for folder in (self.at, self.bin, path / "home"):
            folder.mkdir()
        for name in ("git", "sh", "cat"):
            (self.bin / name).symlink_to(str(shutil.which(name)))
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOEXP_", "GIT_"))}
        self.environ = {**plain, "PATH": str(self.bin), "HOME": str(path / "home")}
        self.environ |= {"AUTOEXP_CACHE": str(path / "cache"), "GIT_CONFIG_SYSTEM": os.devnull}

    def has(self, name: str, script: str = "") -> None:
        """Put a program on PATH."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def types(self, *args: str, code: int = 0, stdin: str = "", at: Path | None = None, **environ: str) -> Said:
        """Run `autoexp`; it must end with this exit code, and a failure in two lines."""
        return self.runs(sys.executable, "-m", "autoexp", *args, code=code, stdin=stdin, at=at, **environ)

    def runs(self, *words: str, code: int = 0, stdin: str = "", at: Path | None = None, **environ: str) -> Said:
        ended = subprocess.run(
            words,
            cwd=at or self.at,
            env={**self.environ, **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert ended.returncode == code, f"exit {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        assert "Traceback" not in ended.stderr
        return Said(ended.stdout, ended.stderr)

    def fails(self, *args: str, code: int, stdin: str = "", at: Path | None = None, **environ: str) -> str:
        """What a refused command says: two lines, what and what to type."""
        said = self.types(*args, code=code, stdin=stdin, at=at, **environ).err
        lines = said.splitlines()
        assert len(lines) == 2, said
        assert lines[0].startswith("error: ")
        assert lines[1].startswith("  try: ")
        return said

    def git(self, *args: str) -> str:
        return self.runs("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *args).out

    def program(self, text: str = PROGRAM) -> None:
        (self.at / "train.py").write_text(text)

    def workspace(self, program: str = PROGRAM) -> None:
        """The tiny program with all of init's files, committed."""
        self.git("init", "--quiet", "--initial-branch=main")
        self.program(program)
        self.types("init", ".")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=The program")

    def run_folder(self, run_id: str = "r") -> Path:
        return self.at / "workflows" / "runs" / run_id
