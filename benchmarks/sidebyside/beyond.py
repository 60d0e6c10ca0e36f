"""Trainings one after the other through the `local` executor: what each takes beside its training.

    python beyond.py FOLDER --trainings 3 [--standby]

FOLDER has a train.py; the environment says what it trains on and for how long. With --standby the next training's
process is started while one trains, as `train.standby` does. Prints one line of JSON. SIGTERM ends all of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from autoexp.executors.local import Local
from autoexp.spec.ports import JobSpec

TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.02


def train(local: Local, folder: Path, number: int, standby: bool) -> dict[str, Any]:
    """One training, and the seconds that it took by its keeper's clock. Raises RuntimeError when it fails."""
    job = folder / "jobs" / str(number)
    report = job / "report.json"
    local.submit(
        JobSpec(
            key=str(job),
            folder=job,
            command=(sys.executable, "train.py"),
            cwd=folder,
            env={"AUTOEXP_REPORT": str(report), "PYTHONUNBUFFERED": "1"},
            timeout_seconds=TIMEOUT_SECONDS,
            locks=folder / "jobs",
            standby=standby,
        )
    )
    try:
        while (ended := local.poll(job)) is None:
            time.sleep(POLL_SECONDS)
    except BaseException:
        local.kill(job)
        raise
    if ended.status != "exited" or ended.code != 0:
        raise RuntimeError(f"training {number} {ended.status}, exit code {ended.code}: see {job}")
    said = json.loads(report.read_text(encoding="utf-8"))
    ending = json.loads((job / "exit.json").read_text(encoding="utf-8"))
    return {
        "beyond_budget_seconds": ending["wall_seconds"] - said["training_wall_seconds"],
        "startup_seconds": said["startup_seconds"],
        "eval_seconds": said["eval_seconds"],
        "stood_by_seconds": ending.get("stood_by_seconds"),
        "attention": said["attention"],
    }


def interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--standby", action="store_true")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, interrupted)
    folder = options.folder.absolute()
    shutil.rmtree(folder / "jobs", ignore_errors=True)
    (folder / "jobs").mkdir()
    local = Local()
    count = options.trainings
    trials = [train(local, folder, n, options.standby and n < count) for n in range(1, count + 1)]
    later = trials[1:]  # the first fills the caches, and nothing can stand by for it
    if options.standby and any(trial["stood_by_seconds"] is None for trial in later):
        raise RuntimeError("a training did not stand by")
    means = {key: statistics.fmean(t[key] for t in later) for key in ("beyond_budget_seconds", "startup_seconds")}
    print(json.dumps({**means, "attention": trials[0]["attention"], "trials": trials}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
