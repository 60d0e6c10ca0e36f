"""Measurements of programs: which seed comes next, and what repeats say of the noise. Pure."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from autoexp.runs.records import Measurement, Noise

SEEDS = 2**31
"""Seeds are below it: every trainer can take them."""
MOST = 9.0
"""A candidate that diverges with some seeds is noisy itself: it must not hide what others improve, here and in the runs
that the noise is carried to."""


def seed_of(run_seed: int, number: int) -> int:
    """The seed of a program's measurement of that number, from 1: of all programs the same, so that they are paired."""
    if number <= 1:
        return run_seed
    return int.from_bytes(hashlib.sha256(f"{run_seed}-{number}".encode()).digest()[:8], "big") % SEEDS


def measured(measurements: Iterable[Measurement], source: str, commit: str) -> tuple[Measurement, ...]:
    """Those of one program, by the hash of its source, else by its commit."""
    program = source or commit
    return tuple(each for each in measurements if each.program == program)


def mean(measurements: Sequence[Measurement]) -> float:
    """Of at least one."""
    return sum(each.value for each in measurements) / len(measurements)


def repeats(measurements: Iterable[Measurement], carried: Noise | None = None) -> Noise:
    """The noise by all programs that were trained more than once with different seeds, and what is known before."""
    return _pooled(_of_programs(measurements).values(), carried or Noise())


def noises(measurements: Iterable[Measurement]) -> dict[str, Noise]:
    """Likewise, without what was known before, for each machine that numbers hang on."""
    machines: dict[str, list[Noise]] = defaultdict(list)
    for (_, machine), noise in _of_programs(measurements).items():
        machines[machine].append(noise)
    return {machine: _pooled(parts, Noise()) for machine, parts in machines.items()}


def _of_programs(measurements: Iterable[Measurement]) -> dict[tuple[str, str], Noise]:
    """What the repeats of each program say, by program and machine, in the order of their first measurements."""
    groups: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for each in measurements:
        groups[each.program, each.machine].setdefault(each.seed, each.value)
    found = {}
    for key, group in groups.items():
        center = sum(group.values()) / len(group)
        squares = sum((value - center) * (value - center) for value in group.values())  # ** raises where it overflows
        found[key] = Noise(squares=squares, freedom=len(group) - 1)
    return found


def _pooled(parts: Iterable[Noise], known: Noise) -> Noise:
    """All together; each after the first counts as at most MOST times the variance that is known until then."""
    for part in parts:
        squares = part.squares
        if known.squares > 0.0:
            squares = min(squares, MOST * part.freedom * known.squares / known.freedom)
        known = Noise(squares=known.squares + squares, freedom=known.freedom + part.freedom)
    return known
