"""An isolated job, by its keeper: the folder that it works in, what it is started with, and what is kept of it.

    <the job's folder>/scratch/          what the training sees at `INSIDE`, and all that it can change
                       copies/<n>/       its copies of the caches of compiled code
                       seat/             both, of the next job's process, which stands by in the same sandbox

The keeper's own files are out of its sight. When it has ended, plain files and folders are moved from the scratch
folder to the job's; links, pipes and what has the name of a keeper's file are not.

A sandbox is made once. So that a process in one can become the trainer of a job that is not known yet, it sees the
job's folder at a place that is the same for all jobs, and what lies there is moved: a mount follows its folder.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoexp.executors import isolation, surroundings
from autoexp.executors.isolation import View
from autoexp.workspace import paths as names
from autoexp.workspace.paths import COPIES, LOG_FILE, METRICS_FILE, SCRATCH, SEAT

INSIDE = Path("/autoexp/job")
"""Where an isolated training sees its job's folder."""
MOST_ENTRIES = 1000
"""So many files and folders of a training are kept at most; a report, a checkpoint and some logs are a handful."""
KEEPERS = frozenset(
    [
        *(names.JOB_FILE, names.LOCK_FILE, names.EXIT_FILE, names.KILL_FILE, names.ERRORS_FILE, names.WAIT_FILE),
        *(LOG_FILE, names.PATCH_FILE, SCRATCH, COPIES, SEAT, "evaluation.json", "evaluation.log", "triage"),
    ]
)
"""What the job's folder holds that is not of the training's making."""
LARGEST_CACHE = 4 << 30
"""A larger cache is not copied: the training then compiles all that it wants."""
COPY_SECONDS = 120.0
DRIVER_SECONDS = 20.0
FIRST_TO_GO = "600"
"""How readily the kernel ends it when the machine's memory is full (oom_score_adj, -1000 to 1000)."""


