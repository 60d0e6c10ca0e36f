"""What decision rules add to a training: its seed, a look at its loss curve while it runs, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from autoexp.runs.measuring import seed_of
from autoexp.runs.records import Evidence, Outcome, Trial
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.cases import case_of, foreseeing
from autoexp.spec.context import Context
from autoexp.workspace.files import write_atomic
from autoexp.workspace.paths import JOB_FILE, STOPPED_FILE
from autoexp.workspace.report import live_curve, machine, progress, short_curve
from autoexp.workspace.repository import matches

_LOOKED: dict[Path, int] = {}
"""How many twentieths of a training were done when it was last looked at: it is asked about once for each."""


class Stopped(BaseModel):
    """stopped.json: why a training was ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    why: str
    evidence: Evidence | None = None


def seed(state: RunState, iteration: Iteration) -> int:
    """What the training of an iteration draws its random numbers from: the same for the first of every program."""
    if iteration.again is not None:
        return iteration.again.seed
    source = iteration.applied.source if iteration.applied else ""
    return seed_of(state.seed, len({each.seed for each in state.measured(source, iteration.commit)}) + 1)


def hopeless(state: RunState, iteration: Iteration, folder: Path, context: Context) -> bool:
    """Whether the training in `folder` is to be ended: the rule said so, now or before a crash.

    Why is written down before anything is ended.
    """
    if (folder / STOPPED_FILE).exists():
        return True
    foresee = foreseeing(context.rule())
    if foresee is None or iteration.number < 1 or iteration.again is not None or iteration.reevaluate:
        return False
    fields = progress(folder)
    done = fields.get("progress")
    if not isinstance(done, int | float) or fields.get("phase") != "train" or _LOOKED.get(folder, -1) >= int(done * 20):
        return False
    _LOOKED[folder] = int(done * 20)
    curve = live_curve(folder)
    trial = _candidate(iteration)
    verdict = foresee(case_of(state, context, trial, False), seed(state, iteration), curve) if curve else None
    if verdict is None:
        return False
    write_atomic(folder / STOPPED_FILE, Stopped(why=verdict.why, evidence=verdict.evidence).model_dump_json() + "\n")
    return True


def _candidate(iteration: Iteration) -> Trial:
    """The trial as far as it is known while it trains."""
    return Trial(
        iteration=iteration.number,
        description=iteration.proposal.description if iteration.proposal else "",
        proposer=iteration.proposer,
        base=iteration.base,
        commit=iteration.commit,
        ref=iteration.ref,
        source=iteration.applied.source if iteration.applied else "",
        status="success",
    )


def measured(outcome: Outcome, state: RunState, folder: Path, commit: str, context: Context) -> Outcome:
    """The outcome with its seed, its curve and its surroundings; of one that was stopped, with why."""
    stopped = _stopped(folder)
    if outcome.status == "killed" and stopped is not None:
        changes = {"status": "stopped", "reason": stopped.why, "evidence": stopped.evidence}
        return outcome.model_copy(update={**changes, "seed": _seed(folder)})
    if outcome.status != "success":
        return outcome
    return outcome.model_copy(
        update={
            "seed": _seed(folder),
            "curve": short_curve(folder),
            "machine": machine(folder, _given(state, commit, context)),
        }
    )


def _given(state: RunState, commit: str, context: Context) -> dict[str, object]:
    """What the numbers hang on that no report says: settings, metric, and the files that no proposal may touch."""
    train, files = context.settings.train, context.settings.files
    blobs = context.repository.blobs(commit)
    frozen = {
        path: blob
        for path, blob in blobs.items()
        if (matches(path, files.frozen) if files.frozen else path.endswith(".py") and not matches(path, files.editable))
    }
    return {
        "command": train.command,
        "budget": train.budget_seconds,
        "env": train.env,
        "gpus": train.gpus,
        "metric": state.metric.name,
        "frozen": frozen,
    }


def _stopped(folder: Path) -> Stopped | None:
    try:
        return Stopped.model_validate_json((folder / STOPPED_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _seed(folder: Path) -> int | None:
    """The seed that the job was really given."""
    try:
        return int(json.loads((folder / JOB_FILE).read_bytes())["env"]["AUTOEXP_SEED"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
