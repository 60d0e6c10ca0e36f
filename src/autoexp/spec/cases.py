"""A case for a decision rule, put together from the state; and the noise that earlier runs of the workspace know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from autoexp.errors import AutoexpError
from autoexp.runs.measuring import measured
from autoexp.runs.records import Noise, Trial
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.ports import Case, Rule, Verdict

Judging = Callable[[Case], Verdict]
Foreseeing = Callable[..., "Verdict | None"]


def judging(rule: Rule) -> Judging | None:
    """A rule's `judge`; None for one that only has `decide`."""
    found: Judging | None = getattr(rule, "judge", None)
    return found


def foreseeing(rule: Rule) -> Foreseeing | None:
    """A rule's `foresee`; None for one that leaves trainings alone."""
    found: Foreseeing | None = getattr(rule, "foresee", None)
    return found


def case_of(state: RunState, context: Context, trial: Trial, may_look: bool) -> Case:
    """What the rule is asked about a trial."""
    best = state.best
    holder = next((t for t in state.trials if best is not None and t.iteration == best.iteration), None)
    return Case(
        trial=trial,
        best=best,
        trials=state.trials,
        metric=state.metric,
        candidate=state.measured(trial.source, trial.commit),
        incumbent=measured(state.measurements, holder.source, holder.commit) if holder is not None else (),
        noise=state.noise,
        may_look=may_look,
        lines=_lines(context, trial),
        memory_gb=trial.memory_gb,
    )


def _lines(context: Context, trial: Trial) -> int:
    """Lines added less lines deleted; 0 where git cannot tell."""
    if not trial.iteration or trial.base == trial.commit:
        return 0
    try:
        return context.repository.growth(trial.base, trial.commit)
    except AutoexpError:
        return 0


def earlier_noise(state: RunState, context: Context, machine: str) -> tuple[Noise, tuple[str, ...]]:
    """The noise that the workspace's other runs measured on the same `machine` (see `Outcome.machine`), and which did.

    It is read from their state.json. One that is missing or of another release tells nothing, and stops nobody.
    """
    squares, freedom, names = 0.0, 0, []
    for name in context.workspace.run_ids() if machine else ():
        if name == state.run_id:
            continue
        try:
            fields: dict[str, Any] = json.loads(context.workspace.run(name).state.read_bytes())
            known = Noise.model_validate(fields["noises"][machine])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            continue
        if known.freedom:
            squares, freedom = squares + known.squares, freedom + known.freedom
            names.append(name)
    return Noise(squares=squares, freedom=freedom), tuple(names)
