"""A program without one of the changes that made it: what a change did is undone, and what came later stays.

A change of constants is undone constant by constant; any other by a three-way merge, as `git revert` does it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from autoexp.errors import AutoexpError, RepositoryError
from autoexp.workspace.constants import changed, declared, replaced
from autoexp.workspace.repository import Repository


class CannotRevertError(AutoexpError):
    """Why a change cannot be taken out alone."""


def without(repository: Repository, program: str, base: str, commit: str) -> str:
    """The tree of `program` without what `commit` changed in `base`.

    Raises CannotRevertError, RepositoryError.
    """
    files: dict[str, bytes | None] = {}
    names = repository.run("diff", "--name-only", "--no-renames", "-z", base, commit)
    for path in filter(None, names.split("\0")):
        now, before, after = (repository.read(each, path) for each in (program, base, commit))
        files[path] = _undone(path, now, before, after)
    tree = repository.tree_with(program, files)
    if tree == repository.run("rev-parse", f"{program}^{{tree}}"):
        raise CannotRevertError("nothing of it is left: later changes took its place")
    return tree


def _undone(path: str, now: bytes | None, before: bytes | None, after: bytes | None) -> bytes | None:
    if now == after:
        return before
    if now is None or before is None or after is None:
        raise CannotRevertError(f"it made or removed {path}, which a later change touched")
    texts = [data.decode(errors="surrogateescape") for data in (now, before, after)]
    undone = _constants(path, *texts)
    if undone is not None:
        return undone.encode(errors="surrogateescape")
    return _merged(path, now, before, after)


def _constants(path: str, now: str, before: str, after: str) -> str | None:
    """`now` with the constants that the change set as they were; None when it changed anything else."""
    old, new = declared(before), changed(before, after)
    if not new:
        return None
    current = declared(now)
    own = [name for name in new if name in current and current[name].value == new[name]]
    if not own:
        raise CannotRevertError(f"later changes set {', '.join(new)} again: nothing of it is left")
    try:
        for name in own:
            now = replaced(now, name, old[name].value)
    except AutoexpError as error:
        raise CannotRevertError(f"{path}: {error}") from error
    return now


def _merged(path: str, now: bytes, before: bytes, after: bytes) -> bytes:
    """From `after` to `before` in one direction, to `now` in the other."""
    with tempfile.TemporaryDirectory(prefix="autoexp-revert-") as folder:
        files = [Path(folder) / name for name in ("now", "after", "before")]
        for file, data in zip(files, (now, after, before), strict=True):
            file.write_bytes(data)
        try:
            done = subprocess.run(["git", "merge-file", "-p", *map(str, files)], capture_output=True, check=False)
        except OSError as error:
            raise RepositoryError(f"git merge-file failed: {error.strerror}", "autoexp doctor") from error
    if done.returncode > 127 or done.returncode < 0:
        raise CannotRevertError(f"{path} is no text file")
    if done.returncode:
        raise CannotRevertError(f"later changes in {path} build on it ({done.returncode} places overlap)")
    return done.stdout
