"""The trainer beside karpathy/autoresearch, on the same text, in one table.

    PYTHONPATH=src python benchmarks/trainer.py --reference PATH [--shards DIR] [--gpus 0,1]

Every training is a process of its own, one at a time on each GPU. What is finished is kept in --out and used again by
the next call with the same arguments, so it may be interrupted, and --only can spread it over several calls. The table
is called complete when all of its parts came from one machine. sidebyside/parts.py lists the parts.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from autoexp.model.console import Progress
from autoexp.model.profiles import CPU, H100
from autoexp.model.storage import write_json

sys.path.insert(0, str(Path(__file__).parent))

from sidebyside import ours, reference, table
from sidebyside.jobs import Job, run_all
from sidebyside.parts import NoPart, Plan, Settings, mark_warm, plan, warming_jobs
from sidebyside.results import Results, machine


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of karpathy/autoresearch, also a bare repository")
    parser.add_argument("--shards", type=Path, help="folder of parquet shards (default: the reference's own cache)")
    parser.add_argument("--out", type=Path, default=Path("out/trainer"), help="folder of everything that is made")
    parser.add_argument("--results", type=Path, help="folder of what is measured, small (default: results in --out)")
    parser.add_argument("--budget", type=float, default=300, help="seconds of each training, on both sides")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the default train.py")
    parser.add_argument(
        "--only", default="", help="parts to run, comma-separated; the others are shown if they are kept"
    )
    parser.add_argument("--gpus", default="0", help="ids of the GPUs to use, comma-separated")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--scaling", action="store_true", help="also the default train.py on one and on two GPUs")
    parser.add_argument("--beyond", action="store_true", help="also through the executor, with one that stands by")
    parser.add_argument("--beyond-budget", type=float, default=20, help="seconds of each training of --beyond")
    parser.add_argument("--profile-step", action="store_true", help="also where the time of a step goes")
    parser.add_argument("--cpu", action="store_true", help="the cpu profile: to try the benchmark, not the trainer")
    parser.add_argument("--fresh", action="store_true", help="measure again what earlier calls measured")
    return parser.parse_args(argv)


def run_parts(made: Plan, names: list[str], gpus: list[str], results: Results, progress: Progress) -> list[str]:
    """Run these parts and keep their results; those that want the machine for themselves first. Returns problems."""
    host = str(results.here["host"])

    def keep(job: Job, result: dict[str, Any]) -> None:
        part = made.parts[job.name]
        if part.fills is not None:
            mark_warm(part, host)
        if job.kept:
            results.keep(job.name, part.key, result)

    logs = results.folder / "logs"
    quiet = [made.parts[name].job for name in names if name in made.quiet]
    rest = [made.parts[name].job for name in names if name not in made.quiet]
    problems = run_all(quiet, gpus[:1], logs, progress, keep)
    return problems + run_all([*warming_jobs(made, names, host), *rest], gpus, logs, progress, keep)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit code 0; 1 if a part failed or the sides were asked different things; 2 for bad arguments."""
    signal.signal(signal.SIGTERM, interrupted)
    progress = Progress(sys.stderr, every=15.0)
    try:
        return measure(parse(argv), progress)
    except (ours.NoData, reference.NoReference, NoPart) as error:
        progress.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress.close()
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def measure(options: argparse.Namespace, progress: Progress) -> int:
    """Run what is not yet measured and print the table. Raises NoData, NoReference or NoPart for bad arguments."""
    out = options.out.absolute()
    gpus = [""] if options.cpu else [gpu.strip() for gpu in options.gpus.split(",")]
    profile = CPU if options.cpu else H100
    beyond = options.beyond_budget if options.beyond else 0.0
    asked = (options.budget, options.seeds, options.cpu, options.scaling, options.profile_step, beyond)
    settings = Settings(out, profile, *asked)
    results = Results((options.results or out / "results").absolute(), machine(gpus))
    folder = options.shards or Path("~/.cache/autoresearch/data").expanduser()
    shards = ours.find_shards(folder)
    progress.say(f"preparing {len(shards)} shards of {folder}")
    data = ours.prepare(shards, out, profile)
    made = plan(settings, data, options.reference and options.reference.absolute(), shards)
    chosen = made.chosen(options.only)
    if options.fresh:
        results.forget(chosen)
    names = [name for name in chosen if not results.reusable(name, made.parts[name].key)]
    if kept := [name for name in chosen if name not in names]:
        progress.say(f"measured earlier: {', '.join(kept)}")
    problems = run_parts(made, names, gpus, results, progress)
    progress.close()

    stored = results.current({name: part.key for name, part in made.parts.items()})
    notes = [*made.notes, *table.notes(stored, list(made.parts))]
    text = table.whole(stored, notes, goals=not options.cpu)
    print(text, end="")
    (results.folder / "table.md").write_text(text, encoding="utf-8")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if options.json:
        complete = table.complete(notes)
        write_json(options.json, {"complete": complete, "notes": notes, "parts": stored, "problems": problems})
    return 1 if problems or any("DIFFER" in note for note in notes) else 0


def interrupted(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends it as Ctrl-C does: with everything that it started."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
