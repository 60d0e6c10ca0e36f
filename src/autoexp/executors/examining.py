"""What a judge and its examinees are started with: a copy of the candidate's commit, an environment, a command."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from autoexp.executors import surroundings
from autoexp.executors.confining import copy_cache
from autoexp.executors.isolation import View
from autoexp.executors.isolation import confined as confine
from autoexp.executors.processes import JOB

JUDGE, EXAMINEE = "autoexp.model.judge", "autoexp.model.examinee"
EXPORT_SECONDS = 120.0
NAMED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|DYLD_\w+|XDG_CACHE_HOME"
    r"|(?:CUDA|NVIDIA|NCCL|HIP|HSA|ROCR|ROCM|PYTORCH|TORCH|TORCHINDUCTOR|TRITON|OMP|MKL|OPENBLAS|KMP|GOMP)_?\w*"
    r"|PYTHON\w*|VIRTUAL_ENV|CONDA_PREFIX|CC|CXX|AUTOEXP_(?:CACHE|DEVICE|THREADS|COMPILE|ATTENTION|KERNELS)"
)
"""Of the environment, what an examinee is given beside `train.env`: how to compute, and nothing of the run."""


def environments(job: Mapping[str, Any], trainer: Mapping[str, str], key: str) -> tuple[dict[str, str], dict[str, str]]:
    """(the judge's environment, the examinees'), by a job.json, its trainer's environment and the judge's own key.

    A relative place in PYTHONPATH would be one of the candidate's.
    """
    given = {name for name in job["env"] if not name.startswith("AUTOEXP_")}
    named = {name: text for name, text in trainer.items() if NAMED.fullmatch(name) or name in given}
    if "PYTHONPATH" in named:
        places = [place for place in named["PYTHONPATH"].split(os.pathsep) if os.path.isabs(place)]  # noqa: PTH117
        named["PYTHONPATH"] = os.pathsep.join(places)
    named[JOB] = key
    data = {name: trainer[name] for name in ("AUTOEXP_DATA",) if name in trainer}
    return {**named, **data}, named


def confined(
    command: Sequence[str], env: Mapping[str, str], job: Mapping[str, Any], program: Path, compiled: Path, copies: Path
) -> list[str]:
    """The command of an examinee that sees its interpreter, the program, what was compiled for the training, and
    nothing else of the user's; of the program not what its training does not see. The checkpoint it is handed by the
    judge.

    The training's caches, in `compiled`, are copied into the new folder `copies`: two examinees with one folder could
    tell each other what they were asked. Raises ValueError where nothing can be confined, or OSError.
    """
    isolation, worktree = job["isolation"], Path(job["cwd"])
    readable = (program, *surroundings.places(command, env, program), *_kernels(isolation))
    hidden = [Path(place) for place in isolation["hidden"]]
    hidden += [program / place.relative_to(worktree) for place in hidden if place.is_relative_to(worktree)]
    placed = []
    copies.mkdir()
    for number, place in enumerate(isolation["copied"]):
        (copies / str(number)).mkdir()
        copy_cache(compiled / str(number), copies / str(number))
        placed.append((copies / str(number), Path(place)))
    return confine(command, View(readable=readable, hidden=tuple(hidden), placed=tuple(placed)))


def _kernels(isolation: Mapping[str, Any]) -> list[Path]:
    """Of what the training may read, the kernels that were fetched for its attention."""
    return [Path(place) for place in isolation["readable"] if "huggingface" in Path(place).parts]


def export(repository: Path, commit: str, folder: Path) -> None:
    """Put the files of a commit into `folder`: those that were committed, whatever became of a worktree since.

    Raises OSError, with the reason.
    """
    env = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    archive = folder.with_suffix(".tar")
    command = ["git", "-C", str(repository), "archive", "--format=tar", "-o", str(archive), commit]
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=EXPORT_SECONDS
        )
        if done.returncode:
            raise OSError(f"the candidate's files cannot be had: {done.stderr.strip()[:300]}")
        folder.mkdir(mode=0o700)
        with tarfile.open(archive) as tar:
            for member in tar:
                with suppress(tarfile.FilterError):  # a link that leads out of the folder
                    tar.extract(member, folder, filter="data")
    except (subprocess.SubprocessError, tarfile.TarError) as error:
        raise OSError(f"the candidate's files cannot be had: {error}") from error
    finally:
        archive.unlink(missing_ok=True)


def command(python: str, module: str) -> list[str]:
    """How a process of the trainer package is started. -P: its folder is no place to import from."""
    return [python, "-P", "-m", module]


def hash_of(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started, as far as that still lives."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def opened(path: Path) -> int:
    """A new file for what is printed, in a folder that a stranger could write to; /dev/null when that is prevented."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
