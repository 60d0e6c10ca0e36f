"""A night by one proposer: trainings one after the other, each judged by strict less-than, as `improvement` does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import optuna

from autoexp.proposers.search import Search
from autoexp.proposers.space import Axis, axes, program
from autoexp.runs.records import Best, Constant, Metric, Proposal, SetConstant, Trial
from autoexp.runs.state import RunState
from autoexp.workspace.constants import declared, replaced
from autoexp.workspace.settings import Files

Values = dict[str, Constant]
Measure = Callable[[Values], float | None]
"""The metric of the program with these constants, lower is better; None when it fails."""
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "Optuna TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "Optuna CMA-ES": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "Optuna GP": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
METHODS = ("search", "random edits", *SAMPLERS)


def with_values(text: str, values: Values) -> str:
    now = {name: constant.value for name, constant in declared(text).items()}
    for name, value in values.items():
        if value != now[name]:
            text = replaced(text, name, value)
    return text


class Shelf:
    """The texts of the programs that were trained, where a proposer looks for a repository."""

    def __init__(self, text: str) -> None:
        self.first = text
        self.texts: dict[str, str] = {}

    def put(self, values: Values) -> str:
        """The name of the program with these constants."""
        commit = f"{len(self.texts):040x}"
        self.texts[commit] = with_values(self.first, values)
        return commit

    def files(self, commit: str) -> list[str]:
        return ["train.py"]

    def show(self, commit: str, path: str) -> str:
        return self.texts[commit]


class Night:
    """What has been trained, as the state of a run."""

    def __init__(self, text: str, seed: int, measure: Measure) -> None:
        self.shelf, self.measure = Shelf(text), measure
        self.defaults: Values = {name: constant.value for name, constant in declared(text).items()}
        base = self.shelf.put({})
        self.state = RunState(
            run_id="night", branch="night", base=base, seed=seed, metric=Metric(), created_at=0.0, updated_at=0.0
        )
        self.space = self.axes(base)
        self.train(self.defaults)

    def axes(self, commit: str) -> list[Axis]:
        source: Any = self.shelf
        tip = program(source, commit, Files())
        return axes(tip, tip)

    @property
    def here(self) -> Values:
        """The constants of the best so far."""
        best = self.state.best.iteration if self.state.best else -1
        return next((dict(trial.constants) for trial in self.state.trials if trial.iteration == best), self.defaults)

    @property
    def best(self) -> float:
        return self.state.best.metric if self.state.best else float("inf")

    def train(self, values: Values, description: str = "") -> float | None:
        """Train a program and judge it; the best so far moves on when it was better."""
        state, number = self.state, len(self.state.trials)
        metric = self.measure(values)
        keep = metric is not None and metric < self.best
        commit = self.shelf.put(values) if number else state.base
        trial = Trial(
            iteration=number,
            description=description,
            proposer="night",
            base=state.tip,
            commit=commit,
            ref="",
            source=str(sorted(values.items())),
            constants=values,
            status="crash" if metric is None else "success",
            metric=metric,
            decision="crash" if metric is None else "keep" if keep else "discard",
        )
        changes: dict[str, Any] = {"trials": (*state.trials, trial), "next_number": number + 1}
        if keep and metric is not None:
            changes["best"] = Best(iteration=number, commit=commit, metric=metric)
        self.state = state.model_copy(update=changes)
        return metric


def run(method: str, text: str, seed: int, trainings: int, measure: Measure) -> Iterator[float]:
    """The best metric after each of so many trainings, the unchanged program's the first."""
    night = Night(text, seed, measure)
    yield night.best
    if method == "search":
        step: Callable[[Night], None] = _search
    elif method == "random edits":
        rng = random.Random(seed)
        step = lambda night: _edit(night, rng)  # noqa: E731
    else:
        step = _sampler(SAMPLERS[method](seed), night)
    for _ in range(trainings - 1):
        step(night)
        yield night.best


def _search(night: Night) -> None:
    settings = SimpleNamespace(files=Files())
    context: Any = SimpleNamespace(
        repository=night.shelf, settings=settings, iteration=night.state.next_number, note=lambda text, key: None
    )
    proposal: Proposal | None = Search().propose(night.state, context)
    assert proposal is not None, "the space is exhausted"
    edits = {edit.name: edit.value for edit in proposal.edits if isinstance(edit, SetConstant)}
    night.train({**night.here, **edits}, proposal.description)


def _edit(night: Night, rng: random.Random) -> None:
    """One constant of the best, anywhere in its range."""
    axis = rng.choice(night.space)
    value = rng.choice([value for value in axis.values if value != night.here[axis.name]])
    night.train({**night.here, axis.name: value})


def _sampler(sampler: optuna.samplers.BaseSampler, night: Night) -> Callable[[Night], None]:
    """Optuna over all constants at once, told of the unchanged program first. A failed training is told as failed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler)
    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for axis in night.space:
        ordered = optuna.distributions.FloatDistribution(0.0, 1.0)
        space[axis.name] = ordered if axis.ordered else optuna.distributions.CategoricalDistribution(axis.values)
    first = {
        axis.name: axis.unit(night.defaults[axis.name]) if axis.ordered else night.defaults[axis.name]
        for axis in night.space
    }
    study.add_trial(optuna.trial.create_trial(params=first, distributions=space, value=night.best))

    def step(night: Night) -> None:
        asked = study.ask(space)
        point = {
            axis.name: axis.nearest(asked.params[axis.name]) if axis.ordered else asked.params[axis.name]
            for axis in night.space
        }
        metric = night.train({**night.defaults, **point})
        if metric is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, metric)

    return step
