"""Printing what agents were asked and said, call by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autoexp.cli.render import clean, clock, paint, safe, say, short

if TYPE_CHECKING:
    from autoexp.session.transcripts import Call
    from autoexp.spec.transcripts import Turn

STYLES = {"autoexp": "cyan", "agent": "green", "thought": "dim", "tool": "yellow", "error": "red"}
FIRST_LINES, LAST_LINES, LINE_CHARACTERS = 800, 50, 4000
"""Of what was said: briefs with a program in them are shown whole, megabytes of prattle are not."""
TOOL_LINES = 40
"""Of what a tool was given, and of what it gave back; all of it is in the call's folder."""


def show_calls(calls: Sequence[Call]) -> None:
    """All calls of an iteration in their order."""
    for number, call in enumerate(calls, 1):
        title = f"call {number} of {len(calls)}: {call.stage}, attempt {call.attempt}, {clean(call.agent)}"
        say(f"{paint(title, 'bold')}  {', '.join(_took(call))}")
        if call.problem:
            say(paint(f"problem: {clean(call.problem)}", "yellow" if call.busy else "red"))
        if call.conversation:
            say(paint(f"conversation {clean(call.conversation)}", "dim"))
        if call.folder:
            say(paint(short(call.folder), "dim"))
        for turn in call.turns:
            say()
            say(paint(f"[{clean(turn.tool) if turn.by == 'tool' else turn.by}]", STYLES[turn.by]))
            for line in _cut(list(_lines(turn)), call.folder):
                say(line)
        say()


def _took(call: Call) -> Iterator[str]:
    yield clock(call.seconds)
    if call.input_tokens is None and call.output_tokens is None:
        yield "tokens unknown"
    else:
        yield f"{call.input_tokens or 0} tokens read, {call.output_tokens or 0} written"
    yield "cost unknown" if call.cost_usd is None else f"${call.cost_usd:.4f}"


def _cut(lines: list[str], folder: str) -> Iterator[str]:
    """What can be read: of a long turn its beginning and its end, where the answer is, and where the rest is."""
    left = len(lines) - FIRST_LINES - LAST_LINES
    if left > 0:
        rest = f"[… {left} lines are left out; all of them: {short(folder)}]"
        lines = [*lines[:FIRST_LINES], paint(rest, "dim"), *lines[-LAST_LINES:]]
    for line in lines:
        more = len(line) - LINE_CHARACTERS
        yield line if more <= 0 else f"{line[:LINE_CHARACTERS]} [… {more} more characters: {short(folder)}]"


def _lines(turn: Turn) -> Iterator[str]:
    if turn.by != "tool":
        yield from (safe(line) for line in turn.text.strip("\n").splitlines())
        return
    for mark, text in (("<", turn.input), (">", turn.text)):
        lines = text.splitlines()
        yield from (f"{mark} {safe(line)}" for line in lines[:TOOL_LINES])
        if len(lines) > TOOL_LINES:
            yield f"{mark} … {len(lines) - TOOL_LINES} more lines"
