"""`jsonl`: one line for each decided trial, appended to a file outside the run. Options: path, an absolute one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoexp.errors import UsageError
from autoexp.runs.events import Decided, Event
from autoexp.runs.state import RunState
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Tracker


class JsonLines:
    def __init__(self, path: str = "~/autoexp-trials.jsonl") -> None:
        """Raises UsageError for a relative path: it would mean another place for every way to start a run."""
        self.path = Path(path).expanduser()
        if not self.path.is_absolute():
            raise UsageError(f"trackers.jsonl.path {path!r} is not absolute", "begin it with ~/ or /")

    def track(self, event: Event, state: RunState) -> None:
        """Append the trial that was just decided."""
        if isinstance(event, Decided):
            with self.path.open("a") as file:
                file.write(state.trials[-1].model_dump_json() + "\n")


@hookimpl
def autoexp_register_trackers(register: Callable[[str, Tracker], None], options: dict[str, dict[str, Any]]) -> None:
    register("jsonl", JsonLines(**options.get("jsonl", {})))
