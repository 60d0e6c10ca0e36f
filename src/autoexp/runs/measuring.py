"""Measurements of programs: which seed comes next, and what repeats say of the noise. Pure."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from autoexp.runs.records import Measurement, Noise

SEEDS = 2**31
"""Seeds are below it: every trainer can take them."""


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
    found = noises(measurements).values()
    known = carried or Noise()
    return Noise(
        squares=known.squares + sum(each.squares for each in found),
        freedom=known.freedom + sum(each.freedom for each in found),
    )


def noises(measurements: Iterable[Measurement]) -> dict[str, Noise]:
    """Likewise, without what was known before, for each machine that numbers hang on."""
    groups: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for each in measurements:
        groups[each.program, each.machine].setdefault(each.seed, each.value)
    found: dict[str, Noise] = {}
    for (_, machine), group in groups.items():
        center = sum(group.values()) / len(group)
        squares, known = sum((value - center) ** 2 for value in group.values()), found.get(machine, Noise())
        found[machine] = Noise(squares=known.squares + squares, freedom=known.freedom + len(group) - 1)
    return found
