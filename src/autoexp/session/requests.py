"""Requests to a run: files that whoever holds the run's lock takes in, each exactly once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from autoexp.runs.budget import AMOUNTS
from autoexp.runs.records import Plan, Record
from autoexp.workspace.files import write_atomic
from autoexp.workspace.paths import RunPaths


class Request(Record):
    """More work (`loops` more, with these changes of the plan), an end to it, or a person's words."""

    kind: Literal["resume", "stop", "steer", "withdraw", "answer", "drop", "check"]
    loops: int | None = None
    changes: dict[str, Any] = {}
    """Of the plan; for a check, what is to be checked (`CheckOpened`)."""
    now: bool = False
    """For a stop: end the trainings too."""
    text: str = ""
    """For steer and answer: the words."""
    number: int = 0
    """For withdraw, answer and drop: of what."""


def post(paths: RunPaths, request: Request) -> Path:
    """Leave a request; the path disappears when it is taken in."""
    path = paths.requests / f"{time.time_ns():020d}-{os.getpid()}.json"
    write_atomic(path, request.model_dump_json() + "\n")
    return path


def waiting(paths: RunPaths) -> list[tuple[str, Request, Path]]:
    """(name, request, path) of what waits, the oldest first."""
    try:
        names = sorted(name for name in os.listdir(paths.requests) if name.endswith(".json"))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        path = paths.requests / name
        try:
            found.append((name, Request.model_validate(json.loads(path.read_bytes())), path))
        except FileNotFoundError:
            continue
        except OSError:
            continue  # a folder, or not ours to read
        except ValueError:
            path.unlink(missing_ok=True)  # never written by us: we rename whole files into place
    return found


def planned(plan: Plan, request: Request, completed: int, fresh: bool, used: Mapping[str, float] | None = None) -> Plan:
    """The plan after a request: `loops` more than were planned in a session at work, else more than are completed.

    `fresh`: the session has just opened. Then a request that a killed session left behind, and the one of the resume
    that follows, do not add up. Hours, trainings, dollars and tokens are that many more than are `used`. When they are
    asked for without `loops`, and the target is reached, only they say when it ends.
    """
    limits: dict[str, Any] = dict(request.changes.get("budget", {}))
    for name in AMOUNTS:
        if limits.get(name) is not None:
            limits[name] += (used or {}).get(name, 0)
    target = plan.target
    if request.loops is not None:
        target = (completed if fresh or target is None else max(target, completed)) + request.loops
    elif target is not None and completed >= target and any(limit is not None for limit in limits.values()):
        target = None
    budget = {**plan.budget.model_dump(), **limits}
    return Plan.model_validate({**plan.model_dump(), **request.changes, "budget": budget, "target": target})
