"""Real trainings of the CPU program for the decision rules, each with an equal number of operations.

What is trained: the program as it is (`base`), edits that change nothing but which random numbers are drawn (`same-1`,
`same-2`, …), an edit that is known to be good (`good`), and single constants that are moved a little (`edit-1`, …).
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

GOOD = {"GRAD_CLIP": 0.1}
"""The known good edit."""
ENTERED = "with Trial(PROFILE) as trial:\n"
"""Where the random numbers begin."""


@dataclass(frozen=True)
class Training:
    """A finished one. `curve` holds (progress, training loss) pairs, nats a token."""

    program: str
    seed: int
    value: float
    curve: tuple[tuple[float, float], ...]


Pool = dict[tuple[str, int], Training]
"""(program, seed) -> the training."""


def program(name: str) -> str:
    """The text of a program by its name."""
    from proposing.night import Night, with_values
    from proposing.training import PROGRAM

    kind, _, number = name.partition("-")
    if kind == "base":
        return PROGRAM
    if kind == "same":
        assert ENTERED in PROGRAM
        return PROGRAM.replace(ENTERED, f"{ENTERED}        torch.rand({int(number)})\n")
    if kind == "good":
        return with_values(PROGRAM, dict(GOOD))
    night = Night(PROGRAM, 0, lambda values: 0.0)
    rng = random.Random(int(number))
    axis = rng.choice(night.space)
    way = rng.choice((1, -1))
    now = night.here[axis.name]
    if not axis.ordered:
        value = rng.choice([value for value in axis.values if value != now])
    else:
        found = axis.beyond(now, way, axis.stride)
        value = found if found is not None else axis.beyond(now, -way, axis.stride)
        assert value is not None
    return with_values(PROGRAM, {axis.name: value})


def one(name: str, seed: int, operations: float, data: Path) -> Training | None:
    """A training, in a process that makes many; None when it failed."""
    import torch
    from proposing.training import report

    torch.set_num_threads(1)
    found = report(program(name), data, seed, operations)
    if not isinstance(found.get("val_bpb"), float):
        return None
    curve = tuple((float(progress), float(loss)) for progress, loss in found["loss_curve"])
    return Training(name, seed, found["val_bpb"], curve)


def pool(path: Path, wanted: Sequence[tuple[str, int]], operations: float, data: Path | None, jobs: int) -> Pool:
    """The trainings that are wanted: those that the file has are read, the others are made and written to it.

    Raises SystemExit when some are missing and there is no data to make them with.
    """
    found: Pool = {}
    if path.exists():
        for line in path.read_text().splitlines():
            fields = json.loads(line)
            if fields.pop("operations") == operations and fields["value"] is not None:
                curve = tuple((point[0], point[1]) for point in fields.pop("curve"))
                found[fields["program"], fields["seed"]] = Training(**fields, curve=curve)
    missing = [key for key in wanted if key not in found]
    if missing and data is None:
        raise SystemExit("trainings are missing: give --data, a folder made by python -m autoexp.model.prepare")
    began = time.monotonic()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as workers:
        running = {workers.submit(one, name, seed, operations, data): (name, seed) for name, seed in missing}
        for count, done in enumerate(as_completed(running), 1):
            name, seed = running[done]
            made = done.result()
            fields = {"program": name, "seed": seed, "operations": operations, "value": None, "curve": []}
            if made is not None:
                found[name, seed] = made
                fields |= {"value": made.value, "curve": made.curve}
            with path.open("a") as file:
                file.write(json.dumps(fields) + "\n")
            print(f"{name}, seed {seed}: {fields['value']}; {count} of {len(missing)}, "
                  f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return {key: found[key] for key in wanted if key in found}
