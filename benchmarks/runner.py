"""The runner's own costs, each beside its yardstick, from one run: `python benchmarks/runner.py [--repeats 7]`

Ratios and medians; the machine's speed drops out of the ratios, which pair each measurement with a bare command's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autoexp.runs import events as ev
from autoexp.runs import journal
from autoexp.runs.records import Metric, Outcome, Plan, Proposal, SetConstant, Trial
from autoexp.runs.state import replay
from autoexp.session.snapshot import save
from autoexp.session.views import write_state
from autoexp.workspace.paths import RunPaths

BARE = """
import typer
app = typer.Typer()
@app.command()
def one() -> None: ...
@app.command()
def two() -> None: ...
app()
"""
TRAINER = 'LR = 0.04  # [0.001, 1.0] log; the only one\nprint(f"val_bpb: {1 + abs(LR - 0.01)}")\n'
LOOPS = 10
LONG = 10_000


def seconds(command: list[str], cwd: Path) -> float:
    """Wall time of a whole command. Raises CalledProcessError when it fails."""
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - started


def workspace(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(TRAINER)
    (folder / "autoexp.toml").write_text('[train]\ncommand = ["{python}", "-S", "train.py"]\n')
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def git(folder: Path, *args: str) -> str:
    command = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", *args]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def long_run(root: Path, run_id: str) -> None:
    """A run of LONG iterations, as a session would have written it: eight events each."""
    base = git(root, "rev-parse", "HEAD")
    lines: list[ev.Event] = [
        ev.RunCreated(run_id=run_id, branch=f"autoresearch/{run_id}", base=base, seed=0, metric=Metric()),
        ev.PlanMade(plan=Plan(target=LONG)),
        ev.SetupDone(),
        ev.BaselineOpened(commit=base, ref="r", source="s"),
    ]
    for number in range(LONG + 1):
        folder = f"iterations/{number:04d}/attempt-1"
        if number:
            edit = SetConstant(name="LR", value=number / LONG)
            words = f"LR = {number / LONG}"
            idea = Proposal(status="ok", description=words, change_plan=words, commit_description=words, edits=(edit,))
            lines += [
                ev.Proposed(iteration=number, base=base, proposal=idea, proposer="search"),
                ev.Applied(iteration=number, attempt=1, status="applied", tree=base, source=f"{number:064x}"),
                ev.Committed(iteration=number, attempt=1, commit=base, ref=f"refs/autoexp/{run_id}/{number}-1"),
            ]
        metric = 1.0 + (0 if number == 0 else 1 / number)
        trial = Trial(
            iteration=number,
            description=f"iteration {number}",
            proposer="search",
            base=base,
            commit=base,
            ref="r",
            source=f"{number:064x}",
            constants={f"CONSTANT_{n}": n / 7 for n in range(15)},
            status="success",
            metric=metric,
            seconds=300.0,
        )
        lines += [
            ev.TrainingStarted(iteration=number, attempt=1, folder=folder, pid=1),
            ev.TrainingEnded(iteration=number, attempt=1, outcome=Outcome(status="success", metric=metric)),
            ev.Triaged(iteration=number, attempt=1, action="proceed"),
            ev.Recorded(trial=trial),
            ev.Decided(iteration=number, decision="discard" if number else "keep", why="measured"),
        ]
    folder_ = root / "workflows" / "runs" / run_id
    folder_.mkdir(parents=True)
    journal.create(folder_ / "history.jsonl", lines)
    paths, state = RunPaths(folder_), replay(lines)
    write_state(paths, state, paths.journal.stat().st_size)
    save(paths, state, paths.journal.stat().st_size)


def overhead(root: Path, run_id: str) -> list[float]:
    """Seconds of each iteration that are neither training nor asking an agent, from the journal's own times."""
    events = [json.loads(line) for line in (root / f"workflows/runs/{run_id}/history.jsonl").read_text().splitlines()]
    times: dict[int, dict[str, float]] = {}
    previous = None
    for event in events:
        number = event.get("iteration") or event.get("trial", {}).get("iteration")
        if number:
            mark = times.setdefault(number, {"from": previous or event["at"]})
            mark[event["type"]] = event["at"]
            if event["type"] == "training_ended":
                mark["trained"] = event["outcome"]["wall_seconds"]
        previous = event["at"]
    return [mark["decided"] - mark["from"] - mark["trained"] for mark in times.values() if "decided" in mark]


