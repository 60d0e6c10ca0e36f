"""The evaluation of a job, by its keeper: the judge is started while the training runs, and asked when it has ended.

What the judge found is sealed with the run's key, which no process that torch is loaded in ever sees, and written to
evaluation.json. Before the judge is asked that the training is done is written there, sealed too: when the keeper is
killed meanwhile, the checkpoint is evaluated and nothing is trained again.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from autoexp.errors import AutoexpError
from autoexp.executors import examining, processes
from autoexp.executors.watching import Limits, Watch
from autoexp.workspace import seals
from autoexp.workspace.files import tail
from autoexp.workspace.paths import CHECKPOINT_FILE, COPIES, EVALUATION_LOG_FILE, METRICS_FILE, REPORT_FILE

FORMAT = 1
LOOK_SECONDS = 0.25
MANY_CORES = 4
"""From so many on, the judge and two examinees can start while a training runs, and take nothing from it."""
EARLY_SECONDS = 60.0
"""How long before the end of a training they are started there: on a GPU importing and compiling take half of it."""
GRACE_SECONDS = 30.0
"""How long the judge may take beyond its own deadline to say that it has passed."""
LINE_BYTES = 1 << 20


class Evaluating:
    """The judge of one job. `end` must be called, whatever happens."""

    def __init__(
        self, job: Mapping[str, Any], folder: Path, env: Mapping[str, str], preexec: Callable[[], None] | None
    ) -> None:
        self.job, self.folder, self.env, self.preexec = job, folder, env, preexec
        self.task: Mapping[str, Any] = job["evaluation"]
        self.given: str | None = self.task["checkpoint"]
        """The checkpoint of an earlier attempt, which is evaluated without a training."""
        self.process: subprocess.Popen[bytes] | None = None
        wanted = job.get("isolation") or {}
        limits = Limits(processes=wanted.get("max_processes"), memory_bytes=wanted.get("max_memory_bytes"))
        self.watch = Watch(limits, self._family)
        """What the candidate's model takes to be evaluated counts too: it could be trained there."""
        self.place: Path | None = None
        self.program = ""
        self.failed = ""
        self.looked = 0.0
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    # -- while it trains ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Start the judge when the training, by what it says, is about to end; on few cores, when it has."""
        now = time.monotonic()
        if self.process is not None:
            self._watched()
        if self.process is not None or self.failed or now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        said = self._said()
        over = said.get("phase") == "evaluate"
        try:
            progress = float(said.get("progress", 0.0))
            left = (1 - progress) * float(said.get("budget", 0.0))
        except (TypeError, ValueError, OverflowError):
            return
        if over or (self.cores >= MANY_CORES and progress >= 0.5 and left <= EARLY_SECONDS):
            self.start()

    def _said(self) -> dict[str, Any]:
        """The last whole line of metrics.jsonl: it decides nothing but when the judge begins to import."""
        for line in reversed(tail(self.folder / METRICS_FILE, 4096).splitlines()):
            with suppress(ValueError, RecursionError):
                fields = json.loads(line)
                if isinstance(fields, dict):
                    return fields
        return {}

    def start(self) -> None:
        """Start the judge. What goes wrong is told when it is asked."""
        try:
            self._start()
        except (OSError, ValueError) as error:
            self.failed = f"the evaluation cannot begin: {error}"

    def _start(self) -> None:
        task, python = self.task, str(self.job["command"][0])
        self.place = Path(tempfile.mkdtemp(prefix="autoexp-exam-"))
        folder = self.place / "program"
        examining.export(Path(task["repository"]), task["commit"], folder)
        self.program = examining.hash_of(folder / task["program"])
        judge, examinee = examining.environments(self.job, self.env, processes.judge_key(str(self.job["key"])))
        commands = [examining.command(python, examining.EXAMINEE)] * 2
        if self.job.get("isolation"):
            examinee["TMPDIR"] = "/tmp"
            compiled = self.folder / COPIES
            commands = [
                examining.confined(command, examinee, self.job, folder, compiled, self.place / f"copies-{number}")
                for number, command in enumerate(commands)
            ]
        log = examining.opened(self.folder / EVALUATION_LOG_FILE)
        try:
            self.process = subprocess.Popen(
                examining.command(python, examining.JUDGE),
                cwd=self.place,
                env=judge,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                preexec_fn=self.preexec,
            )
        finally:
            os.close(log)
        self._tell(
            {
                "program": task["program"],
                "folder": str(folder),
                "examinees": commands,
                "env": examinee,
                "profile": task["profile"],
                "splits": task["splits"],
                "checkpoint": str(self.checkpoint),
                "seconds": task["seconds"],
            }
        )

    @property
    def checkpoint(self) -> Path:
        """What is evaluated. Where the training puts it is not for the training to say."""
        return Path(self.given) if self.given else self.folder / CHECKPOINT_FILE

    def pids(self) -> set[int]:
        """The judge's processes, which are not the training's."""
        return {process.pid for process in self._family()}

    def _family(self) -> list[psutil.Process]:
        return examining.family(self.process.pid) if self.process is not None else []

    def _watched(self) -> None:
        """End it when it takes too much."""
        if self.process is not None and not self.failed and (said := self.watch.look()):
            self.failed = f"when it was evaluated, {said}"
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)

    # -- when it has trained --------------------------------------------------------------------------------------

    def trained(self, seconds: float) -> dict[str, Any]:
        """The record of a training that took so many seconds from start to end, to be sealed: it is to be evaluated."""
        env = self.job["env"]
        return {
            "format": FORMAT,
            "job": self.job["key"],
            "commit": self.task["commit"],
            "source": self.task["source"],
            "seed": env.get("AUTOEXP_SEED"),
            "budget_seconds": env.get("AUTOEXP_BUDGET_SECONDS"),
            "process_seconds": round(seconds, 3),
            "status": "trained",
        }

    def earlier(self) -> dict[str, Any]:
        """The same about the training that the given checkpoint is of, from the record beside it."""
        assert self.given is not None
        beside = Path(self.given).parent
        with suppress(OSError):  # what the training said of itself
            if stat.S_ISREG((beside / REPORT_FILE).lstat().st_mode):
                shutil.copyfile(beside / REPORT_FILE, self.folder / REPORT_FILE)
        found = seals.read_sealed(beside, seals.read_key(Path(self.task["key"])))
        seconds = found[0].get("process_seconds") if found else None
        record = self.trained(0.0)
        return {**record, "process_seconds": seconds, "trained_by": found[0].get("job") if found else None}

    def judged(self, record: dict[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
        """`record` with what the judge says, or with why it says nothing."""
        began = time.monotonic()
        self.watch.restart(self.job.get("gpus", []))  # the training has ended: what ends from now on is the judge's
        if self.process is None and not self.failed:
            self.start()
        found = {} if self.failed else self._ask(cancelled)
        if self.failed:
            found = {"status": "failed", "reason": self.failed}
        seconds = round(time.monotonic() - began, 3)
        return {**record, "program": self.program, **found, "seconds": seconds}

    def _ask(self, cancelled: Callable[[], bool]) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        self._tell("go")
        deadline = time.monotonic() + float(self.task["seconds"]) + GRACE_SECONDS
        said = b""
        while time.monotonic() < deadline and not cancelled() and not self.failed:
            self._watched()
            if not select.select([self.process.stdout], [], [], 0.05)[0]:
                continue
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            *lines, said = (said + part).split(b"\n")
            for line in lines:
                fields = json.loads(line)  # the judge is ours
                if "status" in fields:
                    return dict(fields)
                self._progress(fields)
            if not part or len(said) > LINE_BYTES:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(5.0)
                return {"status": "failed", "reason": f"the judge ended (exit code {self.process.returncode})"}
        return {"status": "failed", "reason": "asked to end" if cancelled() else "the judge did not answer in time"}

    def _progress(self, fields: Mapping[str, Any]) -> None:
        """A line for whoever watches, in the training's own file if that is one."""
        line = {**self._said(), "phase": "evaluate", "loss": None, "progress": fields.get("progress")}
        with suppress(OSError, ValueError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self.folder / METRICS_FILE, flags), "ab") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    file.write(json.dumps(line).encode() + b"\n")

    def taken(self) -> dict[str, Any]:
        """What the judge and its examinees took, when they have ended and nobody waits for them any more."""
        gpu_seconds = self.watch.gpu_seconds()
        return {"cpu_seconds": round(self.watch.cpu_seconds(), 3), "gpu_seconds": gpu_seconds}

    def sealed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What evaluation.json holds. A record without its seal when the run's key is gone: it then counts nothing."""
        try:
            return seals.sealed(seals.read_key(Path(self.task["key"])), record)
        except (AutoexpError, ValueError) as error:
            return {"evaluation": {"status": "failed", "reason": str(error)}, "seal": None}

    def _tell(self, what: Any) -> None:
        assert self.process is not None and self.process.stdin is not None
        with suppress(OSError):  # it is gone, and its answer will be missing
            self.process.stdin.write(json.dumps(what).encode() + b"\n")

    def end(self) -> None:
        """End the judge and its examinees, and remove the copy of the candidate."""
        if self.process is not None:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            # all that is left of this keeper is of the judge, also what has cleared its environment
            key = processes.judge_key(str(self.job["key"]))
            processes.end(key, grace_seconds=0.0, others=processes.descendants)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(processes.KILL_SECONDS)
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)
