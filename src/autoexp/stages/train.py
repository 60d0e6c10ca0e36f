"""train: start the candidate's training under a keeper, and later read how it ended."""

from __future__ import annotations

import json
from pathlib import Path

from autoexp.runs.events import Event, TrainingEnded, TrainingStarted
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.context import Context
from autoexp.spec.foreseeing import hopeless, measured, seed
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import JobSpec
from autoexp.workspace.paths import JOB_FILE, REPORT_FILE, stale
from autoexp.workspace.report import outcome
from autoexp.workspace.settings import filled


@hookimpl(trylast=True)
def autoexp_train(state: RunState, context: Context) -> Event | None:
    """TrainingStarted when there was no job yet, None while it runs, TrainingEnded when it is over.

    The attempt's folder is the job's identity: a job that is in there is never started again.
    """
    iteration = state.open[context.iteration]
    folder = context.paths.attempt(context.iteration, context.attempt)
    executor = context.executor()
    commit = iteration.again.commit if iteration.again is not None else iteration.commit
    if iteration.job is None:
        pid = None
        _put_aside_a_stranger(folder, commit)
        if not (folder / JOB_FILE).exists():
            worktree = context.paths.worktree(iteration.slot)
            context.repository.checkout(worktree, commit, context.settings.files.link, exactly=True)
            pid = executor.submit(_job(state, iteration, commit, context))
        relative = str(folder.relative_to(context.paths.folder))
        return TrainingStarted(
            iteration=context.iteration, attempt=context.attempt, folder=relative, pid=pid, slot=iteration.slot
        )
    ended = executor.poll(folder)
    if ended is None and hopeless(state, iteration, folder, context):
        executor.kill(folder)
        ended = executor.poll(folder)
    if ended is None:
        return None
    result = outcome(folder, state.metric, ended.status, ended.code, ended.wall_seconds, ended.reason)
    result = measured(result, state, folder, commit, context)
    return TrainingEnded(iteration=context.iteration, attempt=context.attempt, outcome=result)


def _put_aside_a_stranger(folder: Path, commit: str) -> None:
    """Rename the attempt's folder when its job trained another commit: a journal that was put back from an older copy
    comes to the same numbers again, with other candidates.
    """
    try:
        trained = json.loads((folder / JOB_FILE).read_bytes())["env"]["AUTOEXP_COMMIT"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or it does not say
    if trained != commit:
        folder.rename(stale(folder))


def _job(state: RunState, iteration: Iteration, commit: str, context: Context) -> JobSpec:
    folder = context.paths.attempt(context.iteration, context.attempt)
    train = context.settings.train
    command = tuple(filled(word, context.workspace) for word in train.command)
    env = {
        "AUTOEXP_REPORT": str(folder / REPORT_FILE),
        "AUTOEXP_SEED": str(seed(state, iteration)),
        "AUTOEXP_BUDGET_SECONDS": f"{train.budget_seconds:g}",
        "AUTOEXP_GPUS": str(train.gpus),
        "AUTOEXP_COMMIT": commit,
        "PYTHONUNBUFFERED": "1",
    }
    if command[0].rsplit("/", 1)[-1] == "uv":
        # in a worktree uv would make, and fill, a new environment for every candidate
        env["UV_PROJECT_ENVIRONMENT"] = str(context.workspace.root / ".venv")
    if iteration.reevaluate:
        env["AUTOEXP_CHECKPOINT"] = iteration.reevaluate
    env |= {name: filled(value, context.workspace) for name, value in train.env.items()}
    return JobSpec(
        key=f"{context.paths.folder}:{context.iteration}-{context.attempt}",
        folder=folder,
        command=command,
        cwd=context.paths.worktree(iteration.slot),
        env=env,
        timeout_seconds=train.timeout_seconds,
        locks=context.workspace.runs,
        slot=iteration.slot,
        slots=context.plan.workers,
        gpus=train.gpus,
        standby=train.standby and train.gpus == 1 and _another(state, context),
    )


def _another(state: RunState, context: Context) -> bool:
    """Whether another training is to come after this one, as far as the plan tells."""
    target = context.plan.target
    open_ended = target is None or state.next_number <= target
    return "loop" in context.plan.stages and not state.stopping and open_ended
