"""From settings and flags to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from autoexp.errors import UsageError, must
from autoexp.plugins.manager import parts, plugin_manager
from autoexp.runs import budget
from autoexp.runs.plan import select
from autoexp.runs.records import Budget, Plan, shares
from autoexp.session.foresight import refuse_endless
from autoexp.spec.context import pick
from autoexp.workspace.settings import Settings

ANY_SHARE = 1e9
"""Of the time that a run has worked; its audit may take as long as it takes. JSON has no word for infinity."""
_KINDS = {
    "proposer": ("proposers", "proposer"),
    "executor": ("executors", "executor"),
    "rule": ("rules", "decision rule"),
}


def first_plan(
    settings: Settings, stages: tuple[tuple[str, ...], tuple[str, ...]], loops: int | None, changes: Mapping[str, Any]
) -> Plan:
    """The plan of a new run. Without `loops` a budget decides how many there are; without one there are none.

    Raises UsageError for a part that no plugin provides, and for a budget that cannot end the run.
    """
    named = {"proposer": _proposer(settings), "executor": settings.run.executor, "rule": settings.run.rule}
    limits = {**settings.budget.model_dump(), **changes.get("budget", {})}
    audit = {"audit_seeds": settings.audit.seeds if settings.audit.auto else 0, "audit_share": settings.audit.share}
    fields = {**named, "workers": settings.run.workers, **audit, **changes, "budget": limits}
    checked(settings, fields)
    plan = Plan.model_validate({"stages": stages[0], "loop": stages[1], "target": loops or 0, **fields})
    if loops is not None or not budget.limited(plan):
        return plan
    plan = plan.model_copy(update={"target": None})
    refuse_endless(plan, parts(plugin_manager(), "agents", settings.agents))
    return plan


def auditing(settings: Settings, wanted: bool | None) -> dict[str, Any]:
    """The plan's fields that --audit and --no-audit set; none without either."""
    if wanted is None:
        return {}
    return {"audit_seeds": settings.audit.seeds, "audit_share": ANY_SHARE} if wanted else {"audit_seeds": 0}


def limits(given: Mapping[str, str | None]) -> dict[str, Any]:
    """The limits that flags set, by name; one that they lift is None.

    Raises UsageError for what is no such limit.
    """
    wanted = {name: text for name, text in given.items() if text is not None}
    try:
        return Budget.model_validate(wanted).model_dump(include=set(wanted))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        flag = f"--{name.replace('_', '-')}"
        example = {"max_hours": "8", "max_cost": "5.00", "until": "0.95", "max_tokens": "1000000"}.get(name, "20")
        raise UsageError(
            f"{flag} {wanted[name]}: it {must(first['msg'])} (or 'none')", f"autoexp start {flag} {example}"
        ) from error


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
        if field == "proposer":  # it may be needed in the middle of the night
            pick(known, settings.run.fallback, words)


def mixed(proposer: str) -> list[str]:
    """The names in `--proposer`. Raises UsageError for what is neither a name nor a mix."""
    try:
        return list(shares(proposer))
    except ValueError as error:
        raise UsageError(f"proposer {proposer}: {error}", "autoexp start --proposer opencode=0.7,search=0.3") from error


def stage_changes(
    only: str | None, loop_only: str | None, from_stage: str | None, to_stage: str | None
) -> dict[str, Any]:
    """The plan's fields that the stage flags of a resume set; without any, all stages again.

    Raises UsageError as `runs.plan.select` does.
    """
    top, loop = select(only, loop_only, from_stage, to_stage)
    return {"stages": top, "loop": loop}
