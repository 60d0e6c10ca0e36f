"""The judge: bits per byte of a checkpoint, by the harness alone. `python -P -m autoexp.model.judge`

The keeper of a training starts it while that runs, and sends a line of JSON on stdin (`Task`). It reads the data,
starts two examinees that import the candidate's program and, on a GPU that has room beside the training, build and
compile its model, and waits. With the next line, `go`, the checkpoint is there: it has the weights loaded, asks, and
prints a line of JSON on stdout. Lines before that say how far it is.

    {"progress": 0.25}
    {"status": "ok", "metrics": {"val_bpb": 1.234}, "checks": {...}, "checkpoint": "<sha256>", ...}
    {"status": "failed", "reason": "the model failed: ..."}
    {"status": "refused", "reason": "the model sees tokens it is to predict: ..."}

What was refused is not to be asked again: the plan of an examination is drawn, and a second draw is a second chance.

No code of the candidate's runs in this process, and nothing that comes from it is more than numbers and short texts.
When stdin is closed before that it ends.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoexp.model.asking import Desk, Examinee, Unanswered
from autoexp.model.errors import Refused, TrainerError, TrainingFailed
from autoexp.model.examination import Examination, examine, prepared_examination
from autoexp.model.examinee import NO_SHARING
from autoexp.model.prepared import ROWS, TOKEN_BYTES, TOKENIZER, Prepared, find_prepared
from autoexp.model.profiles import PROFILES, driver_in_sight
from autoexp.model.sharing import lend
from autoexp.model.storage import sha256_file

MOST_ROWS = {"cpu": 64, "cuda": 128}  # at once
MOST_BYTES = {"cpu": 2**26, "cuda": 2**31}  # of their logits
SHARE = 1 / 32  # of a GPU's memory may hold the logits of an examinee
ROOM = 24 * 2**30  # bytes free on a GPU: so much is more than two examinees and the judge take
SAY_SECONDS = 0.25


@dataclass(frozen=True)
class Task:
    """What is to be judged, and where."""

    program: str
    """Path of the program within `folder`."""
    folder: str
    """A copy of the candidate's commit."""
    examinees: tuple[tuple[str, ...], tuple[str, ...]]
    """The command of each examinee, isolation included; a descriptor's number is added to it."""
    env: Mapping[str, str]
    """The environment of an examinee."""
    profile: str
    """The profile whose data is looked for where AUTOEXP_DATA names none."""
    splits: tuple[str, ...]
    checkpoint: str
    seconds: float
    """How long it may take, counted from `go`."""


def main() -> int:
    """Judge one checkpoint. Returns the exit code, 0 whatever was found."""
    _keep_out()
    words = os.dup(1)
    os.dup2(2, 1)

    def say(**fields: Any) -> None:
        os.write(words, json.dumps(fields, allow_nan=False).encode() + b"\n")

    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 0
    task = Task(**json.loads(line))
    try:
        judge = Judge(task)
    except (TrainerError, OSError) as error:
        sys.stdin.buffer.readline()  # it is told when it is asked
        say(status="failed", reason=_reason(error))
        return 0
    with judge.closing():
        if not sys.stdin.buffer.readline().endswith(b"\n"):
            return 0
        last = time.monotonic()

        def tick(done: float) -> None:
            nonlocal last
            if time.monotonic() - last >= SAY_SECONDS:
                last = time.monotonic()
                say(progress=round(done, 4))

        answer = _found(judge, tick)
    say(**answer, **judge.facts)  # when the examinees have ended: what they took is known then, and what they printed
    return 0


def _found(judge: Judge, tick: Callable[[float], None]) -> dict[str, Any]:
    try:
        return {"status": "ok", **judge.judge(tick)}
    except Refused as error:
        return {"status": "refused", "reason": _reason(error)}
    except (TrainerError, OSError, RuntimeError) as error:  # RuntimeError: of CUDA, out of memory among them
        return {"status": "failed", "reason": _reason(error)}


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, TrainerError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:1000]


