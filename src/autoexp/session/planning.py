"""From settings and flags to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoexp.plugins.manager import parts, plugin_manager
from autoexp.runs.plan import select
from autoexp.runs.records import Plan
from autoexp.spec.context import pick
from autoexp.workspace.settings import Settings

_KINDS = {
    "proposer": ("proposers", "proposer"),
    "executor": ("executors", "executor"),
    "rule": ("rules", "decision rule"),
}


def first_plan(
    settings: Settings, stages: tuple[tuple[str, ...], tuple[str, ...]], loops: int, changes: Mapping[str, Any]
) -> Plan:
    """The plan of a new run. Raises UsageError for a part that no plugin provides."""
    named = {"proposer": settings.run.proposer, "executor": settings.run.executor, "rule": settings.run.rule}
    fields = {**named, "workers": settings.run.workers, **changes}
    checked(settings, fields)
    return Plan.model_validate({"stages": stages[0], "loop": stages[1], "target": loops, **fields})


def checked(settings: Settings, changes: Mapping[str, Any]) -> None:
    """Raise UsageError, naming the valid ones, for a proposer, executor or rule that no plugin provides."""
    wanted = {field: changes[field] for field in _KINDS if field in changes}
    if not wanted:
        return
    manager = plugin_manager()
    for field, name in wanted.items():
        kind, words = _KINDS[field]
        pick(parts(manager, kind, getattr(settings, kind)), str(name), words)


def stage_changes(
    only: str | None, loop_only: str | None, from_stage: str | None, to_stage: str | None
) -> dict[str, Any]:
    """The plan's fields that the stage flags of a resume set; without any, all stages again.

    Raises UsageError as `runs.plan.select` does.
    """
    top, loop = select(only, loop_only, from_stage, to_stage)
    return {"stages": top, "loop": loop}
