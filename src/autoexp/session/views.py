"""What is rebuilt from the journal: state.json, results.tsv here and in the workspace, the best ref, the run branch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, get_args

from autoexp.runs.events import CheckEnded
from autoexp.runs.measuring import noises
from autoexp.runs.records import Decision, Trial
from autoexp.runs.state import RunState
from autoexp.session.snapshot import LEFT_OUT
from autoexp.session.standing import in_words, standing
from autoexp.workspace.files import write_atomic
from autoexp.workspace.paths import CHECKPOINT_FILE, RunPaths, Workspace
from autoexp.workspace.repository import Repository, refs

HEADER = ("commit", "{metric}", "memory_gb", "status", "description")
DESCRIPTION_LIMIT = 200


def results(state: RunState) -> str:
    """The table in the reference's five columns; a recorded trial that waits for its decision is 'pending'."""
    rows = ["\t".join(HEADER).format(metric=state.metric.name)]
    pending = [iteration.trial for _, iteration in sorted(state.open.items()) if iteration.trial is not None]
    rows += [_row(trial) for trial in (*state.trials, *pending)]
    return "\n".join(rows) + "\n"


def _row(trial: Trial) -> str:
    text = trial.description
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    status = trial.decision or "pending"
    status = "discard" if status == "inconclusive" else status  # the reference knows three words
    number = trial.metric if trial.metric is not None else 0.0
    return f"{trial.commit[:7]}\t{number:.6f}\t{trial.memory_gb:.1f}\t{status}\t{text[:DESCRIPTION_LIMIT]}"


def summary(state: RunState) -> dict[str, Any]:
    """What is said of the trials instead of the trials themselves: there may be thousands."""
    verdicts = Counter(trial.verdict for trial in state.trials if trial.iteration)
    best = next((t for t in reversed(state.trials) if state.best and t.iteration == state.best.iteration), None)
    seconds = [trial.seconds for trial in state.trials[-20:] if trial.seconds]
    return {
        "iterations_completed": state.completed,
        "counts": {name: verdicts[name] for name in (*get_args(Decision), "untrained")},
        "baseline": _brief(state.trials[0]) if state.trials and state.trials[0].iteration == 0 else None,
        "best_trial": _brief(best) if best else None,
        "last_trials": [_brief(trial) for trial in state.trials[-3:]],
        "noise": state.noise.model_dump(),
        "noises": {name: found.model_dump() for name, found in noises(state.measurements).items()},
        "typical_seconds": round(median(seconds), 1) if seconds else None,
        "standing": standing(state),
        "standing_words": in_words(state),
    }


def _brief(trial: Trial) -> dict[str, Any]:
    return trial.model_dump(mode="json", exclude={"constants"})


def write_state(paths: RunPaths, state: RunState, journal_bytes: int) -> None:
    """state.json: the state without what is left out of it, and the journal's length."""
    fields = {
        **state.model_dump(mode="json", exclude=LEFT_OUT),
        **summary(state),
        "journal_bytes": journal_bytes,
    }
    write_atomic(paths.state, json.dumps(fields, indent=1, ensure_ascii=False) + "\n", durable=False)


def write_results(workspace: Workspace, paths: RunPaths, state: RunState, say: Callable[[str], None]) -> None:
    """Both tables. A workspace table with rows of another origin, or edited by hand, is put aside first, not lost."""
    text = results(state)
    old = workspace.results.read_bytes() if workspace.results.is_file() else b""
    if old.strip() and old != text.encode() and not _ours(old, workspace):
        copy = _free(paths.folder)
        write_atomic(copy, old)
        say(f"results.tsv was edited or is from elsewhere: a copy is in {copy}")
    if old != text.encode():
        write_atomic(workspace.results, text)
    if not paths.results.is_file() or paths.results.read_text() != text:
        write_atomic(paths.results, text)


def _ours(old: bytes, workspace: Workspace) -> bool:
    """Whether every row stands in the table of some run."""
    known = b"\n".join(file.read_bytes() for file in workspace.runs.glob("*/results.tsv"))
    rows = set(known.split(b"\n"))
    return all(row in rows for row in old.split(b"\n"))


def _free(folder: Path) -> Path:
    number = 1
    while (copy := folder / f"results.edited-{number}.tsv").exists():
        number += 1
    return copy


def drop_checkpoints(paths: RunPaths, before: RunState, state: RunState) -> None:
    """Remove the checkpoints of the trial just decided and of the best before it, unless one is the best now."""
    best = {run.best.iteration for run in (before, state) if run.best is not None}
    decided = {state.trials[-1].iteration} if state.trials else set()
    for number in (best | decided) - ({state.best.iteration} if state.best is not None else set()):
        for checkpoint in paths.iteration(number).glob(f"attempt-*/{CHECKPOINT_FILE}"):
            checkpoint.unlink(missing_ok=True)


def drop_checkpoints_of(paths: RunPaths, state: RunState, event: CheckEnded) -> None:
    """Remove the checkpoints of a check's training that counts as it is: all that they are for is known."""
    check = next(check for check in state.checks if check.key == event.key)
    if event.action == "proceed":
        folder = paths.check(check.key) / check.trainings[event.place].folder_name
        for checkpoint in folder.glob(f"attempt-*/{CHECKPOINT_FILE}"):
            checkpoint.unlink(missing_ok=True)


def headline(state: RunState) -> str:
    """The number and what it is worth, in a line: 'val_bpb 1.12 to 1.03, claimed, not audited'."""
    number = f"{state.metric.name} {state.best.metric:.6f}" if state.best is not None else "no result yet"
    first = state.trials[0] if state.trials and state.trials[0].iteration == 0 else None
    if first is not None and first.metric is not None and state.best is not None and state.best.iteration:
        number = f"{state.metric.name} {first.metric:.6f} to {state.best.metric:.6f}"
    return ", ".join(filter(None, (number, in_words(state))))


def move_branch(repository: Repository, state: RunState) -> str:
    """Point the best ref and the run branch at the best. Returns why the branch could not be moved, or ''."""
    best = f"{refs(state.run_id)}/best"
    repository.hold(best, state.tip)
    why = repository.advance(state.branch, state.tip, f"{refs(state.run_id)}/branch")
    if not why:
        repository.describe(state.branch, f"autoexp run {state.run_id}: {headline(state)}", "autoexp run ")
    return f"{why}: it stays where it is; the best is {best} (git merge --ff-only {best})" if why else ""
