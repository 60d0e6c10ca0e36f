"""What a trainer finds in its environment, and what of it differs from one job to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoexp.executors.processes import JOB

BY_JOB = (
    JOB,
    "AUTOEXP_REPORT",
    "AUTOEXP_SEED",
    "AUTOEXP_BUDGET_SECONDS",
    "AUTOEXP_COMMIT",
    "AUTOEXP_CHECKPOINT",
    "AUTOEXP_EVALUATE",
    "AUTOEXP_EVALUATION",
)
"""Read when a training begins, not when a module is imported: a process that stood by may be told of them late."""


def of_trainer(job: Mapping[str, Any], inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job's trainer, by its job.json and the environment of who starts it."""
    kept = {name: text for name, text in inherited.items() if name not in job["withheld"]}
    return {**kept, **{str(name): str(text) for name, text in job["env"].items()}, JOB: str(job["key"])}


def lasting(env: Mapping[str, str]) -> dict[str, str]:
    """That part of a trainer's environment which the next job has too."""
    return {name: text for name, text in env.items() if name not in BY_JOB}


def by_job(env: Mapping[str, str]) -> dict[str, str | None]:
    """The other part; None for what the job does not set."""
    return {name: env.get(name) for name in BY_JOB}
