"""What a training takes, seen from outside: processor time, memory, disk, processes, the time of its GPUs."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

COUNT_SECONDS, LOOK_SECONDS, FAR_SECONDS = 0.1, 1.0, 15.0
"""How often processes are counted, memory and its own folder looked at, and other folders that it may write to."""
MOST_FILES = 100_000
"""In the folders that a training may write to; as good as a full disk."""
SAMPLE_MILLISECONDS = 500


class Limits:
    """What is too much. None of a number: anything goes."""

    def __init__(
        self,
        own: Sequence[Path] = (),
        others: Sequence[Path] = (),
        disk_bytes: int | None = None,
        processes: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.own, self.others, self.disk_bytes = own, others, disk_bytes
        self.processes, self.memory_bytes = processes, memory_bytes


class Watch:
    """Looks at the processes that `found` names, from now on."""

    def __init__(self, limits: Limits, found: Callable[[], list[psutil.Process]], gpus: Sequence[str] = ()) -> None:
        self.limits, self.found = limits, found
        self.gpus = Gauge(gpus) if gpus else None
        self.memory_bytes = 0
        """The most that they had."""
        self.before = _spent_by_children()
        self.seen: dict[tuple[int, float], float] = {}
        """Processor time of each process, by pid and start, when it was last looked at: of those whose parent does not
        want to know how they end the kernel tells nobody."""
        self.elsewhere = 0.0
        """Processor time that was spent by what became one of them later, and not for this job."""
        self.there = _processes()
        self.first = _used(limits.others) if limits.disk_bytes is not None else (0, 0)
        self.counted = self.looked = self.far = time.monotonic()

    def look(self) -> str:
        """What is too much, in words; '' as long as nothing is. Cheap, to be called many times a second."""
        now = time.monotonic()
        said = ""
        if now - self.counted >= COUNT_SECONDS:
            self.counted = now
            said = self._count()
        if not said and now - self.looked >= LOOK_SECONDS:
            self.looked = now
            said = self._memory() or self._disk(now - self.far >= FAR_SECONDS)
            if self.gpus is not None:
                self.gpus.read()
        return said

    def _count(self) -> str:
        most = self.limits.processes
        # all of the machine first: to look at each would take longer than to start one
        if most is None or _processes() - self.there <= most or len(self.found()) <= most:
            return ""
        return f"it had more than {most} processes (train.max_processes)"

    def _memory(self) -> str:
        sizes = []
        for process in self.found():
            with suppress(psutil.Error, OSError):
                self.seen[process.pid, process.create_time()] = sum(process.cpu_times()[:2])
                info = process.memory_info()
                sizes.append((info.rss - getattr(info, "shared", 0), getattr(info, "shared", 0)))
        used = sum(own for own, _ in sizes) + max((shared for _, shared in sizes), default=0)
        self.memory_bytes = max(self.memory_bytes, used)
        most = self.limits.memory_bytes
        return (
            f"it took more than {most / (1 << 30):.3g} GiB of memory (train.max_memory_gb)"
            if most and used > most
            else ""
        )

    def _disk(self, far: bool) -> str:
        most = self.limits.disk_bytes
        if most is None:
            return ""
        size, files = _used(self.limits.own)
        if far and self.limits.others:
            self.far = time.monotonic()
            grown = [now - first for now, first in zip(_used(self.limits.others), self.first, strict=True)]
            size, files = size + max(0, grown[0]), files + max(0, grown[1])
        if size > most:
            return f"it wrote more than {most / (1 << 30):.3g} GiB of files (train.max_disk_gb)"
        return f"it wrote more than {MOST_FILES} files" if files > MOST_FILES else ""

    def cpu_seconds(self) -> float:
        """Of all that have ended and were waited for, or of all that were seen at work, whichever is more."""
        spent = max(_spent_by_children() - self.before, sum(self.seen.values()))
        return max(0.0, spent - self.elsewhere)

    def restart(self, gpus: Sequence[str]) -> None:
        """Count from now on what ends, and the time of these GPUs; what was seen stays."""
        self.before = _spent_by_children()
        self.gpus = Gauge(gpus) if gpus else None

    def gpu_seconds(self) -> float | None:
        """Of the busiest GPU; None where no driver says. It is looked at no more."""
        seconds = self.gpus.end() if self.gpus is not None else None
        self.elsewhere += self.gpus.spent if self.gpus is not None else 0.0
        return seconds


class Gauge:
    """How long NVIDIA GPUs are at work, as their driver says every half second."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self.seconds: dict[str, float] = {}
        self.times: dict[str, float] = {}
        self.rest = b""
        self.spent = 0.0
        """Processor time of the driver's program itself."""
        self.process: subprocess.Popen[bytes] | None = None
        query = ["--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits"]
        command = ["nvidia-smi", "-i", ",".join(gpus), *query, "-lms", str(SAMPLE_MILLISECONDS)]
        with suppress(OSError):
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
            assert self.process.stdout is not None
            os.set_blocking(self.process.stdout.fileno(), False)

    def read(self) -> None:
        """Add up what was said since the last time."""
        if self.process is None or self.process.stdout is None:
            return
        with suppress(OSError):
            while part := os.read(self.process.stdout.fileno(), 1 << 16):
                self.rest += part
        *lines, self.rest = self.rest.split(b"\n")
        busy: dict[str, list[float]] = {}
        for line in lines:
            index, _, percent = line.decode(errors="replace").partition(",")
            with suppress(ValueError):
                busy.setdefault(index.strip(), []).append(float(percent) / 100)
        now = time.monotonic()
        for index, shares in busy.items():
            if index in self.times:
                self.seconds[index] = self.seconds.get(index, 0.0) + (now - self.times[index]) * sum(shares) / len(
                    shares
                )
            self.times[index] = now

    def end(self) -> float | None:
        """The seconds of the busiest one; None when nothing was said."""
        self.read()
        if self.process is not None:
            with suppress(psutil.Error):
                self.spent = sum(psutil.Process(self.process.pid).cpu_times()[:2])
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck in a driver it does not even die
                self.process.wait(1.0)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None
        return round(max(self.seconds.values()), 3) if self.seconds else None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None


def _processes() -> int:
    """How many there are on this machine."""
    try:
        return sum(name.isdecimal() for name in os.listdir("/proc"))
    except OSError:
        return len(psutil.pids())


def _used(folders: Sequence[Path]) -> tuple[int, int]:
    """(bytes on disk, files) in these folders, up to too many files."""
    size = files = 0
    for folder in folders:
        for parent, inside, names in os.walk(folder):
            for name in (*inside, *names):
                with suppress(OSError):
                    size += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118
                files += 1
            if files > MOST_FILES:
                return size, files
    return size, files


def _spent_by_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
