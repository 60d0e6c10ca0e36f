"""What a candidate's source says about itself: its hash and its constants."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from autoexp.errors import PreconditionError
from autoexp.runs.records import Constant
from autoexp.workspace.constants import declared
from autoexp.workspace.paths import SETTINGS_FILE
from autoexp.workspace.repository import REGULAR, Change, Repository, matches
from autoexp.workspace.settings import Files


def allowed(change: Change, files: Files) -> bool:
    """Whether a change is one that a proposal may make: of an editable file, which stays a file."""
    editable = matches(change.path, files.editable) and not matches(change.path, files.frozen)
    return editable and change.mode in REGULAR


def editable_files(
    repository: Repository, commit: str, editable: Sequence[str], frozen: Sequence[str] = ()
) -> list[str]:
    """The paths of a commit (or tree) that a proposal may change."""
    return [path for path in repository.files(commit) if matches(path, editable) and not matches(path, frozen)]


def nothing_editable(files: Files, root: Path) -> PreconditionError:
    """Why no committed file may be changed, and what mends it."""
    globs = ", ".join(files.editable)
    mend = f'edit [files] in {SETTINGS_FILE}: editable = ["train.py"]'
    if not files.editable:
        return PreconditionError("files.editable is empty: no file may be changed", mend)
    what = f"no committed file matches files.editable ({globs})"
    there = [each for glob in files.editable for each in sorted(root.glob(glob)) if each.is_file()]
    if not there:
        return PreconditionError(f"no file matches files.editable ({globs})", mend)
    names = " ".join(shlex.quote(str(each.relative_to(root))) for each in there[:5])
    return PreconditionError(what, f"git add {names} && git commit -m start, then: autoexp start")


def editable_texts(
    repository: Repository, commit: str, editable: Sequence[str], frozen: Sequence[str] = ()
) -> dict[str, str]:
    """Those paths with the texts of their files. It takes two processes, however many files there are."""
    blobs = {
        path: blob
        for path, blob in repository.blobs(commit).items()
        if matches(path, editable) and not matches(path, frozen)
    }
    return dict(zip(blobs, repository.texts(list(blobs.values())), strict=True))


def described(
    repository: Repository, commit: str, editable: Sequence[str], frozen: Sequence[str] = ()
) -> tuple[str, dict[str, Constant]]:
    """(sha256 over the editable files with their names, the ALL_CAPS constants in them; the first file wins)."""
    digest = hashlib.sha256()
    constants: dict[str, Constant] = {}
    for path, text in editable_texts(repository, commit, editable, frozen).items():
        digest.update(f"{path}\0{len(text)}\0{text}".encode(errors="replace"))
        for name, constant in declared(text).items():
            constants.setdefault(name, constant.value)
    return digest.hexdigest(), constants
