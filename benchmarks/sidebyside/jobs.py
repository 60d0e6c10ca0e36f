"""Run commands on GPUs: several at once, never two on one, with progress, and none of them left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from autoexp.model.console import Progress

POLL_SECONDS = 0.05
GRACE_SECONDS = 15.0


class JobFailed(Exception):
    """A command ended with another code than 0, or without what it is run for."""


@dataclass(frozen=True)
class Done:
    """A command that ran to its end. `lines` are (seconds since its start, text), also those that were written over."""

    wall_seconds: float
    lines: Sequence[tuple[float, str]]

    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)


@dataclass(frozen=True)
class Job:
    """One command. `collect` makes its result; `before` is called just before it starts; `after` names other jobs."""

    name: str
    command: Sequence[str]
    folder: Path
    env: Mapping[str, str]
    collect: Callable[[Done], dict[str, Any]]
    before: Callable[[], None] = lambda: None
    after: tuple[str, ...] = ()
    gpus: int = 1
    kept: bool = True  # False: it only prepares something for other jobs


@dataclass
class Running:
    """A started job. Its output is read by a thread of its own, so that the times of lines are true."""

    job: Job
    gpus: list[str]
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)
    reader: Thread | None = None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def read(self) -> None:
        assert self.process.stdout is not None
        left = b""
        with self.log.open("wb") as log:
            while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
                now = self.seconds
                log.write(chunk)
                *whole, left = re.split(rb"[\r\n]", left + chunk)
                self.lines += [(now, line.decode("utf-8", "replace")) for line in whole if line.strip()]
            now = self.seconds
        if left.strip():
            self.lines.append((now, left.decode("utf-8", "replace")))
        self.process.wait()
        self.ended = self.seconds

    def last(self) -> str:
        return " ".join(self.lines[-1][1].split())[:70] if self.lines else ""


def run_all(
    jobs: Sequence[Job],
    gpus: Sequence[str],
    logs: Path,
    progress: Progress,
    keep: Callable[[Job, dict[str, Any]], None],
) -> list[str]:
    """Run every job, on `gpus` (their ids; of a machine without, one empty id). Returns what went wrong, a line each.

    `keep` is called with each result as it comes. A job whose forerunner failed is not run. Raises nothing of its own;
    on an interrupt all that runs is killed first.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, problems = list(jobs), list[Running](), list[str]()
    free, unfinished = list(gpus), {job.name for job in jobs}
    failed: set[str] = set()
    try:
        while waiting or running:
            for job in list(waiting):
                broken = failed.intersection(job.after)
                if broken or job.gpus > len(gpus):
                    reason = f"{min(broken)} failed" if broken else f"it needs {job.gpus} GPUs"
                    problems.append(f"{job.name}: not run, {reason}")
                    failed.add(job.name)
                    waiting.remove(job)
                elif job.gpus <= len(free) and not unfinished.intersection(job.after):
                    taken, free = free[: job.gpus], free[job.gpus :]
                    waiting.remove(job)
                    running.append(start(job, taken, logs))
                    progress.say(f"{job.name}: started{' on GPU ' + ','.join(taken) if taken != [''] else ''}")
            for run in [run for run in running if run.reader is not None and not run.reader.is_alive()]:
                running.remove(run)
                free += run.gpus
                try:
                    keep(run.job, finish(run))
                    progress.say(f"{run.job.name}: done in {run.ended:.0f} s")
                except JobFailed as error:
                    failed.add(run.job.name)
                    problems.append(f"{run.job.name}: {error}")
                    progress.say(problems[-1])
                unfinished.discard(run.job.name)
            if running:
                progress.update(" | ".join(f"{run.job.name} {run.seconds:.0f} s: {run.last()}" for run in running))
                time.sleep(POLL_SECONDS)
            unfinished -= failed
    finally:
        for run in running:
            stop(run)
    return problems


def start(job: Job, gpus: list[str], logs: Path) -> Running:
    job.before()
    env = {**job.env, "CUDA_VISIBLE_DEVICES": ",".join(gpus), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        job.command,
        cwd=job.folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    run = Running(job, gpus, process, logs / f"{job.name}.log")
    run.reader = Thread(target=run.read, daemon=True)
    run.reader.start()
    return run


def finish(run: Running) -> dict[str, Any]:
    """The result of a job that ended. Raises JobFailed."""
    if run.process.returncode:
        tail = "\n    ".join(line for _, line in run.lines[-8:])
        raise JobFailed(f"exit code {run.process.returncode}, see {run.log}\n    {tail}")
    return run.job.collect(Done(run.ended, run.lines))


def stop(run: Running) -> None:
    """End a job and all that it started: it is asked first, since what it started may be out of reach from here."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGTERM)
    if run.reader is not None:
        run.reader.join(timeout=GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    if run.reader is not None:
        run.reader.join(timeout=10)
