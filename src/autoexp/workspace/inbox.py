"""Proposals that a person left for a run. Each is used exactly once, also through a crash.

To take one is to rename it to consumed_proposals/iter_<NNNN>.json: after a crash, a file with the iteration's own
name says that it was already taken, by this very iteration.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from autoexp.errors import ProposalError
from autoexp.runs.records import Proposal
from autoexp.workspace.files import write_atomic
from autoexp.workspace.paths import RunPaths

FILE, QUEUE = "file", "queue"
"""Kinds of queued proposals: from --proposal-file (first), and from `autoexp propose`."""
_ORDER = {FILE: "0", QUEUE: "1"}
_SOURCES = {"0": "proposal_file", "1": "queue"}
PEOPLE = ("proposal_file", "next_proposal", "queue")
"""Who is said to have proposed what a person left."""
NO_AGENT = "the run asks no agent (--no-stochastic; autoexp resume --stochastic does), and words alone need one"


@dataclass(frozen=True)
class Queued:
    """A proposal that waits. `number` is what `autoexp propose --remove` takes."""

    number: int
    path: Path
    source: str
    proposal: Proposal | None
    problem: str = ""
    """Why it is none that could be used."""


def parse(data: bytes, name: str) -> Proposal:
    """A proposal from JSON. Raises ProposalError that says what is wrong, and where."""
    try:
        return Proposal.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise ProposalError(
            f"{name}: invalid proposal: {where + ': ' if where else ''}{what}", "the schema: autoexp propose --schema"
        ) from error


def add(paths: RunPaths, proposal: Proposal, kind: str = QUEUE) -> Path:
    """Queue a proposal behind those of its kind. One that waits already, word for word, is not queued twice."""
    text = proposal.model_dump_json(indent=2) + "\n"
    for path in _files(paths):
        if kind == FILE and path.name.startswith(_ORDER[kind]):
            with suppress(OSError):
                if path.read_bytes() == text.encode():
                    return path
    path = paths.queue / f"{_ORDER[kind]}-{time.time_ns():020d}-{os.getpid()}.json"
    write_atomic(path, text)
    return path


def queued(paths: RunPaths) -> list[Queued]:
    """What waits, in the order in which it will be used, and what is in its way; next_proposal.json is not in here."""
    found: list[Queued] = []
    for path in _files(paths):
        proposal, problem = None, ""
        try:
            proposal = parse(path.read_bytes(), path.name)
        except FileNotFoundError:
            continue  # taken by the run since the folder was listed
        except OSError as error:
            problem = f"cannot read {path.name}: {error.strerror}"
        except ProposalError as error:
            problem = str(error)
        found.append(Queued(len(found) + 1, path, _SOURCES[path.name[0]], proposal, problem))
    return found


def remove(paths: RunPaths, number: int) -> Queued:
    """Take a waiting proposal out. Raises ProposalError when there is no such number, or it cannot be removed."""
    waiting = queued(paths)
    if not 1 <= number <= len(waiting):
        raise ProposalError(
            f"there is no queued proposal {number}"
            + (f": they have the numbers 1 to {len(waiting)}" if waiting else ": nothing is queued any more"),
            "autoexp propose --list",
        )
    try:
        waiting[number - 1].path.unlink()
    except FileNotFoundError as error:
        raise ProposalError(f"queued proposal {number} was just taken by the run", "autoexp propose --list") from error
    except OSError as error:
        file = waiting[number - 1].path
        raise ProposalError(f"cannot remove {file}: {error.strerror}", f"rm -r {file}") from error
    return waiting[number - 1]


def claim(
    paths: RunPaths, iteration: int, note: Callable[[str, str], None], refusal: str
) -> tuple[Proposal, str] | None:
    """Take the next proposal for this iteration, with its source; None when nothing usable waits.

    An invalid one is noted and left where it is. `refusal` says why one without edits cannot be used; '' if it can.
    """
    taken = paths.consumed(iteration)
    if taken.exists() and (proposal := _opened(taken, note)) is not None:
        return proposal, _source_of(taken)
    files = _files(paths)
    first = [path for path in files if path.name.startswith("0")]
    rest = [path for path in files if not path.name.startswith("0")]
    for path in [*first, paths.override, *rest]:
        try:
            data = _read(path)
            proposal = parse(data, path.name)
            _usable(proposal, path.name, refusal)
        except FileNotFoundError:
            continue
        except OSError as error:
            note(f"cannot read {path}: {error.strerror}", f"unreadable-{path.name}")
            continue
        except ProposalError as error:
            note(f"rejected, and left in place: {error}", f"rejected-{path.name}-{error}")
            continue
        source = "next_proposal" if path == paths.override else _SOURCES[path.name[0]]
        taken.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(taken.with_suffix(".source"), source)
        if path.is_symlink():  # renamed, a relative one would lead nowhere
            write_atomic(taken, data)
            path.unlink()
        else:
            os.replace(path, taken)
        if (renamed := _opened(taken, note)) is not None:
            return renamed, source
    return None


def give_back(paths: RunPaths, iteration: int) -> bool:
    """Put what the iteration has taken back to the head of the queue; whether there was anything."""
    taken = paths.consumed(iteration)
    kind = FILE if _source_of(taken) == _SOURCES[_ORDER[FILE]] else QUEUE
    try:
        paths.queue.mkdir(parents=True, exist_ok=True)
        os.replace(taken, _given_back(paths, iteration, kind))
    except FileNotFoundError:
        return False
    return True


def take_again(paths: RunPaths, iteration: int) -> None:
    """Undo a `give_back` of this iteration: it is at it again, after a crash."""
    for kind in (FILE, QUEUE):
        with suppress(FileNotFoundError):
            os.replace(_given_back(paths, iteration, kind), paths.consumed(iteration))


def _given_back(paths: RunPaths, iteration: int, kind: str) -> Path:
    """Its number is smaller than any time: it goes before what was queued."""
    return paths.queue / f"{_ORDER[kind]}-{iteration:020d}-again.json"


def _read(path: Path) -> bytes:
    """A file's bytes. A pipe in its place, which would keep us waiting, is an OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read()


def _opened(taken: Path, note: Callable[[str, str], None]) -> Proposal | None:
    """What was renamed counts: it may have been rewritten since it was read. If it is bad now, it is put aside."""
    try:
        return parse(taken.read_bytes(), taken.name)
    except ProposalError as error:
        note(f"rejected: {error}", f"rejected-{taken.name}-{error}")
        os.replace(taken, taken.with_suffix(".invalid"))
        return None


def _usable(proposal: Proposal, name: str, refusal: str) -> None:
    if proposal.status != "ok":
        raise ProposalError(f"{name}: a person's proposal must have status 'ok'", "autoexp propose --schema")
    if not proposal.edits and refusal:
        words = f"{proposal.description[:100]!r} ({name})"
        raise ProposalError(f"{words} cannot be applied: {refusal}", "autoexp propose --set NAME=VALUE")


def _source_of(taken: Path) -> str:
    try:
        return taken.with_suffix(".source").read_text()
    except OSError:
        return "next_proposal"


def _files(paths: RunPaths) -> list[Path]:
    if not paths.queue.is_dir():
        return []
    return sorted(path for path in paths.queue.iterdir() if path.suffix == ".json" and path.name[0] in _SOURCES)