class Judge:
    """Data, examinees and the secret plan of an examination."""

    def __init__(self, task: Task) -> None:
        """Read the data and start the examinees. Raises TrainerError or OSError."""
        self.task = task
        self.data = find_prepared(task.profile, os.environ)
        self.device = _device(self.data)
        self.examinees: list[Examinee] = []
        self.through_memory = self.device != "cuda"
        self.desks: tuple[Desk, Desk] | None = None
        try:
            self._start()
            rng = np.random.default_rng(int.from_bytes(os.urandom(32)))
            # data of an older release has no test split: then only the others are asked about
            splits = tuple(split for split in task.splits if self.data.has(split))
            self.examination: Examination = prepared_examination(self.data, splits, rng)
            self.facts: dict[str, Any] = {
                "harness": harness_hash(),
                "data": data_hashes(self.data, splits),
                "device": self.device,
            }
            if self.device == "cuda":
                self._build_early()
        except BaseException:
            self._end()
            raise

    def _start(self) -> None:
        rows = _rows(self.device, self.data)
        shape = rows, self.data.seq_len, self.data.vocab_size
        for command in self.task.examinees:
            new = Examinee(command, self.task.folder, self.task.env, shape, self.through_memory)
            self.examinees.append(new)
            new.ask("import", program=self.task.program)

    def _end(self) -> None:
        for examinee in self.examinees:
            examinee.close()
        self.examinees, self.desks = [], None

    @contextmanager
    def closing(self) -> Iterator[None]:
        """End the examinees, whatever happens."""
        try:
            yield
        finally:
            self._end()

    def judge(self, tick: Callable[[float], None]) -> dict[str, Any]:
        """The metrics and what was checked. Raises TrainingFailed, or what torch and the system raise."""
        deadline = time.monotonic() + self.task.seconds
        files = open_checkpoint(Path(self.task.checkpoint), 3)  # each with a place of its own to read at
        try:
            with ThreadPoolExecutor(1) as beside:
                checkpoint = beside.submit(hash_file, files[0])  # a second for each gigabyte
                try:
                    return self._judge(files[1:], deadline, tick)
                finally:
                    self.facts["checkpoint"] = checkpoint.result()
        finally:
            for file in files:
                os.close(file)

    def _judge(self, files: list[int], deadline: float, tick: Callable[[float], None]) -> dict[str, Any]:
        began = time.monotonic()
        try:
            desks = self.desks or self._build(deadline)
        except Unanswered as error:
            if NO_SHARING not in str(error):
                raise
            self._end()  # again, through main memory: slower, and the same
            self.through_memory = True
            self._start()
            desks = self._build(deadline)
        for desk, file in zip(desks, files, strict=True):
            desk.examinee.ask("load", [file])
        for desk in desks:
            desk.examinee.expect("loaded", deadline)
        self.facts["load_seconds"] = round(time.monotonic() - began, 3)
        examine(self.examination, desks, self.rows, deadline, tick)
        checks = self.examination.verdict()
        metrics = {f"{split}_bpb": value for split, value in self.examination.bits_per_byte().items()}
        tokens = sum(len(question.ids) for part in self.examination.questions for question in part if question.split)
        return {"metrics": metrics, "checks": checks, "tokens": tokens, "dtype": self.examination.dtype}

    def _build_early(self) -> None:
        """Build the models while the training still runs, if its GPU has room for that; else later."""
        import torch

        if torch.cuda.mem_get_info()[0] < ROOM:
            return
        try:
            self.desks = self._build(time.monotonic() + self.task.seconds)
        except (Unanswered, RuntimeError):  # RuntimeError: of CUDA, out of memory among them
            self._end()
            self._start()

    def _build(self, deadline: float) -> tuple[Desk, Desk]:
        """Have the examinees build the model, ready to be asked but for its weights. Raises Unanswered."""
        lent: list[tuple[Any, list[int]]] = [(None, []), (None, [])]
        self.rows = _rows(self.device, self.data)
        if not self.through_memory:
            import torch

            most = int(torch.cuda.mem_get_info()[1] * SHARE) // _row_bytes(self.data)
            self.rows = max(1, min(self.rows, most))
            try:
                for place in range(2):
                    tensor, descriptor = lend((self.rows, self.data.seq_len, self.data.vocab_size))
                    lent[place] = tensor, [descriptor]
            except OSError as error:
                raise Unanswered(f"{NO_SHARING}: {error}") from error
        for examinee in self.examinees:
            examinee.expect("ready", deadline)
        for examinee, (_, memory) in zip(self.examinees, lent, strict=True):
            examinee.ask(
                "build",
                memory,
                rows=self.rows,
                tokens=self.data.seq_len,
                vocab=self.data.vocab_size,
                device=self.device,
                threads=_threads() if self.device == "cpu" else 0,
            )
            for descriptor in memory:
                os.close(descriptor)
        for examinee in self.examinees:
            examinee.expect("built", deadline)
        self.examination.dtype = self._dtype()
        one, two = (Desk(examinee, tensor) for examinee, (tensor, _) in zip(self.examinees, lent, strict=True))
        return one, two

    def _dtype(self) -> str:
        """The precision of the device: an examinee's own word would buy it tolerance."""
        if self.device == "cuda":
            from autoexp.model.devices import open_device

            return str(open_device({"AUTOEXP_DEVICE": "cuda"}).dtype).removeprefix("torch.")
        return "float32"


