"""`search` beside random edits and Optuna's samplers: the best val_bpb after equally many trainings of the CPU program.

    python -m autoexp.model.prepare --dataset bundled --profile cpu --out DATA
    python benchmarks/proposers.py --data DATA --jobs 2 --json nights.jsonl --plot nights.svg

Every training is real and has the same number of operations, so that neither the machine nor its load has a say. A
night is a process of its own; what --json holds already is not done again, so the benchmark may be interrupted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from proposing import night

Nights = dict[tuple[str, int], list[float]]
"""(method, seed) -> the best metric after each training."""
RANDOM = "random edits"


def one(method: str, seed: int, trainings: int, operations: float, data: Path) -> list[float]:
    """A night, in a process of its own."""
    import torch
    from proposing.training import PROGRAM, train

    torch.set_num_threads(1)
    found = night.run(
        method,
        PROGRAM,
        seed,
        trainings,
        lambda values: train(night.with_values(PROGRAM, values), data, seed, operations),
    )
    return list(found)


def measured(options: argparse.Namespace, methods: Sequence[str]) -> Nights:
    """All nights; those that the file has are read, the others are run and written to it as they end."""
    key = {"trainings": options.trainings, "operations": options.operations}
    nights: Nights = {}
    if options.json.exists():
        for line in options.json.read_text().splitlines():
            fields = json.loads(line)
            if all(fields[name] == value for name, value in key.items()):
                nights[fields["method"], fields["seed"]] = fields["best"]
    wanted = [(m, s) for s in range(1, options.seeds + 1) for m in methods if (m, s) not in nights]
    if wanted and not options.data:
        raise SystemExit("nights are missing: give --data, a folder made by python -m autoexp.model.prepare")
    began = time.monotonic()
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        running = {
            pool.submit(one, m, s, options.trainings, options.operations, options.data): (m, s) for m, s in wanted
        }
        for done in as_completed(running):
            method, seed = running[done]
            nights[method, seed] = done.result()
            with options.json.open("a") as file:
                file.write(json.dumps({"method": method, "seed": seed, **key, "best": nights[method, seed]}) + "\n")
            so_far = f"{sum(n in nights for n in wanted)} of {len(wanted)} nights"
            print(f"{method}, seed {seed}: {nights[method, seed][-1]:.4f}; {so_far}, "
                  f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return nights


def reached(best: Sequence[float], target: float) -> int | None:
    """After how many trainings a night was at the target; None when it never was."""
    return next((number for number, value in enumerate(best, 1) if value <= target), None)


def table(nights: Nights, methods: Sequence[str], seeds: Sequence[int]) -> Table:
    """A row a method. The target of a seed is what random edits reached at its end."""
    shown = Table(title="best val_bpb after equally many trainings (median over seeds)")
    half = len(next(iter(nights.values()))) // 2
    for title in ("proposer", f"after {half}", "at the end", "over seeds", "trainings to random's end", "random needs"):
        shown.add_column(title, justify="left" if title == "proposer" else "right")
    for method in methods:
        rows = [nights[method, seed] for seed in seeds]
        ends = [row[-1] for row in rows]
        low, high = min(ends), max(ends)
        needed, ratio = efficiency(nights, method, seeds)
        shown.add_row(
            method, f"{statistics.median(row[half - 1] for row in rows):.4f}", f"{statistics.median(ends):.4f}",
            f"{low:.4f} to {high:.4f}", needed, ratio,
        )  # fmt: skip
    return shown


def efficiency(nights: Nights, method: str, seeds: Sequence[int]) -> tuple[str, str]:
    """(median number of trainings to where random edits ended, how many times as many random edits took)."""
    counts, ratios = [], []
    for seed in seeds:
        other = nights[RANDOM, seed]
        mine = reached(nights[method, seed], other[-1])
        counts.append(float(mine) if mine is not None else float("inf"))
        ratios.append((reached(other, other[-1]) or len(other)) / counts[-1])
    median, ratio = statistics.median(counts), statistics.median(ratios)
    return f"{median:.0f}" if median < float("inf") else "never", f"{ratio:.2f} x" if ratio else "-"


def plot(nights: Nights, methods: Sequence[str], seeds: Sequence[int], path: Path) -> None:
    """Medians over seeds, against the number of trainings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    for method in methods:
        rows = [nights[method, seed] for seed in seeds]
        numbers = range(1, len(rows[0]) + 1)
        axes.plot(numbers, [statistics.median(c) for c in zip(*rows, strict=True)], label=method, linewidth=1.8)
    start = statistics.median(row[0] for row in nights.values())
    axes.set(xlabel="trainings", ylabel="best val_bpb so far", title=f"{len(seeds)} seeds, median")
    axes.set_ylim(top=start + 0.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).absolute(), help="prepared data of the cpu profile")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=32, help="of each night, the unchanged program's included")
    parser.add_argument("--operations", type=float, default=3e11, help="of each training")
    parser.add_argument("--methods", default=",".join(night.METHODS), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="nights at the same time")
    parser.add_argument("--json", type=Path, default=Path("nights.jsonl"), help="kept here, a line a night")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file (needs matplotlib)")
    options = parser.parse_args(argv)
    methods = options.methods.split(",")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    nights = measured(options, methods)
    seeds = range(1, options.seeds + 1)
    if any(method == RANDOM for method in methods):
        Console(width=120).print(table(nights, methods, seeds))
    if options.plot:
        plot(nights, methods, seeds, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
