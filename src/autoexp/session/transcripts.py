"""What the agents of an iteration were asked and said, in the order of the calls: `autoexp show N --transcript`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from autoexp.errors import RunError
from autoexp.runs.events import AgentCalled
from autoexp.runs.journal import read
from autoexp.spec.transcripts import Turn, read_turns
from autoexp.workspace.paths import RunPaths


class Call(BaseModel):
    """One call of an agent: a line of `autoexp show N --transcript --json`; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    iteration: int
    attempt: int
    stage: str
    """What it was asked for: propose, apply or triage."""
    agent: str
    at: float
    """When it had ended, in seconds since the epoch."""
    seconds: float
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    """As the agent says; null is unknown."""
    problem: str
    """Why it gave no usable answer; '' when it did."""
    busy: bool
    stopped: bool
    """The run was stopped meanwhile."""
    conversation: str | None
    folder: str
    """Where all that was sent and received is kept; '' when it is not known."""
    turns: tuple[Turn, ...]
    """Who said what; what was said in earlier calls of the same conversation is left out."""


def calls(paths: RunPaths, number: int) -> list[Call]:
    """The calls for iteration `number`. Raises RunError when there was none."""
    found = []
    for event in read(paths.journal):
        if not isinstance(event, AgentCalled) or event.iteration != number:
            continue
        folder = paths.folder / event.transcript if event.transcript else None
        facts = event.model_dump(exclude={"type", "transcript"})
        turns = _own(read_turns(folder)) if folder else ()
        found.append(Call(**facts, folder=str(folder or ""), turns=turns))
    if not found:
        raise RunError(f"run {paths.run_id} asked no agent in iteration {number}", f"autoexp show {number}")
    return found


def _own(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """From the last question on: some agents are sent the whole conversation each time."""
    asked = [place for place, turn in enumerate(turns) if turn.by == "autoexp"]
    return turns[asked[-1] :] if asked else turns
