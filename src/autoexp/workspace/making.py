"""Make a proposal's own edits in a worktree."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Sequence
from pathlib import Path

from autoexp.errors import ProposalError
from autoexp.runs.records import Edit, Patch, Replace, SetConstant
from autoexp.workspace.constants import declared, replaced
from autoexp.workspace.edits import replaced_text
from autoexp.workspace.repository import Repository, matches
from autoexp.workspace.settings import Files


def make(edits: Sequence[Edit], worktree: Path, repository: Repository, files: Files) -> str:
    """Make edits in a worktree. Returns what was done, in words; raises ProposalError or RepositoryError."""
    done = []
    for edit in edits:
        if isinstance(edit, Patch):
            repository.apply_patch(worktree, edit.diff)
            done.append("patched")
            continue
        path = _path_of(edit, worktree, files)
        text, encoding = _decoded(path.read_bytes())  # read_text would turn CRLF into LF
        if isinstance(edit, SetConstant):
            path.write_bytes(replaced(text, edit.name, edit.value).encode(encoding))
            done.append(f"{edit.name} = {edit.value!r}")
        else:
            try:
                changed = replaced_text(text, edit.old, edit.new)
            except ProposalError as error:
                raise ProposalError(f"{edit.path}: {error}", error.hint) from error
            path.write_bytes(changed.encode(encoding))
            done.append(f"replaced text in {edit.path}")
    return ", ".join(done)


def _decoded(data: bytes) -> tuple[str, str]:
    """The text of a source, and its encoding: the one it declares. Raises ProposalError when it is none."""
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        return data.decode(encoding), encoding
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise ProposalError(f"the file is no text: {error}", "autoexp propose --patch FILE") from error


def _path_of(edit: SetConstant | Replace, worktree: Path, files: Files) -> Path:
    editable = _existing(worktree, files.editable, files.frozen)
    if edit.path is not None:
        if worktree / edit.path not in editable:
            raise ProposalError(
                f"{edit.path} is not editable (files.editable: {', '.join(files.editable)})", "autoexp doctor"
            )
        return worktree / edit.path
    assert isinstance(edit, SetConstant)
    for path in editable:
        if path.suffix == ".py" and edit.name in declared(path.read_text(errors="replace")):
            return path
    raise ProposalError(f"no editable file has a constant {edit.name}", "autoexp propose --help")


def _existing(worktree: Path, editable: tuple[str, ...], frozen: tuple[str, ...]) -> list[Path]:
    names = sorted(str(p.relative_to(worktree)) for p in worktree.rglob("*") if p.is_file() and not p.is_symlink())
    return [worktree / name for name in names if matches(name, editable) and not matches(name, frozen)]
