"""What the command of an isolated training needs: its interpreter with all packages, and variables by name."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

NAMED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|COLUMNS|LD_LIBRARY_PATH|XDG_CACHE_HOME|VIRTUAL_ENV"
    r"|(?:CONDA|CUDA|NVIDIA|NCCL|GLOO|HIP|HSA|ROCR|ROCM|XLA|PYTORCH|TORCH|TORCHINDUCTOR|TRITON|OMP|MKL|OPENBLAS|KMP|GOMP"
    r"|NUMEXPR|UV|HF|PYTHON|TOKENIZERS)(?:_\w+)?|PYTHON\w+|CC|CXX"
    r"|AUTOEXP_(?:CACHE|DATA|DEVICE|DEVICE_BATCH|THREADS|COMPILE|ATTENTION|KERNELS|PROFILE\w*|PEER|JOB)"
)
"""Of the environment, what an isolated training is given beside what its job sets: how to compute, nothing personal."""
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "ptxas", "nvcc")
ASK_SECONDS = 60.0
SEES = (
    "import json, sys, sysconfig; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix,"
    " sys.executable, sysconfig.get_paths()['stdlib'], *sys.path]))"
)


def named(env: Mapping[str, str], given: Mapping[str, str], network: bool) -> dict[str, str]:
    """That part of a trainer's environment which it keeps when it is isolated; `given` is what its job sets."""
    kept = {name: text for name, text in env.items() if NAMED.fullmatch(name) or name in given}
    if not network:
        kept |= {"HF_HUB_OFFLINE": "1", "UV_OFFLINE": "1"}
        kept = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"} | kept
    if "UV_PROJECT_ENVIRONMENT" in kept:  # it can be read only, and was made before
        kept |= {"UV_NO_SYNC": "1", "UV_CACHE_DIR": "/tmp/uv", "UV_FROZEN": "1"}
    return kept


def places(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> list[Path]:
    """The files and folders that a command's program and its interpreter need, with all packages and compilers."""
    program = shutil.which(command[0], path=env.get("PATH")) or str(cwd / command[0])
    found = [Path(program), *(Path(p) for p in env.get("LD_LIBRARY_PATH", "").split(":") if p.startswith("/"))]
    found += _compilers(env)
    if "UV_PROJECT_ENVIRONMENT" in env:
        found.append(Path(env["UV_PROJECT_ENVIRONMENT"]))
    python = _interpreter(program, env)
    if python is not None:
        found += [Path(text) for text in _seen(python, env.get("PYTHONPATH", ""))]
    return [place for place in dict.fromkeys(found) if place.is_absolute() and place != Path("/")]


def _compilers(env: Mapping[str, str]) -> list[Path]:
    """What compiles for torch, where that is not of the system: the folder around its `bin`, which holds its parts too.

    A folder around the home, or the home itself, is too much: then it is the compiler's file alone.
    """
    home = Path(env.get("HOME") or "/")
    found = [Path(env[name]) for name in ("CUDA_HOME", "CUDA_PATH") if env.get(name, "").startswith("/")]
    for name in (env.get("CC", ""), env.get("CXX", ""), *COMPILERS):
        program = shutil.which(name.split()[0], path=env.get("PATH")) if name.split() else None
        for file in (Path(program), Path(program).resolve()) if program is not None else ():
            folder = file.parent.parent
            own = file.parent.name == "bin" and folder != Path("/") and not home.is_relative_to(folder)
            found.append(folder if own else file)
    return found


def _interpreter(program: str, env: Mapping[str, str]) -> str | None:
    """The Python that a program is, uses or starts, as far as that can be told."""
    name = program.rsplit("/", 1)[-1]
    if re.fullmatch(r"(python|pypy)[\d.]*", name):
        return program
    if name == "uv":
        python = f"{env.get('UV_PROJECT_ENVIRONMENT', '')}/bin/python"
        return python if os.path.exists(python) else None  # noqa: PTH110
    try:
        with open(program, "rb") as file:
            first = file.readline(1000)
    except OSError:
        return None
    words = first[2:].decode(errors="replace").split() if first.startswith(b"#!") else []
    if words and words[0].endswith("/env"):
        words = [shutil.which(word, path=env.get("PATH")) or "" for word in words[1:] if not word.startswith("-")]
    return words[0] if words and "python" in words[0].rsplit("/", 1)[-1] else None


@functools.cache
def _seen(python: str, path: str) -> tuple[str, ...]:
    """The places that a Python imports from, those of packages in editable mode too, by asking it once."""
    env = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [python, "-c", SEES], capture_output=True, text=True, timeout=ASK_SECONDS, env=env, cwd="/",
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found = [str(place) for place in json.loads(done.stdout) if place]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()
    return tuple(dict.fromkeys([*found, *(mapped for place in found for mapped in _mapped(Path(place)))]))


def _mapped(folder: Path) -> list[str]:
    """Where the packages lie that are installed in editable mode by a finder, not by a path."""
    found = []
    for finder in folder.glob("__editable__*.py") if folder.name in ("site-packages", "dist-packages") else ():
        try:
            found += re.findall(r"'(/[^'\n]+)'", finder.read_text(errors="replace"))
        except OSError:
            continue
    return found
