"""Decision rules side by side: simulated nights whose true effects are known, and real trainings on the CPU.

    python benchmarks/decision_rules.py simulate --nights 400 --plot rules.svg
    python -m autoexp.model.prepare --dataset bundled --profile cpu --out DATA
    python benchmarks/decision_rules.py real --data DATA --jobs 16 --json trainings.jsonl
    python benchmarks/decision_rules.py fit --json trainings.jsonl

`simulate`: nights of 120 trainings. A proposal's true effect on bpb is +0.0003 + |N(0, 0.004)| with probability 0.70,
exactly 0 with 0.18, and -Exp(mean 0.0012) with 0.12; a training has normal noise. All rules get equal GPU time: repeats
count, and a training that is stopped early counts as far as it went. `null`: nights of proposals that do nothing.

`real`: trainings with an equal number of operations each. What --json holds already is not trained again, so it may be
interrupted. `fit`: the curve model of `simulate`, from those trainings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from deciding.nights import Result, World, confirm, simple
from deciding.trainings import pool

SIGMAS = (0.0005, 0.001, 0.002)


def _strict(world: World, nights: int, seed: int) -> Result:
    return simple(world, nights, seed, lambda difference: difference < 0.0)


def _two_sigmas(world: World, nights: int, seed: int) -> Result:
    margin = 2.0 * np.sqrt(2.0) * world.sigma  # of a difference of two
    return simple(world, nights, seed, lambda difference: difference < -margin)


RULES: dict[str, Callable[[World, int, int], Result]] = {
    "improvement (strict less-than)": _strict,
    "margin, 2 sigmas": _two_sigmas,
    "confirm": confirm,
}


def simulate(options: argparse.Namespace) -> int:
    table = Table(title=f"{options.nights} nights of {options.trainings:g} trainings each")
    for title in ("rule", "sigma", "true gain", "keeps", "no improvement", "null keeps", "proposals", "stopped"):
        table.add_column(title, justify="left" if title == "rule" else "right")
    found: dict[str, list[Result]] = {}
    for name, rule in RULES.items():
        for sigma in SIGMAS:
            world = World(sigma, trainings=options.trainings, broken=options.broken)
            night = rule(world, options.nights, options.seed)
            null = rule(World(sigma, null=True, trainings=options.trainings), options.nights, options.seed + 1)
            found.setdefault(name, []).append(night)
            error = night.gain.std(ddof=1) / np.sqrt(options.nights)
            ended = f"{night.stopped.mean():.0f}" if len(night.stopped) else "-"
            table.add_row(
                name, f"{sigma:g}", f"{night.gain.mean():.4f} ± {error:.4f}", f"{night.keeps.mean():.1f}",
                f"{night.false.sum() / max(night.keeps.sum(), 1):.0%}",
                f"{null.keeps.sum() / null.proposals.sum():.1%}", f"{night.proposals.mean():.0f}", ended,
            )  # fmt: skip
            print(f"{name}, sigma {sigma:g}: done", file=sys.stderr, flush=True)
    Console(width=130).print(table)
    print("no improvement: share of the keeps; null keeps: share of proposals kept where none does anything")
    if options.plot:
        plot(found, options.plot)
    return 0


def plot(found: dict[str, list[Result]], path: Path) -> None:
    """True gain and share of false keeps, at each noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    gain, false = figure.subplots(1, 2)
    for name, nights in found.items():
        gain.plot(SIGMAS, [night.gain.mean() for night in nights], marker="o", label=name)
        shares = [night.false.sum() / max(night.keeps.sum(), 1) for night in nights]
        false.plot(SIGMAS, shares, marker="o", label=name)
    gain.set(xlabel="noise of a training (sigma)", ylabel="true gain of a night, bpb", ylim=(0, None), xscale="log")
    false.set(
        xlabel="noise of a training (sigma)", ylabel="keeps that are no improvement", ylim=(0, None), xscale="log"
    )
    for axes in (gain, false):
        axes.set_xticks(SIGMAS, [f"{sigma:g}" for sigma in SIGMAS], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    gain.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def wanted(options: argparse.Namespace) -> list[tuple[str, int]]:
    """The trainings of `real` and `fit`, those that everything hangs on first."""
    seeds = range(1, options.seeds + 1)
    names = ["base", "good", *(f"same-{number}" for number in range(1, options.same + 1))]
    pairs = [(name, seed) for seed in seeds for name in names]
    return [*pairs, *((f"edit-{number}", 1) for number in range(1, options.edits + 1))]


def real(options: argparse.Namespace) -> int:
    from deciding.fit import sigma
    from deciding.real import RULES as PRODUCT
    from deciding.real import asked, stopped

    found = pool(options.json, wanted(options), options.operations, options.data, options.jobs)
    base = [each.value for (name, _), each in found.items() if name == "base"]
    good = [each.value - found["base", seed].value for (name, seed), each in found.items() if name == "good"]
    same = [each.value - found["base", seed].value for (name, seed), each in found.items() if name[:4] == "same"]
    noise = sigma(found)
    print(f"{len(found)} trainings; noise from seed to seed {noise:.5f} "
          f"(± {noise / np.sqrt(2 * (len(base) - 1)):.5f}) around {np.mean(base):.5f}")  # fmt: skip
    for name, values in (("edits that do nothing", same), ("the good edit", good)):
        spread = np.std(values, ddof=1)
        print(f"{name}: {np.mean(values):+.5f} ± {spread / np.sqrt(len(values)):.5f}, "
              f"paired with the unchanged program ({spread:.5f} from pair to pair)")  # fmt: skip
    table = Table(title=f"{options.cases} cases of each kind, drawn from these trainings")
    for title in ("rule", "false keeps of edits that do nothing", "keeps of the good edit", "trainings a case"):
        table.add_column(title, justify="left" if title == "rule" else "right")
    for name, rule in PRODUCT.items():
        nothing, detected = (asked(found, kind, rule, options.cases, options.seed) for kind in ("same", "good"))
        trainings = (nothing.trainings + detected.trainings) / (nothing.cases + detected.cases)
        shown = [f"{each.rate:.1%} ± {each.error:.1%}" for each in (nothing, detected)]
        table.add_row(name, *shown, f"{trainings:.2f}")
    Console(width=130).print(table)
    ended = ", ".join(f"{some} of {whole} {kind}" for kind, (some, whole) in sorted(stopped(found).items()))
    print(f"stopped early, had `confirm` looked on: {ended}")
    return 0


def fit(options: argparse.Namespace) -> int:
    from deciding.fit import fitted, sigma

    found = pool(options.json, wanted(options), options.operations, options.data, options.jobs)
    print(f"{len(found)} trainings; noise from seed to seed {sigma(found):.5f}")
    table = Table(title="what a loss curve tells of the end")
    for title in ("progress", "bpb a nat of lead", "noise (sigmas)", "share of the effect", "trainings"):
        table.add_column(title, justify="right")
    for row in fitted(found):
        table.add_row(
            f"{row.progress:g}", f"{row.slope:.3f}", f"{row.noise:.2f}", f"{row.share:.2f}", f"{row.trainings}"
        )
    Console(width=100).print(table)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    nights = modes.add_parser("simulate", help="simulated nights")
    nights.add_argument("--nights", type=int, default=400)
    nights.add_argument("--trainings", type=float, default=120.0, help="GPU time of a night, in trainings")
    nights.add_argument("--broken", type=float, default=0.0, help="part of the proposals that wreck the program")
    nights.add_argument("--plot", type=Path, help="draw gain and false keeps into this file (needs matplotlib)")
    for name, words in (("real", "real trainings on the CPU"), ("fit", "fit the curve model to them")):
        mode = modes.add_parser(name, help=words)
        mode.add_argument("--data", type=lambda text: Path(text).absolute(), help="prepared data of the cpu profile")
        mode.add_argument("--json", type=Path, default=Path("trainings.jsonl"), help="kept here, a line a training")
        mode.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="at the same time")
        mode.add_argument("--operations", type=float, default=1e11, help="of each training")
        mode.add_argument("--seeds", type=int, default=32, help="of the unchanged program and of each edit")
        mode.add_argument("--same", type=int, default=6, help="edits that do nothing")
        mode.add_argument("--edits", type=int, default=60, help="constants moved at random, with one seed each")
        mode.add_argument("--cases", type=int, default=1000, help="drawn from the trainings")
    for mode in modes.choices.values():
        mode.add_argument("--seed", type=int, default=1, help="of what is drawn")
    options = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return {"simulate": simulate, "real": real, "fit": fit}[options.mode](options)


if __name__ == "__main__":
    sys.exit(main())
