"""The state of a run, from its journal; of a long one quickly, from a snapshot and the lines after it.

A snapshot is a view like any other: when it is missing, torn, of another release, or does not fit the journal, the
whole journal is replayed.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from autoexp.runs.journal import read
from autoexp.runs.state import RunState, begin, reduce
from autoexp.workspace.files import write_atomic
from autoexp.workspace.paths import RunPaths

EVERY, FEW = 1000, 100
"""Events after which a session takes a new snapshot, and events that are worth one when it closes."""
_TAIL_BYTES = 4096
LEFT_OUT = {"trials", "measurements", "ideas", "lessons"}
"""What state.json is without: there may be much of it, and the journal holds it."""
_FIELDS = sorted(RunState.model_fields)
"""A release with more of them would read defaults out of an older snapshot, instead of what the journal says."""


def load(paths: RunPaths) -> RunState:
    """The run's state. Changes nothing.

    Raises JournalError when the journal cannot be read.
    """
    with uncollected():
        known = _snapshot(paths)
        if known is None:
            events = read(paths.journal)
            state, rest = begin(events[0]), events[1:]
        else:
            state, offset = known
            rest = read(paths.journal, offset)
        for event in rest:
            state = reduce(state, event)
    return state


def save(paths: RunPaths, state: RunState, journal_bytes: int) -> None:
    """Take a snapshot of the state that the first `journal_bytes` of the journal add up to."""
    head = {"journal_bytes": journal_bytes, "tail": _tail(paths.journal, journal_bytes), "fields": _FIELDS}
    write_atomic(paths.snapshot, json.dumps(head) + "\n" + state.model_dump_json() + "\n", durable=False)


def _snapshot(paths: RunPaths) -> tuple[RunState, int] | None:
    try:
        head, _, body = paths.snapshot.read_bytes().partition(b"\n")
        fields = json.loads(head)
        offset = int(fields["journal_bytes"])
        if fields["fields"] != _FIELDS or fields["tail"] != _tail(paths.journal, offset):
            return None
        return RunState.model_validate_json(body), offset
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _tail(journal: Path, end: int) -> str:
    """A hash over the bytes just before `end`: the last events that the snapshot holds. '' when there are none."""
    with journal.open("rb") as file:
        file.seek(max(0, end - _TAIL_BYTES))
        data = file.read(min(end, _TAIL_BYTES))
    return hashlib.sha256(data).hexdigest() if data.endswith(b"\n") and journal.stat().st_size >= end else ""


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look through all those frozen events again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
