"""What the trials of a run say about each constant, for `search`: which moves were made, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoexp.proposers.space import Axis
from autoexp.runs.records import Constant, SetConstant
from autoexp.runs.state import Iteration, RunState

if TYPE_CHECKING:
    import optuna

HISTORY = 200
"""Trials that are looked at, the latest; all of them count as tried."""
FAILED = ("crash", "timeout", "stopped")
"""The candidate's own fault. A training that was killed or lost says nothing about it."""

SAMPLED = 100
"""Trials that are told to the estimator, the latest: telling one takes about a millisecond."""

Key = frozenset[tuple[str, Constant]]


@dataclass(frozen=True)
class Move:
    """A trial that moved one constant. `gain` is the improvement over its base, positive is better; None: it failed."""

    iteration: int
    name: str
    before: Constant
    after: Constant
    gain: float | None
    kept: bool
    alone: bool
    """Whether nothing else changed."""


class Evidence:
    """The trials of a run, seen from the tip's constants (`here`)."""

    def __init__(self, state: RunState, number: int, here: Mapping[str, Constant], space: Sequence[Axis]) -> None:
        self.state = state
        self.here = dict(here)
        self.space = {axis.name: axis for axis in space}
        trials = [trial for trial in state.trials if not trial.excused]
        recent = trials[-HISTORY:]
        best = state.best.iteration if state.best else -1
        older = [t for t in trials[:-HISTORY] if t.iteration in (0, best)]
        self.told = [trial for trial in (*older, *recent) if trial.constants]
        self.flying = [
            values
            for iteration in state.open.values()
            if iteration.number != number and (values := self._in_flight(iteration))
        ]
        tried = [trial.constants for trial in trials if trial.constants]
        self._tried: set[Key] = {frozenset(values.items()) for values in (*tried, *self.flying, self.here)}
        self._asked = {(trial.base, trial.description) for trial in trials}
        self.moves = self._moves()
        sizes = sorted(abs(move.gain) for move in self.moves if move.gain is not None)
        self.typical = sizes[len(sizes) // 2] if sizes else 0.0
        """The median size of a move's effect, in units of the metric."""

    def is_new(self, change: Mapping[str, Constant], description: str) -> bool:
        """Whether no trial and no iteration under way has these constants, and the tip has not been asked for it."""
        after = frozenset({**self.here, **change}.items())
        return after not in self._tried and (self.state.tip, description) not in self._asked

    def of(self, name: str) -> list[Move]:
        return [move for move in self.moves if move.name == name]

    def direction(self, axis: Axis, before: Constant, after: Constant) -> int:
        """1 for up, -1 for down."""
        if not axis.ordered:
            places = [axis.values.index(v) if v in axis.values else -1 for v in (before, after)]
            return 1 if places[1] > places[0] else -1
        return 1 if float(after) > float(before) else -1

    def safe(self, axis: Axis, value: Constant) -> bool:
        """False for a value at or beyond one that failed, unless one as far out has worked."""
        for move in self.of(axis.name):
            if move.gain is not None or not move.alone:
                continue
            way = self.direction(axis, move.before, move.after)
            if self._reaches(axis, value, move.after, way) and not any(
                trial.metric is not None
                and axis.name in trial.constants
                and self._reaches(axis, trial.constants[axis.name], move.after, way)
                for trial in self.told
            ):
                return False
        return True

    def _reaches(self, axis: Axis, value: Constant, mark: Constant, way: int) -> bool:
        if not axis.ordered:
            return value == mark
        return (float(value) - float(mark)) * way >= 0

    def _moves(self) -> list[Move]:
        commits = {trial.commit: trial for trial in self.state.trials}
        found = []
        for trial in self.told:
            base = commits.get(trial.base)
            failed = trial.status in FAILED
            if base is None or base.metric is None or base is trial or not (failed or trial.metric is not None):
                continue
            gain = None
            if trial.metric is not None:
                gain = base.metric - trial.metric
                gain = gain if self.state.metric.direction == "min" else -gain
            before, after = base.constants, trial.constants
            changed = [name for name in after if before.get(name) != after[name]]
            alone = len(changed) == 1 and before.keys() == after.keys()
            found += [
                Move(trial.iteration, n, before[n], after[n], gain, trial.decision == "keep", alone)
                for n in changed
                if n in before and n in self.space
            ]
        return found

    def _in_flight(self, iteration: Iteration) -> dict[str, Constant]:
        """The constants of an iteration under way, as far as its edits tell them."""
        if iteration.applied is not None and iteration.applied.constants:
            return dict(iteration.applied.constants)
        if iteration.proposal is None:
            return {}
        start = self.here
        if iteration.base != self.state.tip:
            start = next((dict(t.constants) for t in reversed(self.state.trials) if t.commit == iteration.base), {})
        edits = {e.name: e.value for e in iteration.proposal.edits if isinstance(e, SetConstant)}
        return {**start, **edits} if start and edits else {}


def suggest(evidence: Evidence, seed: int, times: int) -> Iterator[dict[str, Constant]]:
    """Points that Optuna's tree-structured Parzen estimator finds promising, from the trials told to it.

    The study is made anew for each proposal, so that the answer hangs on the run's trials and `seed` alone. A failed
    trial is told as somewhat worse than the worst, an iteration under way as running.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    state, space = evidence.state, evidence.space
    study = optuna.create_study(
        direction="minimize" if state.metric.direction == "min" else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1),
    )
    distributions = {name: _distribution(axis) for name, axis in space.items()}
    told = evidence.told[-SAMPLED:]
    metrics = [trial.metric for trial in told if trial.metric is not None] or [0.0]
    low, high = min(metrics), max(metrics)
    penalty = high + (high - low) if state.metric.direction == "min" else low - (high - low)
    complete, running = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING
    for trial in told:
        value = penalty if trial.status in FAILED else trial.metric
        if value is not None:
            study.add_trial(_told(space, distributions, trial.constants, complete, value))
    for values in evidence.flying:
        study.add_trial(_told(space, distributions, values, running))
    for _ in range(times):
        point = study.ask(distributions).params
        yield {n: axis.nearest(point[n]) if axis.ordered else point[n] for n, axis in space.items()}


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return FloatDistribution(0.0, 1.0) if axis.ordered else CategoricalDistribution(axis.values)


def _told(
    space: Mapping[str, Axis],
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
    values: Mapping[str, Constant],
    status: optuna.trial.TrialState,
    metric: float | None = None,
) -> optuna.trial.FrozenTrial:
    """A trial for the study: the place of each constant on its axis. A value that is on no axis is left out."""
    from optuna.trial import create_trial

    point: dict[str, Any] = {}
    for name, axis in space.items():
        value = values.get(name)
        place = None if value is None else axis.unit(value)
        if place is not None:
            point[name] = place if axis.ordered else value
    known = {name: distributions[name] for name in point}
    return create_trial(state=status, value=metric, params=point, distributions=known)
