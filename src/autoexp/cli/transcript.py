"""Printing what agents were asked and said, call by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autoexp.cli.render import clean, clock, paint, safe, say, short

if TYPE_CHECKING:
    from autoexp.session.transcripts import Call
    from autoexp.spec.transcripts import Turn

STYLES = {"autoexp": "cyan", "agent": "green", "thought": "dim", "tool": "yellow", "error": "red"}
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
            for line in _lines(turn):
                say(line)
        say()


def _took(call: Call) -> Iterator[str]:
    yield clock(call.seconds)
    if call.input_tokens is None and call.output_tokens is None:
        yield "tokens unknown"
    else:
        yield f"{call.input_tokens or 0} tokens read, {call.output_tokens or 0} written"
    yield "cost unknown" if call.cost_usd is None else f"${call.cost_usd:.4f}"


def _lines(turn: Turn) -> Iterator[str]:
    if turn.by != "tool":
        yield from (safe(line) for line in turn.text.strip("\n").splitlines())
        return
    for mark, text in (("<", turn.input), (">", turn.text)):
        lines = text.splitlines()
        yield from (f"{mark} {safe(line)}" for line in lines[:TOOL_LINES])
        if len(lines) > TOOL_LINES:
            yield f"{mark} … {len(lines) - TOOL_LINES} more lines"
