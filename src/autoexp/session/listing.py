"""All runs of a workspace, a few facts of each. Reads; changes nothing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from autoexp.errors import JournalError
from autoexp.session.status import status
from autoexp.workspace.paths import Workspace


class Listed(BaseModel):
    """A run: the schema of `autoexp runs --json`; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    created_at: float
    """Seconds since the epoch."""
    live: bool
    """Whether a session works on it right now."""
    branch: str
    iterations_completed: int
    target: int | None
    """How many were asked for; null: as many as the budget lasts."""
    metric: str
    """The metric's name."""
    best: float | None
    """The best so far; null when there is none."""
    ended: str | None
    """How the last session ended, when none is live; of a journal that cannot be read, why."""


def listed(workspace: Workspace) -> list[Listed]:
    """The runs of the workspace, the oldest first."""
    return [_listed(workspace, created, name) for created, name in workspace.created()]


def _listed(workspace: Workspace, created: float, name: str) -> Listed:
    try:
        report = status(workspace.run(name))
    except JournalError as error:
        unknown = {"live": False, "branch": "", "iterations_completed": 0, "target": None, "metric": "", "best": None}
        return Listed.model_validate({"run_id": name, "created_at": created, "ended": str(error), **unknown})
    return Listed(
        run_id=name,
        created_at=created,
        live=report.live,
        branch=report.branch,
        iterations_completed=report.iterations_completed,
        target=report.target,
        metric=report.metric,
        best=report.best.metric if report.best is not None else None,
        ended=report.ended,
    )
