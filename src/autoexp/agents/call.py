"""A call of an agent's program, with everything sent and received kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoexp.agents import process
from autoexp.errors import AgentError, Interrupted, PreconditionError
from autoexp.spec.answers import plain, redacted
from autoexp.spec.ports import Ask
from autoexp.workspace.files import explained


@dataclass(frozen=True)
class Called:
    """A call that has ended, and the folder with all of it."""

    ended: process.Ended
    folder: Path


def call(
    command: Sequence[str], stdin: str, question: Ask, *, hint: str = "", env: dict[str, str] | None = None
) -> Called:
    """Run the program once; how it exited is for the caller to judge, by `exit_problem`.

    Raises PreconditionError when it is not there, AgentError when it runs out of time, Interrupted on `question.stop`.
    """
    folder, cwd, seconds = next_folder(question.transcript), question.cwd, question.timeout_seconds
    keep(folder / "prompt.txt", stdin)
    try:
        ended = process.run(command, stdin, cwd, seconds, question.stop, hint=hint, env=env)
    except (PreconditionError, AgentError) as error:
        _keep_meta(folder, command, cwd, {"problem": str(error)})
        raise
    keep(folder / "stdout.txt", ended.stdout)
    keep(folder / "stderr.txt", ended.stderr)
    meta = {"how": ended.how, "code": ended.code, "seconds": ended.seconds, "dropped_bytes": ended.dropped}
    _keep_meta(folder, command, cwd, meta)
    if ended.how == "stopped":
        raise Interrupted(f"stopped while {command[0]} was at work", "autoexp resume")
    if ended.how == "timeout":
        raise AgentError(
            f"{command[0]} gave no answer in {seconds:g} seconds (see {folder})",
            "raise agent.timeout_seconds in autoexp.toml, then: autoexp resume",
        )
    return Called(ended, folder)


def exit_problem(command: Sequence[str], ended: process.Ended) -> str | None:
    """What a non-zero exit says in its last line; None for a good one."""
    if ended.code == 0:
        return None
    return f"{command[0]} ended with exit code {ended.code}: {last_words(ended)}"


def last_words(ended: process.Ended) -> str:
    """The last line of stderr, fit for a message."""
    lines = [line.strip() for line in plain(ended.stderr[-20_000:]).splitlines() if line.strip()]
    return redacted(lines[-1])[-500:] if lines else "it wrote nothing on stderr"


def next_folder(transcript: Path) -> Path:
    """A new numbered folder: no call overwrites another, not even one before a crash."""
    try:
        transcript.mkdir(parents=True, exist_ok=True)
        taken = [int(entry.name) for entry in transcript.iterdir() if entry.name.isdecimal()]
        folder = transcript / f"{max(taken, default=0) + 1:03d}"
        folder.mkdir()
    except OSError as error:
        raise explained(error, transcript) from error
    return folder


def keep(path: Path, text: str) -> None:
    try:
        path.write_text(redacted(text), encoding="utf-8", errors="replace")
    except OSError as error:
        raise explained(error, path) from error


def _keep_meta(folder: Path, command: Sequence[str], cwd: Path, facts: Mapping[str, object]) -> None:
    keep(folder / "meta.json", json.dumps({"argv": list(command), "cwd": str(cwd), **facts}, indent=2) + "\n")