def _rows(device: str, data: Prepared) -> int:
    """How many rows are asked at once: few enough that there are some askings, for what was asked before to matter."""
    kind = "cuda" if device == "cuda" else "cpu"
    return max(1, min(MOST_ROWS[kind], MOST_BYTES[kind] // _row_bytes(data), data.eval_rows // 8))


def _row_bytes(data: Prepared) -> int:
    return data.seq_len * data.vocab_size * 4


def _device(data: Prepared) -> str:
    """Where the examinees compute: cpu, cuda or mps, as the training does."""
    profile = PROFILES.get(str(data.meta.get("profile")))
    wanted = os.environ.get("AUTOEXP_DEVICE") or ("cpu" if profile is not None and profile.device == "cpu" else "best")
    if wanted == "best" and sys.platform != "darwin" and not driver_in_sight():
        return "cpu"
    if wanted == "best":
        from autoexp.model.devices import best_device

        return best_device()
    return wanted.partition(":")[0]


def _threads() -> int:
    """Of an examinee on a CPU: there are two of them, and the judge. On few cores one each: more would only wait."""
    if named := os.environ.get("AUTOEXP_THREADS", ""):
        return int(named) if named.isdecimal() and int(named) > 0 else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // 4))


def open_checkpoint(path: Path, times: int) -> list[int]:
    """Descriptors of one file, opened so many times. Raises TrainingFailed when it is none: a link might lead anywhere,
    and what is judged must be what was hashed."""
    files: list[int] = []
    why = ""
    try:
        while len(files) < times:
            files.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
        found = [os.fstat(file) for file in files]
        if not all(stat.S_ISREG(each.st_mode) for each in found):
            why = "it is no file"
        elif len({(each.st_dev, each.st_ino) for each in found}) > 1:
            why = "it is replaced while it is read"
    except OSError as error:
        why = error.strerror or "it cannot be read"
    if why:
        for file in files:
            os.close(file)
        raise TrainingFailed(f"there is no checkpoint: {why}")
    return files


def hash_file(descriptor: int) -> str:
    """SHA-256 of an open file."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def harness_hash() -> str:
    """SHA-256 over the sources of this package, with their names."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def data_hashes(data: Prepared, splits: tuple[str, ...]) -> dict[str, str]:
    """What the number depends on: SHA-256 of the evaluated rows, of the tokenizer and of its tokens' lengths.

    Raises BadInput for a file that is not what was prepared.
    """
    files = {"tokenizer": TOKENIZER, "token_bytes": TOKEN_BYTES, **{split: ROWS[split] for split in splits}}
    hashes = data.hashes(files.values())
    return {"prepared": str(data.meta["hash"]), **{name: hashes[file] for name, file in files.items()}}


def _keep_out() -> None:
    """Nobody else of this user may read or write the memory of this process: the plan is a secret."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
