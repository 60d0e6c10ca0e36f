"""Try a proposal's edits on the program that the next candidate would start from, before they are queued.

It is done in a scratch index, object store and folder. The user's checkout and index are read and never written.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoexp.errors import ProposalError, RepositoryError
from autoexp.runs.records import Constant, Edit, Patch, Replace, SetConstant
from autoexp.runs.state import RunState
from autoexp.workspace.candidate import editable_texts
from autoexp.workspace.constants import declared, replaced, written
from autoexp.workspace.edits import replaced_text
from autoexp.workspace.repository import REGULAR, Change, Repository, matches
from autoexp.workspace.settings import Settings


@dataclass(frozen=True)
class Program:
    """What a proposal is tried on: the run's best, or its base when there is none yet."""

    repository: Repository
    settings: Settings
    state: RunState

    @property
    def tip(self) -> str:
        return self.state.tip

    @property
    def name(self) -> str:
        best = self.state.best
        if best is None or best.iteration == 0:
            return f"the baseline ({self.tip[:7]})"
        return f"the best so far (iteration {best.iteration}, {self.tip[:7]})"

    def editable(self, path: str) -> bool:
        return matches(path, self.settings.files.editable) and not matches(path, self.settings.files.frozen)

    def declaring(self, name: str) -> tuple[str, Constant]:
        """(file, value) of a constant. Raises ProposalError that names the nearest ones there are."""
        known: dict[str, tuple[str, Constant]] = {}
        files = self.settings.files
        for path, text in editable_texts(self.repository, self.tip, files.editable, files.frozen).items():
            if path.endswith(".py"):
                for found, constant in declared(text).items():
                    known.setdefault(found, (path, constant.value))
        if name in known:
            return known[name]
        near = difflib.get_close_matches(name.upper(), known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(sorted(known)) or 'none'}"
        raise ProposalError(f"{self.name} has no constant {name}", hint)


def tried(program: Program, edits: Sequence[Edit]) -> str:
    """Make the edits on the tip, and say in a line what they change.

    Raises ProposalError when they do not apply, change nothing, or touch a file that is not editable.
    """
    repository = program.repository
    with (
        tempfile.TemporaryDirectory(prefix="autoexp-try-") as folder,
        scratch(repository, program.tip, Path(folder)) as env,
    ):
        for edit in edits:
            if isinstance(edit, Patch):
                _try_patch(program, edit, env)
            else:
                _try_text(program, edit, Path(folder), env)
        changes = repository.staged(program.tip, env)
        _refuse(program, changes)
        return _in_words(program, changes, env)


def _try_patch(program: Program, edit: Patch, env: Mapping[str, str]) -> None:
    try:
        program.repository.patch(edit.diff, env, cached=True)
    except RepositoryError as error:
        said = str(error).removeprefix("git apply failed: ").replace("\n", "; ").replace("error: ", "")
        hint = f"make it again on top of it: git show {program.tip[:7]}:FILE"
        raise ProposalError(f"the patch does not apply to {program.name}: {said}", hint) from error


def _try_text(program: Program, edit: SetConstant | Replace, folder: Path, env: Mapping[str, str]) -> None:
    named = edit.path or program.declaring(edit.name if isinstance(edit, SetConstant) else "")[0]
    path = posixpath.normpath(named)
    if not program.editable(path):
        globs = ", ".join(program.settings.files.editable)
        raise ProposalError(f"{path} is not editable (files.editable: {globs})", "autoexp propose --help")
    try:
        program.repository.run("checkout-index", "--force", "--quiet", "--", path, env=env, at=folder)
        text = (folder / path).read_bytes().decode(errors="surrogateescape")  # in any encoding, as apply does
    except (RepositoryError, OSError) as error:
        raise ProposalError(f"{program.name} has no text file {path}", "autoexp propose --help") from error
    if isinstance(edit, SetConstant):
        text = replaced(text, edit.name, edit.value)
    else:
        try:
            text = replaced_text(text, edit.old, edit.new)
        except ProposalError as error:
            raise ProposalError(f"{path}: {error}", error.hint) from error
    (folder / path).write_bytes(text.encode(errors="surrogateescape"))
    program.repository.run("update-index", "--", path, env=env, at=folder)


def _refuse(program: Program, changes: Sequence[Change]) -> None:
    """What the apply stage would refuse is refused here."""
    if not changes:
        raise ProposalError(f"it changes nothing in {program.name}", "autoexp propose --set NAME=VALUE")
    outside = [change.path for change in changes if not program.editable(change.path)]
    if outside:
        globs = ", ".join(program.settings.files.editable)
        raise ProposalError(
            f"it changes {', '.join(outside[:5])}, which is not editable", f"leave it out (files.editable: {globs})"
        )
    broken = [change.path for change in changes if change.mode not in REGULAR]
    if broken:
        raise ProposalError(f"it deletes {', '.join(broken[:5])}, or makes it no regular file", "leave that out")


def _in_words(program: Program, changes: Sequence[Change], env: Mapping[str, str]) -> str:
    """Constants with their old and new values; else the files and how many lines."""
    repository = program.repository
    said: list[str] = []
    for change in changes:
        before = declared(repository.show(program.tip, change.path) or "")
        after = declared(repository.run("cat-file", "blob", f":{change.path}", env=env))
        values = {name: (before[name].value, after[name].value) for name in before if name in after}
        named = [f"{name} = {written(new)} (was {written(old)})" for name, (old, new) in values.items() if new != old]
        counted = repository.run(
            "diff", "--cached", "--numstat", "--no-renames", program.tip, "--", *literal_paths([change.path]), env=env
        )
        added, removed = [int(count) if count.isdigit() else 1 for count in counted.split("\t")[:2]]
        said += named
        if max(added, removed) > len(named):
            said.append(f"{change.path}: +{added} -{removed} lines")
    return ", ".join(said)


@contextmanager
def scratch(repository: Repository, base: str, worktree: Path) -> Iterator[dict[str, str]]:
    """An index that holds `base`, with an object store of its own: nothing is written into the user's repository."""
    with tempfile.TemporaryDirectory(prefix="autoexp-index-") as folder:
        (Path(folder) / "objects").mkdir()
        env = {
            "GIT_DIR": repository.run("rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(worktree),
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_OBJECT_DIRECTORY": str(Path(folder) / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(repository.common / "objects"),
        }
        if inherited := os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES"):
            env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] += os.pathsep + inherited
        repository.run("read-tree", base, env=env)
        yield env


def literal_paths(paths: Sequence[str]) -> list[str]:
    """The paths as git's pathspecs: a `*` in a name is a `*`."""
    return [f":(top,literal){path}" for path in paths]
