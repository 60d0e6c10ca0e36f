"""From settings and flags to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoexp.errors import UsageError
from autoexp.plugins.manager import parts, plugin_manager
from autoexp.runs.plan import select
from autoexp.runs.records import Plan, shares
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
    named = {"proposer": _proposer(settings), "executor": settings.run.executor, "rule": settings.run.rule}
    fields = {**named, "workers": settings.run.workers, **changes}
    checked(settings, fields)
    return Plan.model_validate({"stages": stages[0], "loop": stages[1], "target": loops, **fields})


def _proposer(settings: Settings) -> str:
    mix = settings.run.proposers
    return ",".join(f"{name}={share:g}" for name, share in mix.items()) if mix else settings.run.proposer


def checked(settings: Settings, changes: Mapping[str, Any]) -> None:
    """Raise UsageError, naming the valid ones, for a proposer, executor or rule that no plugin provides."""
    wanted = {field: changes[field] for field in _KINDS if field in changes}
    if not wanted:
        return
    manager = plugin_manager()
    for field, value in wanted.items():
        kind, words = _KINDS[field]
        known = parts(manager, kind, getattr(settings, kind))
        for name in mixed(str(value)) if field == "proposer" else [str(value)]:
            pick(known, name, words)


def mixed(proposer: str) -> list[str]:
    """The names in `--proposer`. Raises UsageError for what is neither a name nor a mix."""
    try:
        return list(shares(proposer))
    except ValueError as error:
        raise UsageError(f"--proposer: {error}", "autoexp start --proposer opencode=0.7,search=0.3") from error


def stage_changes(
    only: str | None, loop_only: str | None, from_stage: str | None, to_stage: str | None
) -> dict[str, Any]:
    """The plan's fields that the stage flags of a resume set; without any, all stages again.

    Raises UsageError as `runs.plan.select` does.
    """
    top, loop = select(only, loop_only, from_stage, to_stage)
    return {"stages": top, "loop": loop}
