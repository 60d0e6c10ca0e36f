"""The nouns of checks: programs that are trained again, what came of them beside each other, the verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat

from autoexp.runs.records import Record

CheckKind = Literal["audit", "reproduce", "ablate"]
Finding = Literal["confirmed", "unclear", "refuted", "reproduced", "different", "measured", "failed"]


class Checked(Record):
    """A program that a check trains, once with each seed."""

    name: str
    """What it is in this check: baseline, best, trial-7, without-5, simplified."""
    commit: str
    """What is trained."""
    iteration: int
    """Whose commit it is, or from whose it was made."""
    source: str = ""
    """Its source hash."""
    description: str = ""
    """The change, in words."""
    recorded: FiniteFloat | None = None
    """The metric that the run has for it; null when it never trained it."""
    removed: tuple[int, ...] = ()
    """The iterations whose changes were taken out of it."""


class Comparison(Record):
    """Two programs of a check, by one metric. A gain is positive when `of` is the better one."""

    of: str
    """A program's name."""
    against: str
    """Another's."""
    metric: str
    """The run's metric, or its twin on the test split."""
    values: tuple[FiniteFloat, ...]
    """Of the trainings of `of`, in the order of the seeds."""
    others: tuple[FiniteFloat, ...]
    """Of those of `against`."""
    gain: FiniteFloat
    """By how much the mean of the one is better than that of the other."""
    low: FiniteFloat | None
    """Lower end of the 95 % confidence interval of the gain, by bootstrap; null where a side has one training."""
    high: FiniteFloat | None
    """Its upper end."""
    p: FiniteFloat
    """One-sided p value of the exact Mann-Whitney test that `of` is the better one."""
    least_p: FiniteFloat
    """The smallest that so few trainings can give."""


class Offer(Record):
    """A best without the changes that carry nothing."""

    commit: str
    """The program."""
    ref: str
    """What holds it."""
    of: str
    """The best that it was made from."""
    removed: tuple[int, ...]
    """The iterations whose changes are not in it."""
    metric: FiniteFloat
    """The mean over its trainings."""
    before: FiniteFloat
    """That of the best with the same seeds."""


class Verdict(Record):
    """What a check found."""

    finding: Finding
    """In a word."""
    words: str
    """In words and numbers."""
    comparisons: tuple[Comparison, ...] = ()
    """What it rests on."""
    claimed: FiniteFloat | None = None
    """The gain, or for a reproduction the metric, that the run had."""
    notes: tuple[str, ...] = ()
    """What limits it."""
    offer: Offer | None = None
    """A simpler best, of an ablation."""
