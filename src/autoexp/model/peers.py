"""The other processes of a trial on several GPUs: started here, watched, and ended with this one.

They run the same command in the same process group, with torchrun's variables telling each its rank. Their output goes
to peer-<rank>.log. Each holds the reading end of a pipe as its stdin: when the process that started it is gone, however
that came about, it reads the end of the pipe and goes too.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed

from autoexp.model.errors import OUT_OF_MEMORY, OutOfMemory, TrainingFailed, tell

PEER = "AUTOEXP_PEER"  # set in those that were started here
GRACE_SECONDS = 2.0  # how long after the end of one the training may take to notice by itself
TCPStore: Any = getattr(torch.distributed, "TCPStore", None)  # not in a torch that was built without
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


class Peers:
    """Ranks 1 and up of `size` processes; rank 0, which makes this, is the one that they live with."""

    def __init__(
        self, size: int, environ: Mapping[str, str], logs: Path, lost: Callable[[TrainingFailed], None]
    ) -> None:
        """Start them. `lost` hears why, in another thread, just before this process is ended for want of one."""
        self.size, self.logs, self.lost = size, logs, lost
        self.over = threading.Event()  # from now on they may end
        listening = socket.create_server(("127.0.0.1", 0))  # where all meet; closed to other machines
        port = listening.getsockname()[1]
        self.store = TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # else a name server has a say in what is local
        count = str(size)
        shared = {**os.environ, **environ, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, PEER: "1"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        logs.mkdir(parents=True, exist_ok=True)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}  # by rank
        for rank in range(1, size):
            with self.log(rank).open("wb") as log:
                self.processes[rank] = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        for process in self.processes.values():
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def log(self, rank: int) -> Path:
        return self.logs / f"peer-{rank}.log"

    def ended(self, patience: float = 0.0) -> TrainingFailed | None:
        """The first found to have ended, within so many seconds, as an error that shows what it said last."""
        deadline = time.monotonic() + patience
        while True:
            for rank, process in self.processes.items():
                if (code := process.poll()) is not None:
                    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                    last = last_words(self.log(rank))
                    said = f"process {rank + 1} of {self.size} {how}" + (f": {last}" if last else "")
                    kind = OutOfMemory if code == OUT_OF_MEMORY else TrainingFailed
                    return kind(said, f"less {self.log(rank)}")
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """End this process when another has ended that should not have: on a GPU it would wait for it for ever."""
        process.wait()
        if self.over.wait(GRACE_SECONDS):
            return  # all are done, or the training has noticed
        error = self.ended()
        assert error is not None
        self.lost(error)
        sys.stdout.flush()
        os._exit(tell(error))

    def close(self, patience: float) -> None:
        """End those that are there after so many seconds."""
        self.over.set()
        deadline = time.monotonic() + patience
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def live_with_rank_0(environ: Mapping[str, str]) -> Any:
    """In a peer: from now on, end when the process that started this one has ended. Returns the store of all."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    return TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False)


def last_words(log: Path) -> str:
    """The error in the last lines of a log, else its last line; at most 200 characters, '' when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = re.sub(r"(?m)^\[rank\d+\]: ", "", file.read().decode(errors="replace"))  # torch marks tracebacks
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines[-2:] if line.startswith("error: ")]  # a hint may follow
    return (told or lines or [""])[-1][:200]
