"""A call of an agent's program, with everything sent and received kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoexp.agents import process
from autoexp.errors import AgentError, Interrupted, PreconditionError
from autoexp.spec.answers import plain
from autoexp.spec.ports import Answer, Ask
from autoexp.spec.secrets import redacted
from autoexp.spec.transcripts import META_FILE, READABLE_FILE, TURNS_FILE, Turn, kept, latest, rendered
from autoexp.workspace.files import explained

LONGEST_NAME = 500
"""Characters of a conversation's name: it goes into the journal and into command lines."""


@dataclass(frozen=True)
class Called:
    """A call that has ended, and the folder with all of it."""

    ended: process.Ended
    folder: Path
    problem: str
    """That it could not be started, or ran out of time; '' when it came to its end."""


def call(
    command: Sequence[str],
    stdin: str,
    question: Ask,
    *,
    hint: str = "",
    env: Mapping[str, str],
    enough: Callable[[bytes], bool] | None = None,
    secrets: Sequence[str] = (),
) -> Called:
    """Run the program once; how it exited is for the caller to judge, by `exit_problem`.

    Raises PreconditionError when it is not there, Interrupted on `question.stop`.
    """
    folder, cwd, seconds = next_folder(question.transcript), question.cwd, question.timeout_seconds
    keep(folder / "prompt.txt", stdin, secrets)
    meta: dict[str, Any] = {"task": question.task, "argv": list(command), "cwd": str(cwd), "env": sorted(env)}
    try:
        ended = process.run(command, stdin, cwd, seconds, question.stop, hint=hint, env=env, enough=enough)
    except PreconditionError as error:
        keep_meta(folder, {**meta, "problem": str(error)}, secrets)
        raise
    except AgentError as error:
        keep_meta(folder, {**meta, "problem": str(error)}, secrets)
        return Called(process.Ended("exited", None, "", "", 0, 0.0), folder, str(error))
    keep(folder / "stdout.txt", ended.stdout, secrets)
    keep(folder / "stderr.txt", ended.stderr, secrets)
    meta |= {"how": ended.how, "code": ended.code, "seconds": ended.seconds, "dropped_bytes": ended.dropped}
    keep_meta(folder, meta, secrets)
    if ended.how == "stopped":
        raise Interrupted(f"stopped while {command[0]} was at work", "autoexp resume")
    late = f"{command[0]} gave no answer in {seconds:g} seconds" if ended.how == "timeout" else ""
    return Called(ended, folder, late)


def finished(folder: Path, answer: Answer, turns: Iterable[Turn], secrets: Sequence[str] = ()) -> Answer:
    """The answer of the call that `folder` is of, once its transcript is written and its problem says where it is."""
    said = tuple(turns)
    if answer.problem:
        said = (*said, Turn(by="error", text=answer.problem))
    as_json = kept(said, secrets)
    keep(folder / TURNS_FILE, as_json)
    keep(folder / READABLE_FILE, rendered(Turn.model_validate(turn) for turn in json.loads(as_json)))
    known = {name: value for name, value in asdict(answer.usage).items() if value is not None}
    told = {"conversation": answer.conversation, "usage": known, "problem": answer.problem, "busy": answer.busy}
    keep_meta(folder, {**_meta(folder), **told}, secrets)
    problem = plain(redacted(answer.problem, secrets))
    talk = answer.conversation
    talk = talk if talk and talk.isprintable() and len(talk) <= LONGEST_NAME else None
    return replace(answer, conversation=talk, problem=problem and f"{problem} (see {folder})", transcript=folder)


def exit_problem(command: Sequence[str], ended: process.Ended) -> str:
    """What a non-zero exit says in its last line; '' for a good one."""
    if ended.code == 0:
        return ""
    return f"{command[0]} ended with exit code {ended.code}: {last_words(ended.stderr)}"


def last_words(stderr: str) -> str:
    """The last line of what was said on stderr, fit for a message."""
    lines = [line.strip() for line in plain(stderr[-20_000:]).splitlines() if line.strip()]
    return redacted(lines[-1])[-500:] if lines else "it wrote nothing on stderr"


def next_folder(transcript: Path) -> Path:
    """A new numbered folder: no call overwrites another, not even one before a crash."""
    try:
        transcript.mkdir(parents=True, exist_ok=True)
        before = latest(transcript)
        folder = transcript / f"{int(before.name) + 1 if before else 1:03d}"
        folder.mkdir()
    except OSError as error:
        raise explained(error, transcript) from error
    return folder


def keep(path: Path, text: str, secrets: Sequence[str] = ()) -> None:
    """Write a file of a transcript, without secrets."""
    try:
        path.write_text(redacted(text, secrets), encoding="utf-8", errors="replace")
    except OSError as error:
        raise explained(error, path) from error


def keep_meta(folder: Path, facts: Mapping[str, object], secrets: Sequence[str] = ()) -> None:
    """How a call went, in numbers."""
    keep(folder / META_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n", secrets)


def _meta(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
