"""train: start the candidate's training under a keeper, and later read how it ended."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from autoexp.runs.events import Event, TrainingEnded, TrainingStarted
from autoexp.runs.fairness import over_budget, over_evaluated
from autoexp.runs.records import Outcome, Taken
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.context import Context
from autoexp.spec.foreseeing import hopeless, measured, seed
from autoexp.spec.judging import evaluation, unjudged
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Evaluation, Exit, Isolation, JobSpec, missing_isolation, require_isolation
from autoexp.workspace.candidate import editable_texts
from autoexp.workspace.files import tail
from autoexp.workspace.paths import CHECKPOINT_FILE, JOB_FILE, LOG_FILE, REPORT_FILE, stale
from autoexp.workspace.report import Judged, checked, checkpoint_mb, outcome
from autoexp.workspace.settings import filled
from autoexp.workspace.sight import by_default, ours, sight

MISSED = re.compile(
    r"Read-only file system|Network is unreachable|name resolution|Name or service not known|No such file or directory"
    r"|FileNotFoundError|ModuleNotFoundError|Permission denied"
)
"""Of a training's last words, when it may have missed what isolation hides."""
SPINS = "10000"
"""How often a thread of OpenMP looks for work before it sleeps. Where others want the processor too, threads that spin
as long as they do by default keep it from each other: a training of two threads beside a busy one did 4,900 tokens a
second, and with this 14,400; alone 51,600 and 51,100.
"""


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
        source = iteration.applied.source if iteration.applied else ""
        if iteration.again is not None:
            source = iteration.again.source
        why_unjudged = unjudged(state, context)
        judged = None
        if not why_unjudged:
            judged = evaluation(state, context, commit, source, iteration.reevaluate)
        pid, why_not = None, _unisolated(state, context)
        _put_aside_a_stranger(folder, commit)
        if not (folder / JOB_FILE).exists():
            worktree = context.paths.worktree(iteration.slot)
            context.repository.checkout(worktree, commit, context.settings.files.link, exactly=True)
            isolation = _isolation(iteration, context, judged is not None) if why_not is None else None
            pid = executor.submit(_job(state, iteration, commit, context, isolation, judged))
        return TrainingStarted(
            iteration=context.iteration,
            attempt=context.attempt,
            folder=str(folder.relative_to(context.paths.folder)),
            pid=pid,
            slot=iteration.slot,
            judged=judged is not None,
            why_not_judged=why_unjudged,
            isolated=why_not is None,
            why_not_isolated=why_not or "",
        )
    ended = executor.poll(folder)
    if ended is None and hopeless(state, iteration, folder, context):
        executor.kill(folder)
        ended = executor.poll(folder)
    if ended is None:
        return None
    expected = None
    if iteration.job.judged:
        checkpoint = Path(iteration.reevaluate) if iteration.reevaluate else folder / CHECKPOINT_FILE
        expected = Judged(context.paths.seal_key, _key(context), commit, checkpoint)
    result = outcome(folder, state.metric, ended.status, ended.code, ended.wall_seconds, ended.reason, expected)
    result = _measured(state, iteration, context, result, ended)
    result = measured(result, state, folder, commit, context)
    return TrainingEnded(iteration=context.iteration, attempt=context.attempt, outcome=result)


def _measured(state: RunState, iteration: Iteration, context: Context, result: Outcome, ended: Exit) -> Outcome:
    """The outcome with what was seen of it from outside; no success when that says that it was another training."""
    folder, budget = context.paths.attempt(context.iteration, context.attempt), context.settings.train.budget_seconds
    taken = Taken(wall_seconds=ended.wall_seconds, cpu_seconds=ended.cpu_seconds, gpu_seconds=ended.gpu_seconds)
    over = ""
    if iteration.reevaluate is not None:  # the training was another attempt's
        over = next((failure.over_budget for failure in iteration.failures if failure.over_budget), "")
    elif iteration.number:
        over = over_budget(taken, state.baseline_taken, budget)
    if iteration.number and not over:
        splits = context.settings.train.env.get("AUTOEXP_EVALUATE", "val").count(",") + 1
        over = over_evaluated(result.evaluation_taken, state.baseline_evaluation, budget, splits)
    result = result.model_copy(
        update={
            **taken.model_dump(exclude={"wall_seconds"}),
            "isolation": ended.isolation,
            "over_budget": over,
            "host_memory_gb": ended.host_memory_gb,
            "checkpoint_mb": checkpoint_mb(folder),
        }
    )
    if over and result.status == "success":
        return result.model_copy(update={"status": "crash", "metric": None, "reason": over})
    trained = folder if iteration.reevaluate is None else Path(iteration.reevaluate).parent
    result = checked(result, trained, _asked_for(trained))
    words = f"{result.reason}\n{tail(folder / LOG_FILE, 16384)}"
    if ended.isolation and result.status == "crash" and MISSED.search(words):
        hint = f"{result.reason} (it is isolated, by {ended.isolation}: train.readable shows it more)"
        result = result.model_copy(update={"reason": hint})
    return result


