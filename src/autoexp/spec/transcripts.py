"""What was said in a call of an agent, in one form for all agents: kept beside what was really sent and received."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from autoexp.spec.answers import plain
from autoexp.spec.secrets import redacted

TURNS_FILE, READABLE_FILE, META_FILE = "turns.json", "transcript.md", "meta.json"
LONGEST = 200_000
"""Characters of one turn that are kept; what was really received is beside it."""


class Turn(BaseModel):
    """Somebody said something, or used a tool."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    by: Literal["autoexp", "agent", "thought", "tool", "error"]
    """`autoexp` asks, `agent` answers, `thought` is its reasoning where it shows it."""
    text: str
    """What was said; of a tool, what came back."""
    tool: str = ""
    """The name of the tool."""
    input: str = ""
    """What the tool was given."""


_TURNS = TypeAdapter(tuple[Turn, ...])


def as_text(value: Any) -> str:
    """A tool's input or output as text: as it is, or as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def tool_turn(name: Any, given: Any, result: Any) -> Turn:
    return Turn(by="tool", tool=str(name), input=as_text(given), text=as_text(result) if result is not None else "")


def kept(turns: Iterable[Turn], secrets: Sequence[str]) -> str:
    """The turns as JSON, fit for a file."""

    def clean(text: str) -> str:
        text = redacted(plain(text), secrets)
        left = len(text) - LONGEST
        return text if left <= 0 else f"{text[:LONGEST]}\n[… {left} more characters]"

    shortened = tuple(turn.model_copy(update={"text": clean(turn.text), "input": clean(turn.input)}) for turn in turns)
    return _TURNS.dump_json(shortened, indent=1, exclude_defaults=True).decode() + "\n"


def read_turns(folder: Path) -> tuple[Turn, ...]:
    """The turns of the call in `folder`; of a call that was broken off, what was asked."""
    try:
        return _TURNS.validate_json((folder / TURNS_FILE).read_bytes())
    except (OSError, ValidationError, ValueError):
        with suppress(OSError):
            prompt = (folder / "prompt.txt").read_text(encoding="utf-8", errors="replace")
            return (Turn(by="autoexp", text=prompt),)
        return ()


def latest(transcript: Path) -> Path | None:
    """The folder of the last call under `transcript`; None when there was none."""
    with suppress(OSError):
        numbers = [int(entry.name) for entry in transcript.iterdir() if entry.name.isdecimal()]
        return transcript / f"{max(numbers):03d}" if numbers else None
    return None


def rendered(turns: Iterable[Turn]) -> str:
    """For people: who said what, which tools were used."""
    parts = []
    for turn in turns:
        title = f"tool {turn.tool}" if turn.by == "tool" else turn.by
        body = turn.text.strip("\n")
        if turn.by == "tool":
            body = "\n".join(part for part in (_indented(turn.input, "< "), _indented(body, "> ")) if part)
        parts.append(f"[{title}]\n{body}".rstrip())
    return "\n\n".join(parts) + "\n" if parts else ""


def _indented(text: str, mark: str) -> str:
    return "\n".join(mark + line for line in text.splitlines())
