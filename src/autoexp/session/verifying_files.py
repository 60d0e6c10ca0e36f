"""Of `verify`: what trainings left behind says what the journal says, the views are views of it, the data is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from autoexp.errors import AutoexpError
from autoexp.runs import events as ev
from autoexp.runs.records import Outcome
from autoexp.runs.state import RunState
from autoexp.session.snapshot import LEFT_OUT
from autoexp.session.views import results
from autoexp.workspace.paths import (
    CHECKPOINT_FILE,
    EVALUATION_FILE,
    EXIT_FILE,
    JOB_FILE,
    REPORT_FILE,
    RunPaths,
    cache_dir,
)
from autoexp.workspace.report import Judged, outcome

Found = Iterator[tuple[Literal["holds", "note"], str]]
COMPARED = ("status", "metric", "metrics", "exit_code", "evaluated_by", "seal")
"""Of an outcome, what is computed again from the files."""
PREPARED = "prepared"
"""In an evaluation: the hash of the prepared data as a whole, which a report has too."""


def trainings(paths: RunPaths, events: Sequence[ev.Event], state: RunState) -> Found:
    """Raises AutoexpError for the first training whose files say something else than the journal."""
    looked = missing = 0
    commits: dict[int, str] = {}
    jobs: dict[Any, tuple[ev.TrainingStarted, str]] = {}
    for event in events:
        match event:
            case ev.BaselineOpened():
                commits[0] = event.commit
            case ev.Proposed():
                commits[event.iteration] = event.base
            case ev.Committed():
                commits[event.iteration] = event.commit
            case ev.TrainingStarted():
                jobs[event.iteration] = event, commits.get(event.iteration, "")
            case ev.LookAgain():
                commits[event.iteration] = event.commit
            case ev.CheckStarted():
                check = next(each for each in state.checks if each.key == event.key)
                program = check.program(check.trainings[event.place].program)
                jobs[event.key, event.place] = event.job, program.commit if program is not None else ""
            case ev.TrainingEnded() | ev.CheckEnded():
                own = event.iteration if isinstance(event, ev.TrainingEnded) else (event.key, event.place)
                started, commit = jobs[own]
                if _agrees(paths, started, commit, event.outcome, state):
                    looked += 1
                else:
                    missing += 1
    yield "holds", f"{looked} trainings left what the journal says of them"
    if missing:
        yield "note", f"{missing} have no files any more, or were not run by a keeper of ours: they cannot be looked at"


def _agrees(paths: RunPaths, started: ev.TrainingStarted, commit: str, said: Outcome, state: RunState) -> bool:
    """Whether there was something to compare. Raises AutoexpError when it differs."""
    folder = paths.folder / started.folder
    try:
        exit_fields = json.loads((folder / EXIT_FILE).read_bytes())
        job = json.loads((folder / JOB_FILE).read_bytes())
        status, code = str(exit_fields["status"]), exit_fields["code"]
        seconds, reason = float(exit_fields.get("wall_seconds", 0.0)), str(exit_fields.get("reason", ""))
    except (OSError, ValueError, KeyError, TypeError):
        if said.status == "success" and folder.is_dir() and (folder / REPORT_FILE).exists():
            lost = next((name for name in (EXIT_FILE, JOB_FILE) if not (folder / name).exists()), EXIT_FILE)
            raise AutoexpError(f"{folder} has a report, and no {lost} that can be read", "") from None
        return False
    trained = job.get("env", {}).get("AUTOEXP_COMMIT") if isinstance(job, dict) else None
    if commit and trained not in (None, commit):
        raise AutoexpError(f"{folder} trained {str(trained)[:7]}, and not {commit[:7]}", f"see {folder / JOB_FILE}")
    judged = None
    if started.judged:
        key = str(job.get("key", ""))
        if not key.endswith(f":{started.iteration}-{started.attempt}"):
            raise AutoexpError(f"{folder} is the job {key}", f"see {folder / JOB_FILE}")
        judged = Judged(paths.seal_key, key, commit, folder / CHECKPOINT_FILE)
    again = outcome(folder, state.metric, status, code, seconds, reason, judged)
    # what was seen from outside makes a crash of what is a success by its own files
    against = ("metrics",) if said.status == "crash" and again.status == "success" else COMPARED
    for name in against:
        if getattr(again, name) != getattr(said, name):
            what = _difference(name, getattr(said, name), getattr(again, name))
            why = f" ({again.reason})" if again.reason and again.reason != said.reason else ""
            raise AutoexpError(f"{folder}: {what}{why}", f"see {folder / REPORT_FILE}")
    return True


def _difference(name: str, said: Any, found: Any) -> str:
    if isinstance(said, dict) and isinstance(found, dict):
        key = next(key for key in sorted({*said, *found}) if said.get(key) != found.get(key))
        name, said, found = key, said.get(key), found.get(key)
    return f"the journal has {name} {_plain(said)}, its files {_plain(found)}"


def _plain(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def views_of(paths: RunPaths, state: RunState, size: int, alive: bool) -> Found:
    """Raises AutoexpError for a view that the journal does not add up to."""
    if alive:
        yield "note", "a session is at work: its views are not looked at"
        return
    if state.closed is None:
        yield "note", "the last session was killed: its views may be behind, until the run is resumed"
        return
    if not paths.results.is_file() or not paths.state.is_file():
        yield "note", "results.tsv or state.json is missing: the next session writes it"
        return
    if paths.results.read_text(errors="replace") != results(state):
        rows = zip(paths.results.read_text(errors="replace").splitlines(), results(state).splitlines(), strict=False)
        number = next((n for n, (one, other) in enumerate(rows, 1) if one != other), "its end")
        raise AutoexpError(f"results.tsv is not what the journal adds up to, from line {number} on", "autoexp resume")
    try:
        fields = json.loads(paths.state.read_bytes())
        kept = {name: fields[name] for name in RunState.model_fields if name not in LEFT_OUT}
    except (ValueError, KeyError, TypeError) as error:
        raise AutoexpError(f"state.json cannot be read: {error}", "autoexp resume") from error
    replayed = state.model_dump(mode="json", exclude=LEFT_OUT)
    for name, value in replayed.items():
        if kept[name] != value:
            raise AutoexpError(f"state.json says another {name} than the journal", "autoexp resume")
    if fields.get("journal_bytes") != size:
        raise AutoexpError("state.json is of a journal of another length", "autoexp resume")
    yield "holds", "results.tsv and state.json are what the journal adds up to"


def data_of(paths: RunPaths, events: Sequence[ev.Event]) -> Found:
    """Raises AutoexpError when trainings used other data than each other, or the files are not those any more."""
    first: dict[str, tuple[str, str]] = {}
    for event in events:
        folder = event.folder if isinstance(event, ev.TrainingStarted) else ""
        folder = event.job.folder if isinstance(event, ev.CheckStarted) else folder
        for name, found in _data_used(paths.folder / folder).items() if folder else ():
            other, where = first.setdefault(name, (found, folder))
            if found != other:
                raise AutoexpError(
                    f"{where} and {folder} are of other data ({name} {other[:8]}, {found[:8]}): their numbers do not "
                    "compare",
                    "",
                )
    if PREPARED not in first:
        yield "note", "no report names the data that it was made with"
        return
    wanted, _ = first[PREPARED]
    for meta in sorted((cache_dir() / "prepared").glob("*/meta.json")):
        try:
            fields = json.loads(meta.read_bytes())
            if fields["hash"] != wanted:
                continue
            files = dict(fields["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for name, digest in files.items():
            if _sha256(meta.parent / name) != digest:
                raise AutoexpError(
                    f"{meta.parent / name} is not what was prepared", f"rm {meta}, then: autoexp prepare"
                )
        yield "holds", f"{len(files)} files of {meta.parent.name} are those that were prepared"
        return
    yield "note", f"the data {wanted[:8]} is not in {cache_dir() / 'prepared'} any more"


def _data_used(folder: Path) -> dict[str, str]:
    """What a training's report and its evaluation say of the data: the hash of each, by what it is of."""
    used: dict[str, str] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        used[PREPARED] = json.loads((folder / REPORT_FILE).read_bytes())["data"]["hash"]
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        used |= json.loads((folder / EVALUATION_FILE).read_bytes())["evaluation"]["data"]
    return {name: found for name, found in used.items() if isinstance(found, str)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
