"""Who evaluates a training: the harness's judge where that can be, else the trainer itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoexp.errors import PreconditionError
from autoexp.spec.ports import Evaluation
from autoexp.workspace.constants import declared
from autoexp.workspace.contract import can_be_judged, script_of
from autoexp.workspace.seals import ensure_key
from autoexp.workspace.sight import BY_DEFAULT

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context
    from autoexp.spec.ports import Executor

METRIC = "val_bpb"
"""What the judge computes."""


def evaluates(executor: Executor) -> bool:
    """Whether an executor can have trainings judged; those that say nothing cannot."""
    return bool(getattr(executor, "evaluates", False))


def unjudged(state: RunState, context: Context) -> str:
    """Why the trainings of this run are evaluated by the trainer itself; '' when the judge evaluates them.

    It is settled by the program that the run began with: a candidate that cannot be judged does not judge itself, it
    fails. Raises PreconditionError where the settings want the judge and it cannot be had.
    """
    wanted = context.settings.train.evaluation
    if wanted == "trainer":
        return 'train.evaluation is "trainer"'
    why, _, profile = _looked_at(state, context)
    if why and wanted == "judge":
        raise PreconditionError(
            f'train.evaluation is "judge", and {why}', 'set evaluation = "auto" under [train], then: autoexp resume'
        )
    if not why and wanted == "auto" and profile not in BY_DEFAULT:
        return 'on a GPU the judge is to be asked for (train.evaluation = "judge")'
    return why


def evaluation(
    state: RunState, context: Context, commit: str, source: str, checkpoint: str | None = None
) -> Evaluation:
    """How the training of `commit` is to be judged, or `checkpoint` without one, where `unjudged` gives no reason."""
    _, script, profile = _looked_at(state, context)
    ensure_key(context.paths.seal_key)
    return Evaluation(
        program=script,
        commit=commit,
        source=source,
        repository=context.workspace.root,
        key=context.paths.seal_key,
        profile=profile,
        seconds=context.settings.train.evaluation_seconds,
        splits=tuple(context.settings.train.env.get("AUTOEXP_EVALUATE", "val").split(",")),
        checkpoint=Path(checkpoint) if checkpoint else None,
    )


def _looked_at(state: RunState, context: Context) -> tuple[str, str, str]:
    """(why the judge cannot evaluate the trainings of this run, the path of its program, that one's profile)."""
    if not evaluates(context.executor()):
        return f"the executor {context.plan.executor!r} cannot have trainings judged", "", ""
    if state.metric.name != METRIC:
        return f"the metric {state.metric.name!r} is not {METRIC}", "", ""
    command = context.settings.train.command
    script = script_of(("python" if command[0] == "{python}" else command[0], *command[1:]))
    if script is None:
        return "the training command is not like `python train.py`", "", ""
    text = context.repository.show(state.base, script) or ""
    if not can_be_judged(text):
        return f"{script} does not keep the contract for it", "", ""
    constant = declared(text).get("PROFILE")
    return "", script, str(constant.value) if constant is not None else BY_DEFAULT[0]
