"""Decisions about real trainings: the product's rules, asked about edits whose effect is known.

A case is drawn from the pool: some order of the seeds, in which the unchanged program and the candidate are measured
as often as the rule asks for it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoexp.decisions.confirm import Confirm
from autoexp.decisions.improvement import Improvement
from autoexp.decisions.margin import Margin
from autoexp.decisions.reckoning import leads
from autoexp.runs.measuring import repeats
from autoexp.runs.records import Best, Evidence, Measurement, Metric, Noise, Trial
from autoexp.spec.cases import judging
from autoexp.spec.ports import Case, Rule
from autoexp.testing import trial
from deciding.trainings import Pool

RULES: Mapping[str, Rule] = {
    "improvement": Improvement(),
    "margin, 2 sigmas": Margin(sigmas=2.0),
    "confirm": Confirm(),
}
BASELINE = 3
"""Trainings of the unchanged program before the first case."""


@dataclass
class Asked:
    """What a rule said of one kind of edit."""

    cases: int = 0
    keeps: int = 0
    trainings: int = 0

    @property
    def rate(self) -> float:
        return self.keeps / self.cases

    @property
    def error(self) -> float:
        return math.sqrt(max(self.rate * (1.0 - self.rate), 1e-9) / self.cases)


def asked(pool: Pool, kind: str, rule: Rule, cases: int, seed: int) -> Asked:
    """The rule about so many cases with a candidate of this kind: `same` or `good`."""
    rng = random.Random(seed)
    seeds = sorted(s for name, s in pool if name == "base")
    names = sorted({name for name, _ in pool if name.split("-")[0] == kind})
    past = earlier(pool)
    found = Asked()
    for _ in range(cases):
        name = rng.choice(names)
        order = [s for s in rng.sample(seeds, len(seeds)) if (name, s) in pool]
        kept, trainings = _one(pool, name, order, rule, past)
        found.cases, found.keeps, found.trainings = found.cases + 1, found.keeps + kept, found.trainings + trainings
    return found


def _one(pool: Pool, name: str, order: Sequence[int], rule: Rule, past: Sequence[Trial]) -> tuple[bool, int]:
    """Whether it was kept, and after how many trainings of it and further ones of the best."""
    counts = {"base": BASELINE, name: 1}
    judge = judging(rule)
    while True:
        mine, theirs = (_measured(pool, program, order[: counts[program]]) for program in (name, "base"))
        baseline = trial(0, _mean(theirs), decision="keep")
        candidate = trial(len(past) + 1, _mean(mine))
        best = Best(iteration=0, commit=baseline.commit, metric=_mean(theirs) if judge else theirs[0].value)
        if judge is None:
            return rule.decide(candidate, best, past, Metric())[0] == "keep", 1
        room = max(counts.values()) < len(order)
        verdict = judge(
            Case(candidate, best, (baseline, *past), Metric(), mine, theirs, repeats([*mine, *theirs]), may_look=room)
        )
        if verdict.look is None or not room:
            return verdict.decision == "keep", counts[name] + counts["base"] - BASELINE
        counts["base" if verdict.look == "incumbent" else name] += 1


def _measured(pool: Pool, name: str, seeds: Sequence[int]) -> list[Measurement]:
    found = [pool[name, seed] for seed in seeds]
    return [
        Measurement(iteration=0, attempt=1, commit=name, source=name, seed=t.seed, value=t.value, curve=t.curve)
        for t in found
    ]


def _mean(measurements: Sequence[Measurement]) -> float:
    return sum(each.value for each in measurements) / len(measurements)


def earlier(pool: Pool) -> list[Trial]:
    """The single constants that were moved, as the trials of a run that has gone on for a while."""
    base = _measured(pool, "base", sorted(s for name, s in pool if name == "base"))
    noise: Noise = repeats(base)
    assert noise.deviation is not None
    found: dict[str, Trial] = {}
    for (name, seed), each in pool.items():
        rival = pool.get(("base", seed))
        if name.startswith("edit") and name not in found and rival is not None:
            numbers = Evidence(
                difference=each.value - _mean(base), error=noise.deviation * math.sqrt(1.0 + 1.0 / BASELINE),
                candidate=1, best=BASELINE, lead=leads(each.curve, rival.curve),
            )  # fmt: skip
            found[name] = trial(len(found) + 1, each.value, decision="discard", evidence=numbers)
    return list(found.values())


def stopped(pool: Pool) -> dict[str, tuple[int, int]]:
    """(stopped, all) of the trainings of each kind, had they been looked at as the product does while they ran."""
    rule, seeds = Confirm(), sorted(s for name, s in pool if name == "base")
    base = _measured(pool, "base", seeds)
    past, noise = earlier(pool), repeats(base)
    baseline = trial(0, _mean(base), decision="keep")
    best = Best(iteration=0, commit=baseline.commit, metric=_mean(base))
    counts: dict[str, tuple[int, int]] = {}
    for (name, seed), each in pool.items():
        kind = name.split("-")[0]
        if kind == "base" or ("base", seed) not in pool:
            continue
        if kind == "edit":
            kind = "edit, better" if each.value < best.metric else "edit, worse"
        others = [t for t in past if t.metric != each.value]
        case = Case(trial(len(past) + 1, None), best, (baseline, *others), Metric(), (), base, noise)
        ended = any(rule.foresee(case, seed, each.curve[:points]) is not None for points in range(5, 19))
        some, whole = counts.get(kind, (0, 0))
        counts[kind] = (some + ended, whole + 1)
    return counts