def _asked_for(folder: Path) -> dict[str, float]:
    """What the training's report must not contradict: the seed and the budget that its job was given."""
    try:
        env = json.loads((folder / JOB_FILE).read_bytes())["env"]
        names = {"seed": "AUTOEXP_SEED", "budget_seconds": "AUTOEXP_BUDGET_SECONDS"}
        return {name: float(env[variable]) for name, variable in names.items() if variable in env}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


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


def _key(context: Context) -> str:
    """Of the attempt's job: no other has it, in this run or in any."""
    return f"{context.paths.folder}:{context.iteration}-{context.attempt}"


def _job(
    state: RunState,
    iteration: Iteration,
    commit: str,
    context: Context,
    isolation: Isolation | None,
    judged: Evaluation | None,
) -> JobSpec:
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
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        env["GOMP_SPINCOUNT"] = SPINS
    if command[0].rsplit("/", 1)[-1] == "uv":
        # in a worktree uv would make, and fill, a new environment for every candidate
        env["UV_PROJECT_ENVIRONMENT"] = str(context.workspace.root / ".venv")
    if judged is not None:
        env["AUTOEXP_EVALUATION"] = "judge"
    if iteration.reevaluate:
        env["AUTOEXP_CHECKPOINT"] = iteration.reevaluate
    env |= {name: filled(value, context.workspace) for name, value in train.env.items()}
    return JobSpec(
        key=_key(context),
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
        evaluation=judged,
        isolation=isolation,
    )


def _unisolated(state: RunState, context: Context) -> str | None:
    """Why a training is not isolated; None when it is to be. Raises PreconditionError where it must be and cannot."""
    wanted, files = context.settings.train.isolation, context.settings.files
    if wanted == "off":
        return 'train.isolation is "off"'
    if wanted == "auto":
        sources = editable_texts(context.repository, state.base, files.editable, files.frozen).values()
        if not ours(sources):
            return 'the program is not made with autoexp\'s trainer (train.isolation = "required" isolates any)'
        if not by_default(sources):
            return 'on a GPU isolation is to be asked for (train.isolation = "required")'
    if wanted == "required":
        require_isolation(context.executor())
    return missing_isolation(context.executor())


def _isolation(iteration: Iteration, context: Context, judged: bool) -> Isolation:
    """What the training is confined to."""
    settings, train = context.settings, context.settings.train
    seen = sight(context.workspace, context.paths, settings, context.paths.worktree(iteration.slot), judged)
    earlier = (Path(iteration.reevaluate),) if iteration.reevaluate else ()
    return Isolation(
        readable=(*seen.readable, *earlier),
        hidden=seen.hidden,
        writable=seen.writable,
        copied=seen.copied,
        keeps_copies=iteration.number == 0,  # the person's own program: no candidate leaves anything for another
        network=train.network,
        max_processes=train.max_processes,
        max_disk_bytes=int(train.max_disk_gb * (1 << 30)),
        max_memory_bytes=int(train.max_memory_gb * (1 << 30)) if train.max_memory_gb is not None else None,
    )


def _another(state: RunState, context: Context) -> bool:
    """Whether another training is to come after this one, as far as the plan tells."""
    target = context.plan.target
    open_ended = target is None or state.next_number <= target
    return "loop" in context.plan.stages and not state.stopping and open_ended
