"""From real loss curves to the curve model of the simulated nights: how far off a curve is of how its training ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deciding.nights import PROGRESS
from deciding.trainings import Pool

WINDOW = 0.15
"""As the product: the mean of this last part of the curve counts."""


@dataclass(frozen=True)
class Fitted:
    """At one progress."""

    progress: float
    slope: float
    """What a lead of one nat a token in loss is worth in bits a byte at the end."""
    noise: float
    """Standard deviation of what is foretold from what is measured where nothing changed but the luck, in noises."""
    share: float
    """Further standard deviation where something did, in parts of its effect."""
    trainings: int


def sigma(pool: Pool) -> float:
    """Standard deviation of the unchanged program's metric over seeds."""
    return float(np.std([each.value for (name, _), each in pool.items() if name == "base"], ddof=1))


def fitted(pool: Pool, widest: float = 0.1) -> list[Fitted]:
    """The model at each of PROGRESS, from trainings with the same seed as one of the unchanged program. Those that end
    farther than `widest` from it are left out: nobody needs a model to see them.
    """
    noise = sigma(pool)
    rows = []
    for progress in PROGRESS:
        found = [
            (name.startswith("same"), here - there, each.value - rival.value)
            for (name, seed), each in pool.items()
            if name != "base" and (rival := pool.get(("base", seed))) is not None
            if (here := _at(each.curve, progress)) is not None and (there := _at(rival.curve, progress)) is not None
        ]
        same, lead, end = (np.array(column) for column in zip(*found, strict=True))
        near = np.abs(end) < widest
        slope = float((lead * end)[near].sum() / (lead**2)[near].sum())
        off = end - slope * lead
        own = float(np.sqrt(np.mean(off[same] ** 2)))
        large = near & ~same & (np.abs(end) > 2 * noise)
        further = np.sqrt((np.maximum(off[large] ** 2 - own**2, 0.0) / end[large] ** 2).sum() / max(large.sum(), 1))
        rows.append(Fitted(progress, slope, own / noise, float(further), len(found)))
    return rows


def _at(curve: tuple[tuple[float, float], ...], progress: float) -> float | None:
    part = [loss for at, loss in curve if progress - WINDOW + 1e-6 < at <= progress + 1e-6]
    return float(np.mean(part)) if part else None
