"""An examinee, as the judge sees it: a process that is asked, believed nothing, and ended."""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from autoexp.model.errors import TrainingFailed
from autoexp.model.scoring import Answer, Ids, OnCpu, OnGpu
from autoexp.model.sharing import Sheet, nameless

LINE_BYTES = 8192  # of an answer; a longer one is none
FILE_BYTES = 1 << 30  # what it prints, and what is compiled for it
REASON_CHARACTERS = 300
PRINTED_BYTES = 1 << 16  # of what it printed, the end is kept


class Unanswered(TrainingFailed):
    """The examinee ended, said that it failed, said something else than an answer, or nothing in time."""


class Examinee:
    """One process with the candidate's model. Call `close` whatever happens."""

    def __init__(
        self,
        command: Sequence[str],
        folder: str,
        env: Mapping[str, str],
        shape: tuple[int, int, int],
        logits: bool,
    ) -> None:
        """Start it in `folder`; `shape` is (rows, tokens, vocab) at most, `logits` says whether they come through main
        memory. Raises OSError when it cannot be started.
        """
        descriptor = nameless()
        # a file of its own: by the size of one that two share, each could tell the other what it was asked
        self.printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        try:
            self.sheet = Sheet(descriptor, *shape, logits)  # before it runs: it finds a size that is settled
            self.requests, taken = socket.socketpair()  # through which an open file can be handed over
            self.process = subprocess.Popen(
                [*command, str(descriptor)],
                cwd=folder,
                env=dict(env),
                stdin=taken.fileno(),
                stdout=subprocess.PIPE,
                stderr=self.printed,
                bufsize=0,
                pass_fds=(descriptor,),
                start_new_session=True,
                preexec_fn=_limits(),
            )
        finally:
            os.close(descriptor)
        taken.close()
        assert self.process.stdout is not None
        self.answers: int = self.process.stdout.fileno()
        self.requests.setblocking(False)
        self.said = b""

    def fileno(self) -> int:
        """For select: readable when it has said something, or ended."""
        return self.answers

    def ask(self, do: str, files: Sequence[int] = (), **fields: Any) -> None:
        """Send a request, and open files with it. Raises Unanswered when nobody takes it."""
        line = json.dumps({"do": do, **fields}).encode() + b"\n"
        try:
            if socket.send_fds(self.requests, [line], list(files)) != len(line):
                raise BlockingIOError
        except OSError:
            raise Unanswered(self._ended() or "the model's process takes no request") from None

    def hear(self) -> dict[str, Any] | None:
        """Its answer, None when the line is not whole yet. Waits until there is something to read.

        Raises Unanswered.
        """
        part = os.read(self.answers, LINE_BYTES)
        self.said += part
        line, end, rest = self.said.partition(b"\n")
        if not part and not end:
            raise Unanswered(self._ended() or "the model's process closed its answers")
        if not end:
            if len(self.said) > LINE_BYTES:
                raise Unanswered("the model's process answered without end")
            return None
        self.said = rest
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("said"), str):
            raise Unanswered("the model's process answered with something that is no answer")
        if answer["said"] == "failed":
            raise Unanswered(f"the model failed: {words(answer.get('reason'))}")
        return answer

    def expect(self, said: str, deadline: float) -> dict[str, Any]:
        """Wait for that answer until `deadline`, by time.monotonic(). Raises Unanswered."""
        while select.select([self], [], [], max(0.0, deadline - time.monotonic()))[0]:
            answer = self.hear()
            if answer is not None:
                if answer["said"] != said:
                    raise Unanswered(f"the model's process answered {words(answer['said'])}, not {said}")
                return answer
            if time.monotonic() >= deadline:
                break
        raise Unanswered("the model did not answer in time")

    def _ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(1.0)
            return f"the model's process ended ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
        return ""

    def close(self) -> None:
        """End it and what it has started in its process group, and pass on what it printed. What left the group ends
        with the judge's keeper."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one in the hands of the kernel may take for ever
            self.process.wait(10.0)
        with suppress(OSError):
            self.printed.seek(max(0, os.fstat(self.printed.fileno()).st_size - PRINTED_BYTES))
            sys.stderr.buffer.write(self.printed.read(PRINTED_BYTES))
            sys.stderr.flush()
        for each in (self.requests, self.process.stdout, self.printed):
            if each is not None:
                with suppress(OSError):
                    each.close()


class Desk:
    """Where an examinee gets its questions and puts its answers: its ids in main memory, its logits there or, `lent`,
    on a GPU.
    """

    def __init__(self, examinee: Examinee, lent: Any = None) -> None:
        self.examinee, self.lent = examinee, lent

    def put(self, ids: Ids, number: int) -> None:
        """Ask for the logits of these rows. What is not answered would be no number."""
        rows = len(ids)
        if self.lent is not None:
            import torch

            self.lent[:rows].fill_(math.nan)
            torch.cuda.synchronize()  # from now on the other process writes there
        else:
            self.examinee.sheet.logits[:rows] = math.nan
        self.examinee.sheet.ids[:rows] = ids
        self.examinee.ask("answer", rows=rows, number=number)

    def take(self, rows: int) -> Answer:
        """The first rows of the answer, copied: what is shared can change at any moment."""
        if self.lent is not None:
            return OnGpu(self.lent[:rows].clone())
        return OnCpu(self.examinee.sheet.logits[:rows].copy())


def words(said: object) -> str:
    """A stranger's text on one line, printable, of bounded length."""
    text = said if isinstance(said, str) else repr(said)
    return "".join(char if char.isprintable() else " " for char in text[:REASON_CHARACTERS]).strip()


def _limits() -> Any:
    """Done in the child before it becomes the examinee: it ends with the judge, and writes no file without end."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def limit() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return limit