def detached_memory(root: Path) -> float:
    """Resident megabytes of a detached session while its training runs."""
    import psutil

    slow = 'import time\nLR = 0.04  # [0.001, 1.0] log; the only one\ntime.sleep(3)\nprint("val_bpb: 1.0")\n'
    (root / "train.py").write_text(slow)
    git(root, "commit", "-qam", "slow")
    run = [sys.executable, "-m", "autoexp", "start", "--loops", "3", "--run-id", "memory", "--json"]
    started = subprocess.run(run, cwd=root, check=True, capture_output=True, text=True)
    session = psutil.Process(json.loads(started.stdout)["pid"])
    peak = 0
    while session.is_running() and session.status() != psutil.STATUS_ZOMBIE:
        try:
            peak = max(peak, session.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.1)
    return peak / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    table = Table(title=f"The runner's costs, medians of {repeats}")
    for column in ("what", "measured", "yardstick", "ratio", "goal", "met"):
        table.add_column(column)

    with tempfile.TemporaryDirectory(prefix="autoexp-bench-") as name:
        root = workspace(Path(name) / "w")
        bare = Path(name) / "bare.py"
        bare.write_text(BARE)
        autoexp = [sys.executable, "-m", "autoexp"]
        run = [*autoexp, "start", "--loops", str(LOOPS), "--run-id", "short", "--no-background-train", "--json"]
        subprocess.run(run, cwd=root, check=True, stdout=subprocess.DEVNULL)

        def paired(command: list[str], goal: float, label: str) -> None:
            theirs_too = [sys.executable, str(bare), "--help"]
            pairs = [(seconds([*autoexp, *command], root), seconds(theirs_too, root)) for _ in range(repeats)]
            ours, theirs = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
            ratio = statistics.median(a / b for a, b in pairs)
            row(label, f"{ours:.3f} s", f"bare Typer {theirs:.3f} s", f"{ratio:.2f}", f"<= {goal}", ratio <= goal)

        def row(label: str, measured: str, yardstick: str, ratio: str, goal: str, met: bool) -> None:
            table.add_row(label, measured, yardstick, ratio, goal, "yes" if met else "NO")

        paired(["--help"], 1.3, "autoexp --help")
        paired(["status", "--json"], 2.0, "autoexp status")
        for command in (["--help"], ["status", "--json"]):
            code = f"import sys; sys.argv = ['autoexp', *{command!r}]; from autoexp.cli.app import main; main(); "
            code += "sys.exit('torch' in sys.modules)"
            done = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.DEVNULL, check=False)
            found = "yes" if done.returncode else "no"
            row(f"autoexp {command[0]} imports torch", found, "", "", "no", not done.returncode)
        costs = overhead(root, "short")
        median = statistics.median(costs)
        row("an iteration outside training", f"{median:.3f} s", f"max {max(costs):.3f} s", "", "< 0.3 s", median < 0.3)
        long_run(root, "long")
        resume = [*autoexp, "resume", "--run-id", "long", "--no-background-train", "--json"]
        resumed = statistics.median(seconds(resume, root) for _ in range(repeats))
        row(f"resume of {LONG} iterations", f"{resumed:.3f} s", "", "", "< 1 s", resumed < 1)
        peak = detached_memory(root)
        row("detached runner, peak resident", f"{peak:.0f} MB", "", "", "< 120 MB", peak < 120)
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
