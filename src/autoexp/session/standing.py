"""What a run's gain is: claimed, or audited; and its checks, for status, log and the commands that ask for them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from autoexp.runs.auditing import affordable, audit_of_best, claim
from autoexp.runs.checked import Comparison, Offer
from autoexp.runs.checks import Check, test_metric
from autoexp.runs.state import RunState

Standing = Literal["none", "claimed", "audited"]


class Retrained(BaseModel):
    """A training of a check."""

    model_config = ConfigDict(extra="forbid")
    program: str
    """Of the check: baseline, best, trial-7, without-5, simplified."""
    seed: int
    """What it was trained with."""
    status: str
    """As of a trial; 'running' while it runs, 'waiting' before."""
    metric: float | None
    """The run's."""
    test: float | None
    """Its twin on the test split."""
    seconds: float | None
    """Wall time."""
    folder: str
    """Of its attempts, relative to the run's."""


class CheckShown(BaseModel):
    """A check: the schema of `autoexp audit --json` and of the others; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    key: str
    """Its kind and number."""
    kind: str
    """audit, reproduce or ablate."""
    under_way: bool
    """Whether anything of it is still to be done."""
    done: int
    """Trainings that are over."""
    wanted: int
    """Trainings that it has."""
    finding: str | None
    """In a word; null while it is under way."""
    words: str
    """In words and numbers."""
    claimed: float | None
    """The gain that the run claimed, or the metric that it recorded."""
    comparisons: list[Comparison]
    """What the finding rests on."""
    notes: list[str]
    """What limits it."""
    offer: Offer | None
    """A simpler best."""
    trainings: list[Retrained]
    """All of them."""


def standing(state: RunState) -> Standing:
    """Whether the gain of the best is a claim of the run, or was measured again."""
    if claim(state) is None:
        return "none"
    return "audited" if audit_of_best(state) is not None else "claimed"


def in_words(state: RunState) -> str:
    """The standing of the gain in a line; '' where there is none."""
    check = audit_of_best(state)
    if claim(state) is None:
        return ""
    if check is not None and check.verdict is not None:
        return f"audited, {check.verdict.finding}: {check.verdict.words}"
    if state.check is not None and state.check.kind == "audit":
        return f"claimed; {state.check.key} is under way: {progress(state.check)}"
    why = ""
    if state.closed is not None and state.plan.audit_seeds and not affordable(state, state.plan):
        why = ": an audit would take too large a part of so short a run to be made by itself"
    return f"claimed, not audited{why}"


def progress(check: Check) -> str:
    """'2 of 6 trainings'."""
    done = sum(training.outcome is not None for training in check.trainings)
    return f"{done} of {len(check.trainings)} trainings"


def check_shown(state: RunState, check: Check) -> CheckShown:
    """All about a check."""
    verdict, test = check.verdict, test_metric(state.metric)
    trainings = []
    for training in check.trainings:
        outcome = training.outcome
        status: Any = outcome.status if outcome is not None else "running" if training.job is not None else "waiting"
        trainings.append(
            Retrained(
                program=training.program,
                seed=training.seed,
                status=status,
                metric=outcome.metric if outcome is not None else None,
                test=outcome.metrics.get(test) if outcome is not None and outcome.status == "success" else None,
                seconds=outcome.wall_seconds if outcome is not None else None,
                folder=f"checks/{check.key}/{training.folder_name}",
            )
        )
    return CheckShown(
        run_id=state.run_id,
        key=check.key,
        kind=check.kind,
        under_way=check.under_way,
        done=sum(training.outcome is not None for training in check.trainings),
        wanted=len(check.trainings),
        finding=verdict.finding if verdict is not None else None,
        words=verdict.words if verdict is not None else "",
        claimed=verdict.claimed if verdict is not None else None,
        comparisons=list(verdict.comparisons) if verdict is not None else [],
        notes=list(verdict.notes if verdict is not None else check.notes),
        offer=verdict.offer if verdict is not None else None,
        trainings=trainings,
    )