class Confining:
    """The isolation of one job, `job` being its job.json; of one that is to come, what job.json will say of that."""

    def __init__(self, job: Mapping[str, Any], folder: Path) -> None:
        self.folder, self.cwd = folder, Path(str(job["cwd"]))
        self.wanted: Mapping[str, Any] = job["isolation"]
        self.scratch = folder / SCRATCH
        self.copies = {folder / COPIES / str(n): Path(place) for n, place in enumerate(self.wanted["copied"])}
        free = shutil.disk_usage(folder).free
        self.most_bytes = min(int(self.wanted["max_disk_bytes"]), max(1 << 30, free * 9 // 10))

    def make(self) -> str:
        """Make the folders, empty. Returns the name of what confines.

        Raises OSError, or ValueError where nothing does.
        """
        said = self._name()  # first: where nothing confines nothing is made
        _wake_driver()
        self.scratch.mkdir(parents=True)  # a new one: what is there already is not ours
        for copy in self.copies:
            copy.mkdir(parents=True)
        return said

    def seat(self, seat: Confining) -> str:
        """Take over the folders of who stands by, in place of `make`. Returns and raises the same."""
        os.rename(seat.scratch, self.scratch)
        if self.copies:
            os.rename(seat.folder / COPIES, self.folder / COPIES)
        os.link(self.folder / LOG_FILE, self.scratch / LOG_FILE)  # which it opens by itself
        return self._name()

    def _name(self) -> str:
        return isolation.name() + (", with the network" if self.wanted["network"] else "")

    def fill(self) -> None:
        """Put into the folders what a training finds there. Raises OSError."""
        # one file at two places: the training's progress is read in the job's folder while it runs
        (self.folder / METRICS_FILE).touch()
        with suppress(FileExistsError):
            os.link(self.folder / METRICS_FILE, self.scratch / METRICS_FILE)
        for copy, place in self.copies.items():
            copy_cache(place, copy)

    def started_with(self, command: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """(the command, the environment) that start `command` confined."""
        given = self.environment(env)
        needed = surroundings.places(command, env, self.cwd)
        view = View(
            readable=(*map(Path, self.wanted["readable"]), *needed, self.cwd),
            hidden=tuple(map(Path, self.wanted["hidden"])),
            writable=tuple(map(Path, self.wanted["writable"])),
            network=self.wanted["network"],
            placed=((self.scratch, INSIDE), *self.copies.items()),
        )
        return isolation.confined(command, view), given

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """What of a trainer's environment a confined one is given, as it is true inside."""
        kept = surroundings.named(env, self.wanted["env"], self.wanted["network"])
        return {name: self._inside(text) for name, text in kept.items()} | {"TMPDIR": "/tmp"}

    def _inside(self, text: str) -> str:
        folder = str(self.folder)
        return str(INSIDE) + text.removeprefix(folder) if text == folder or text.startswith(f"{folder}/") else text

    def limited(self, then: Callable[[], None] | None) -> Callable[[], None]:
        """What is to be done in the new process before it is anybody: limits, and `then`."""
        most = self.most_bytes

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write(FIRST_TO_GO)
            if then is not None:
                then()

        return limit

    def collect(self, good: bool) -> None:
        """Once all its processes are gone: keep what counts, remove the rest. `good`: it ended as it should."""
        if good and self.wanted["keeps_copies"]:
            for copy, place in self.copies.items():
                with suppress(OSError):
                    _keep(copy, place)
        collect(self.folder)


def collect(folder: Path) -> None:
    """Move what an isolated training has left to its job's folder, if it was isolated and that was not done yet."""
    scratch = folder / SCRATCH
    if not stat.S_ISDIR(_mode(scratch)):
        return
    with suppress(OSError), os.scandir(scratch) as entries:
        for number, entry in enumerate(entries):
            if number < MOST_ENTRIES and entry.name not in KEEPERS:
                with suppress(OSError):
                    _take(Path(entry.path), folder / entry.name)
    _remove(scratch)
    _remove(folder / COPIES)


def leave(seat: Path) -> None:
    """Remove the folder of what stood by, and what it still holds."""
    _remove(seat)


def exit_code(code: int | None) -> int | None:
    """The exit code of a confined program, negative for a signal, by that of what confined it."""
    return 128 - code if code is not None and 128 < code <= 128 + 64 else code


def _wake_driver() -> None:
    """Make the device files of NVIDIA's driver that CUDA makes when it is first used: inside it could not."""
    if os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/nvidia-uvm"):  # noqa: PTH110
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["nvidia-modprobe", "-u", "-c=0"], stdin=subprocess.DEVNULL, capture_output=True, timeout=DRIVER_SECONDS
            )


def _take(source: Path, place: Path) -> None:
    """Move a file or a folder, without what is neither. A file may replace one; what is there counts more otherwise."""
    mode = _mode(source)
    if stat.S_ISDIR(mode) and not os.path.lexists(place):
        for parent, folders, files in os.walk(source):
            for each in (*folders, *files):
                kind = _mode(Path(parent, each))
                if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                    Path(parent, each).unlink()
        os.rename(source, place)
    elif stat.S_ISREG(mode) and not stat.S_ISDIR(_mode(place)):
        source.chmod(0o644)
        os.replace(source, place)


def _mode(path: Path) -> int:
    """Of what is there itself, links not followed; 0 for nothing."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def copy_cache(place: Path, copy: Path) -> None:
    """Copy a cache into a folder, as far as it is one and can be copied."""
    if place.is_dir() and _size(place) <= LARGEST_CACHE:
        command = ["cp", "-R", "-P", "-p", *_reflink(), f"{place}/.", str(copy)]
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COPY_SECONDS)


def _reflink() -> list[str]:
    return ["--reflink=auto"] if shutil.which("bwrap") else []  # then it is a Linux, and cp that of its kind


def _size(folder: Path) -> int:
    return sum(Path(parent, name).lstat().st_size for parent, _, files in os.walk(folder) for name in files)


def _keep(copy: Path, place: Path) -> None:
    """Move the new files of a copy to where it was copied from."""
    for parent, _, files in os.walk(copy):
        to = place / Path(parent).relative_to(copy)
        for name in files:
            if stat.S_ISREG(_mode(Path(parent, name))) and not os.path.lexists(to / name):
                to.mkdir(parents=True, exist_ok=True)
                os.rename(Path(parent, name), to / name)


def _remove(folder: Path) -> None:
    """Remove a folder, also one whose owner has shut it."""
    if stat.S_ISDIR(_mode(folder)):
        for parent, folders, _ in os.walk(folder):
            for name in folders:
                with suppress(OSError):
                    if stat.S_ISDIR(_mode(Path(parent, name))):
                        Path(parent, name).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)
