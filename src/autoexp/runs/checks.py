"""A check under way and done: which trainings it wants, and what each of its events does to it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from autoexp.errors import JournalError
from autoexp.runs import events as ev
from autoexp.runs.checked import Checked, CheckKind, Verdict
from autoexp.runs.records import Metric, Outcome, Record


class CheckTraining(Record):
    """One training of a check."""

    program: str
    """The name of what is trained."""
    seed: int
    """AUTOEXP_SEED."""
    attempt: int = 1
    """Counted from 1: a training that was lost is done again."""
    slot: int = 0
    """Its worktree and device, its own while it runs."""
    job: ev.TrainingStarted | None = None
    """Set while it runs."""
    failures: tuple[Outcome, ...] = ()
    """Of earlier attempts."""
    reevaluate: str | None = None
    """Checkpoint that this attempt evaluates instead of training."""
    outcome: Outcome | None = None
    """Set when it is over."""

    @property
    def folder_name(self) -> str:
        """Of the folder of its attempts."""
        return f"{self.program}-seed{self.seed}"


class Check(Record):
    """Programs that are trained again, and what came of it."""

    key: str
    """Its kind, and a number."""
    kind: CheckKind
    """What it asks."""
    number: int
    """Of all checks of the run, counted from 1."""
    at: float
    """When it was opened, in seconds since the epoch."""
    programs: tuple[Checked, ...]
    """What is trained."""
    seeds: tuple[int, ...]
    """With each of them."""
    trainings: tuple[CheckTraining, ...]
    """In the order in which they are begun: all programs with the first seed, then with the next."""
    auto: bool = False
    """Opened at the end of a run, by itself."""
    early: bool = False
    """Over as soon as its first training comes to exactly what was recorded."""
    keep: bool = False
    """Whether a simpler best becomes the run's in any case."""
    notes: tuple[str, ...] = ()
    """What it cannot look at."""
    verdict: Verdict | None = None
    """Set when it is closed."""
    superseded: bool = False
    """Another check was asked for before it was through; it is not gone on with."""

    @property
    def under_way(self) -> bool:
        return self.verdict is None and not self.superseded

    @property
    def running(self) -> list[int]:
        """The places of the trainings that were begun and are not over."""
        return [n for n, training in enumerate(self.trainings) if training.job is not None]

    @property
    def enough(self) -> bool:
        """Whether nothing more is to be trained."""
        if not self.running and self.early and self.trainings:
            first, recorded = self.trainings[0].outcome, self.programs[0].recorded
            if first is not None and first.metric is not None and first.metric == recorded:
                return True
        return all(training.outcome is not None for training in self.trainings)

    def next(self, workers: int) -> list[int]:
        """The places of the trainings that may begin, when so many may run at a time."""
        if self.enough:
            return []
        if self.early and self.trainings[0].outcome is None:
            workers = 1  # the others may not be wanted
        waiting = [n for n, training in enumerate(self.trainings) if training.job is None and training.outcome is None]
        return waiting[: max(0, workers - len(self.running))]

    @property
    def free_slot(self) -> int:
        taken = {self.trainings[place].slot for place in self.running}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def program(self, name: str) -> Checked | None:
        return next((program for program in self.programs if program.name == name), None)

    def values(self, program: str, metric: str = "") -> list[float]:
        """What its trainings came to, in the order of the seeds: the run's metric, or another that is in the report."""
        outcomes = [t.outcome for t in self.trainings if t.program == program and t.outcome is not None]
        good = [outcome for outcome in outcomes if outcome.status == "success"]
        numbers = [outcome.metrics.get(metric) if metric else outcome.metric for outcome in good]
        return [number for number in numbers if number is not None]

    @property
    def failed(self) -> list[CheckTraining]:
        """The trainings that came to no number."""
        return [t for t in self.trainings if t.outcome is not None and t.outcome.metric is None]

    @property
    def seconds(self) -> float:
        """Wall time of its trainings, one after the other."""
        return sum(t.outcome.wall_seconds or 0.0 for t in self.trainings if t.outcome is not None)


def test_metric(metric: Metric) -> str:
    """The name under which a trainer reports the run's metric on the test split: val_bpb is test_bpb there."""
    return f"test_{metric.name.removeprefix('val_')}"


def opened(event: ev.CheckOpened, number: int) -> Check:
    return Check(
        key=event.key,
        kind=event.kind,
        number=number,
        at=event.at,
        programs=event.programs,
        seeds=event.seeds,
        trainings=tuple(CheckTraining(program=p.name, seed=seed) for seed in event.seeds for p in event.programs),
        auto=event.auto,
        early=event.early,
        keep=event.keep,
        notes=event.notes,
    )


def grown(check: Check, event: ev.CheckGrown) -> Check:
    more = tuple(CheckTraining(program=event.program.name, seed=seed) for seed in check.seeds)
    changes = {"programs": (*check.programs, event.program), "trainings": (*check.trainings, *more)}
    return check.model_copy(update=changes)


def started(check: Check, event: ev.CheckStarted) -> Check:
    changes = {"job": event.job, "attempt": event.job.attempt, "slot": event.job.slot}
    return _changed(check, event.place, changes)


def ended(check: Check, event: ev.CheckEnded) -> Check:
    training = _training(check, event.place)
    if event.action == "proceed":
        return _changed(check, event.place, {"job": None, "outcome": event.outcome})
    again = {
        "job": None,
        "attempt": training.attempt + 1,
        "failures": (*training.failures, event.outcome),
        # an evaluation that was lost is one again: its training is done
        "reevaluate": event.outcome.checkpoint if event.action == "reevaluate" else training.reevaluate,
    }
    return _changed(check, event.place, again)


def _training(check: Check, place: int) -> CheckTraining:
    if not 0 <= place < len(check.trainings):
        raise JournalError(f"{check.key} has no training {place}", "autoexp log")
    return check.trainings[place]


def _changed(check: Check, place: int, changes: Mapping[str, object]) -> Check:
    changed = _training(check, place).model_copy(update=changes)
    trainings = (*check.trainings[:place], changed, *check.trainings[place + 1 :])
    return check.model_copy(update={"trainings": trainings})
