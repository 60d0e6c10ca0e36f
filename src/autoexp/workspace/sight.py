"""What an isolated training of a workspace may see beside the system and its interpreter."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoexp.workspace.constants import declared
from autoexp.workspace.paths import RunPaths, Workspace, cache_dir
from autoexp.workspace.settings import Settings, filled
from autoexp.workspace.trainer import PACKAGE

HELD_OUT = ("val.rows", "test.rows", ".val.rows.*", ".test.rows.*", "encoded-*")
"""Of a folder of prepared data: the rows that trials are judged by, and what a killed preparation left of them."""
BUNDLED = "model/bundled"
"""The package's own text, validation part included; only preparing reads it."""
BY_DEFAULT = ("cpu",)
"""Profiles for whose machines isolation and the judge are in force without being asked for. On a GPU both have run, but
not all of it: a judge that builds models beside the training, and a trainer that stands by in its sandbox, have not.
"""
COMPILED = ("compiled", "device-batch")
"""Of the cache: what the trainer's harness writes there."""
OF_COMPILERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
"""Variables that name folders of compiled code."""


@dataclass(frozen=True)
class Sight:
    """All absolute; what is not there counts as not named."""

    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    writable: tuple[Path, ...]
    copied: tuple[Path, ...]


def ours(sources: Iterable[str]) -> bool:
    """Whether a program is made with autoexp's trainer, which stands being isolated. Ask it of a run's base: what a
    candidate says of itself frees it from nothing.
    """
    return any(PACKAGE in source for source in sources)


def by_default(sources: Iterable[str]) -> bool:
    """Whether the profile that a program is for is one whose trainings are isolated by default."""
    named = (declared(source).get("PROFILE") for source in sources)
    return all(constant.value in BY_DEFAULT for constant in named if constant is not None)


def sight(workspace: Workspace, paths: RunPaths, settings: Settings, worktree: Path, sealed: bool = False) -> Sight:
    """What a training in `worktree` may see. `sealed`: others judge it, and what it is judged by is hidden from it."""
    train, cache = settings.train, cache_dir().absolute()
    values = [filled(value, workspace) for value in train.env.values()]
    named = [Path(value) for value in values if value.startswith("/") and os.path.lexists(value)]
    data = [cache / "prepared"] if "AUTOEXP_DATA" not in train.env else []
    readable = [
        worktree,
        *data,
        *named,
        *_required(workspace, settings),
        *(workspace.root / name for name in settings.files.link),
        *(_place(text, workspace) for text in train.readable),
        _hub(),
    ]
    return Sight(
        readable=tuple(readable),
        hidden=(workspace.runs, workspace.root / ".git", *(_held_out(readable, workspace, worktree) if sealed else ())),
        writable=tuple(_place(text, workspace) for text in train.writable),
        copied=tuple(cache / name for name in COMPILED),
    )


def _place(text: str, workspace: Workspace) -> Path:
    return workspace.root / filled(text, workspace)  # an absolute one stays


def _required(workspace: Workspace, settings: Settings) -> list[Path]:
    """What `prepare.requires` names; of a file its folder, where the rest of the data is. A file of the checkout stands
    for itself.
    """
    found = []
    for pattern in settings.prepare.requires:
        for text in glob.glob(filled(pattern, workspace), root_dir=workspace.root):
            place = Path(os.path.normpath(workspace.root / text))
            alone = place.is_dir() or place.parent == workspace.root or place.is_relative_to(workspace.root)
            found.append(place if alone else place.parent)
    return list(dict.fromkeys(found))


def _held_out(readable: Iterable[Path], workspace: Workspace, worktree: Path) -> list[Path]:
    found = [path for folder in readable for path in _inside(folder, HELD_OUT)]
    for meta in [path for folder in readable for path in _inside(folder, ("meta.json",))]:
        text = _text(meta)
        if text is None or worktree.is_relative_to(text):
            continue  # of the checkout itself nothing would be left
        found.append(text)
        if text.is_relative_to(workspace.root):  # and committed, perhaps: then it is in each worktree
            found.append(worktree / text.relative_to(workspace.root))
    return [*found, Path(__file__).resolve().parents[1] / BUNDLED]


def _inside(folder: Path, names: Iterable[str]) -> list[Path]:
    there = glob.escape(str(folder))
    return [Path(path) for name in names for depth in ("", "*/") for path in glob.glob(f"{there}/{depth}{name}")]


def _text(meta: Path) -> Path | None:
    """The file or folder of one's own text that data was prepared from, by its meta.json."""
    try:
        text = Path(json.loads(meta.read_bytes())["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return text if text.is_absolute() else None


def _hub() -> Path:
    """Kernels that were fetched from the hub; the folder around it may hold a token."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser().absolute()
