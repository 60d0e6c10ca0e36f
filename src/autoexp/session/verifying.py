"""`autoexp verify`: what a run has written down, computed again. Reads; changes nothing.

The journal is the truth, so the rest is held against it: each candidate's commit and files, what each training left
behind, the views, the data. The first thing that does not hold is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from autoexp.errors import AutoexpError, JournalError
from autoexp.runs import events as ev
from autoexp.runs.journal import check as check_first_line
from autoexp.runs.journal import decode
from autoexp.runs.state import RunState, begin, reduce
from autoexp.session.background import live
from autoexp.session.snapshot import uncollected
from autoexp.session.verifying_files import data_of, trainings, views_of
from autoexp.session.verifying_git import commits
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.repository import Repository


class Part(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(extra="forbid")
    name: str
    """journal, sessions, commits, trainings, views or data."""
    result: Literal["holds", "note", "fails"]
    """note: it cannot be told, or is nothing that must hold."""
    words: str
    """How much was looked at, or what does not hold."""


class Verified(BaseModel):
    """The schema of `autoexp verify --json`; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    holds: bool
    """Whether everything does."""
    first: str
    """The first thing that does not; '' when all does."""
    checks: list[Part]
    """What was looked at, in order; it ends with the first thing that does not hold."""


@dataclass
class History:
    """A journal, read line by line."""

    events: list[ev.Event] = field(default_factory=list)
    state: RunState | None = None
    torn: int = 0
    """Bytes of a line that was never finished."""
    ends: list[int] = field(default_factory=list)
    """Where each line ends."""
    data: bytes = b""


def verified(workspace: Workspace, paths: RunPaths) -> Verified:
    """Look at everything, in order, up to the first thing that does not hold."""
    found: list[Part] = []
    history = History()
    try:
        with uncollected():
            for name, look in _parts(workspace, paths, history):
                found += [Part(name=name, result=result, words=words) for result, words in look()]
    except AutoexpError as error:
        name = str(getattr(error, "part", "")) or "journal"
        found.append(Part(name=name, result="fails", words=str(error)))
    first = next((f"{part.name}: {part.words}" for part in found if part.result == "fails"), "")
    return Verified(run_id=paths.run_id, holds=not first, first=first, checks=found)


Found = Iterator[tuple[Literal["holds", "note"], str]]


def _parts(workspace: Workspace, paths: RunPaths, history: History) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Each part, with a look at it that raises AutoexpError for what does not hold."""

    def state() -> RunState:
        assert history.state is not None
        return history.state

    yield from _named("journal", lambda: _journal(paths, history))
    yield from _named("sessions", lambda: _sessions(history))
    yield from _named("commits", lambda: commits(Repository(workspace), history.events, state()))
    yield from _named("trainings", lambda: trainings(paths, history.events, state()))
    yield from _named("views", lambda: views_of(paths, state(), len(history.data) - history.torn, live(paths)))
    yield from _named("data", lambda: data_of(paths, history.events))


def _named(name: str, look: Callable[[], Any]) -> Iterator[tuple[str, Callable[[], Found]]]:
    def named() -> Found:
        try:
            yield from look()
        except AutoexpError as error:
            error.part = name  # type: ignore[attr-defined]
            raise

    yield name, named


def _journal(paths: RunPaths, history: History) -> Found:
    """Every line is an event that can follow those before it."""
    check_first_line(paths.journal)
    data = history.data = paths.journal.read_bytes()
    whole = data.rfind(b"\n") + 1
    history.torn = len(data) - whole
    end = 0
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        event = decode(line, paths.journal, number)
        try:
            history.state = begin(event) if history.state is None else reduce(history.state, event)
        except JournalError as error:
            raise JournalError(f"line {number} cannot follow those before it: {error}", "autoexp log") from error
        except ValueError as error:
            raise JournalError(f"line {number} ({event.type}) cannot follow those before it", "autoexp log") from error
        end += len(line) + 1
        history.events.append(event)
        history.ends.append(end)
    assert history.state is not None
    if history.state.run_id != paths.run_id:
        raise JournalError(f"it is of the run {history.state.run_id}", "autoexp log")
    yield "holds", f"{len(history.events)} events follow each other"
    if history.torn:
        yield "note", "its last line is torn: a session was killed while it wrote; the next one cuts it off"


def _sessions(history: History) -> Found:
    """Each session wrote down the hash of the journal that it found, or left: nothing before has changed since."""
    import hashlib

    running, hashed, sealed = hashlib.sha256(), 0, 0
    for event, end, start in zip(history.events, history.ends, [0, *history.ends], strict=False):
        said = getattr(event, "journal_sha256", "")
        if said:
            running.update(history.data[hashed:start])
            hashed = start
            sealed += 1
            if running.hexdigest() != said:
                number = history.ends.index(end) + 1
                raise JournalError(
                    f"a line before line {number} was changed after a session had read it ({event.type})", "autoexp log"
                )
    if sealed:
        yield "holds", f"{sealed} hashes of what was written before"
    else:
        yield "note", "no session wrote down a hash of the journal: it is of an older release"
