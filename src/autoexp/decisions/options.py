"""The options of the built-in rules, and their errors."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from autoexp.errors import UsageError, complaint

O = TypeVar("O", bound=BaseModel)  # noqa: E741
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Secondary(BaseModel):
    """What counts beside the metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_gb: NonNegativeFloat = 0.0
    """Soft limit of a trial's peak memory; 0 is none."""
    memory_price: NonNegativeFloat = 0.001
    """How much better the metric must be for each gigabyte above the limit."""
    simpler: NonNegativeInt = 0
    """Lines that a change must delete, more than it adds, to be kept although it is only as good; 0: none is."""


class NoOptions(BaseModel):
    """Of a rule that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MarginOptions(Secondary):
    """The settings' [rules.margin]."""

    by: NonNegativeFloat = 0.0
    """How much better a candidate must be, in the metric's units. 0: `sigmas` says it."""
    sigmas: NonNegativeFloat = 2.0
    """The same in standard errors of the difference, by the noise that was measured."""
    baseline: PositiveInt = 3
    """Trainings of the unchanged program at the start, to learn the noise; with `by` one is enough."""


class ConfirmOptions(Secondary):
    """The settings' [rules.confirm]."""

    baseline: PositiveInt = 3
    """Trainings of the unchanged program at the start, to learn the noise; fewer where earlier runs tell it."""
    caution: NonNegativeFloat = 0.5
    """What a keep that is no improvement costs, in mean improvements."""
    sure: Probability = 0.5
    """A candidate is kept only when the probability that it is better is at least this."""
    doubt: Probability = 0.3
    """One that is not kept is inconclusive when that probability is at least this, else discarded."""
    looks: PositiveInt = 6
    """Trainings of one candidate at most."""
    best_looks: PositiveInt = 8
    """Trainings of one best at most."""
    patience: NonNegativeFloat = 10.0
    """With how many candidates a best is expected to be compared: all of them gain when it is known better."""
    thrift: NonNegativeFloat = 0.25
    """What another look must be worth at least, in parts of what a new idea's training gains on average."""
    hopeless: Probability = 0.05
    """A training is ended early when the probability that its candidate is better falls below this; 0: never."""


def checked(kind: type[O], rule: str, given: dict[str, Any]) -> O:
    """The options of a rule. Raises UsageError for one that is not known or valid."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = f"[rules.{rule}] in autoexp.toml"
        if first["type"] != "extra_forbidden":
            raise UsageError(f"{where}: {key}{complaint(first)}", "edit autoexp.toml, then try again") from error
        near = difflib.get_close_matches(key, list(kind.model_fields), n=1, cutoff=0.4)
        others = ", ".join(kind.model_fields)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"the options are {others}"
            if others
            else "take it out: it has none"
        )
        raise UsageError(f"{where}: there is no option {key}", hint) from error
