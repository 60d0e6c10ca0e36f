"""Seeds belong to the run: what the program itself seeds after the harness did has no effect, and a line says so.

A program that chose its seed would choose its luck, and its repeats would all have the same. Generators of its own
(`torch.Generator`) are not reached: with those it only makes its repeats alike.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

SEEDING = (
    (torch, "manual_seed"),
    (torch.random, "manual_seed"),
    (torch.random, "seed"),
    (torch, "seed"),
    (torch.cuda, "manual_seed"),
    (torch.cuda, "manual_seed_all"),
    (random, "seed"),
    (np.random, "seed"),
)
"""The functions that seed what random numbers are drawn from when nothing else is named."""


def hold(say: Callable[[str], None]) -> None:
    """From here on the script that this process runs cannot seed; libraries can. `say` is told of the first try."""
    told: list[str] = []
    for owner, name in SEEDING:
        seeding = getattr(owner, name)
        seeding = getattr(seeding, "held", seeding)  # of an earlier trial in this process

        def held(*arguments: Any, _seeding: Callable[..., Any] = seeding, _name: str = name, **named: Any) -> Any:
            if sys._getframe(1).f_globals.get("__name__") != "__main__":
                return _seeding(*arguments, **named)
            if not told:
                told.append(_name)
                say(f"the program's own {_name}() is passed over: seeds are the run's (AUTOEXP_SEED)")
            return torch.default_generator if "manual" in _name else None

        held.held = seeding  # type: ignore[attr-defined]
        setattr(owner, name, held)
