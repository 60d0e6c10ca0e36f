"""Who evaluates a training: the harness's judge where that can be, else the trainer itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoexp.errors import PreconditionError
from autoexp.spec.ports import Evaluation
from autoexp.workspace.constants import declared
from autoexp.workspace.contract import can_be_judged, script_of
from autoexp.workspace.seals import ensure_key

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context
    from autoexp.spec.ports import Executor

METRIC = "val_bpb"
"""What the judge computes."""


def evaluates(executor: Executor) -> bool:
    """Whether an executor can have trainings judged; those that say nothing cannot."""
    return bool(getattr(executor, "evaluates", False))


def evaluation(
    state: RunState, context: Context, commit: str, source: str, checkpoint: str | None = None
) -> Evaluation | None:
    """How the training of `commit` is to be judged, or the evaluation of `checkpoint`; None: by the trainer itself.

    It is settled by the program that the run began with: a candidate that cannot be judged does not judge itself, it
    fails. Raises PreconditionError where the settings want the judge and he cannot be had.
    """
    wanted = context.settings.train.evaluation
    if wanted == "trainer":
        return None
    why, script = _obstacle(state, context)
    if why:
        if wanted == "judge":
            raise PreconditionError(
                f'train.evaluation is "judge", and {why}', 'set evaluation = "auto" under [train], then: autoexp resume'
            )
        return None
    constant = declared(context.repository.show(state.base, script) or "").get("PROFILE")
    ensure_key(context.paths.seal_key)
    return Evaluation(
        program=script,
        commit=commit,
        source=source,
        repository=context.workspace.root,
        key=context.paths.seal_key,
        profile=str(constant.value) if constant is not None else "cpu",
        seconds=context.settings.train.evaluation_seconds,
        checkpoint=Path(checkpoint) if checkpoint else None,
    )


def obstacle(state: RunState, context: Context) -> str:
    """Why the judge cannot evaluate the trainings of this run; '' when he can."""
    return _obstacle(state, context)[0]


def _obstacle(state: RunState, context: Context) -> tuple[str, str]:
    """(why not, the path of the program)."""
    if not evaluates(context.executor()):
        return f"the executor {context.plan.executor!r} cannot have trainings judged", ""
    if state.metric.name != METRIC:
        return f"the metric {state.metric.name!r} is not {METRIC}", ""
    command = context.settings.train.command
    script = script_of(("python" if command[0] == "{python}" else command[0], *command[1:]))
    if script is None:
        return "the training command is not like `python train.py`", ""
    if not can_be_judged(context.repository.show(state.base, script) or ""):
        return f"{script} does not keep the contract (docs/reference/trainer.md)", ""
    return "", script
