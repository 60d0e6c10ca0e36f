"""Every file name of a workspace and of a run, once."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from autoexp.errors import PreconditionError, RunError, UsageError

SETTINGS_FILE = "autoexp.toml"
# In a job's folder, iterations/<NNNN>/attempt-<n>/:
JOB_FILE, LOCK_FILE, EXIT_FILE, KILL_FILE = "job.json", "keeper.lock", "exit.json", "kill"
ERRORS_FILE = "keeper.err"
"""What a keeper says when it fails: normally nothing."""
WAIT_FILE = "waiting"
"""There while a job waits for its device; its deadline begins afterwards."""
REPORT_FILE, METRICS_FILE, LOG_FILE, PATCH_FILE = "report.json", "metrics.jsonl", "train.log", "patch.diff"
CHECKPOINT_FILE = "checkpoint.pt"
EVALUATION_FILE, EVALUATION_LOG_FILE = "evaluation.json", "evaluation.log"
"""What the judge found, sealed; and what the candidate's model printed while it was examined."""
SCRATCH, COPIES, SEAT = "scratch", "copies", "seat"
"""There while an isolated training runs: what it sees as its job's folder, its copies of caches, and the same of what
stands by for the next one."""
STOPPED_FILE = "stopped.json"
"""Why the decision rule ended a training: written before it is ended."""
OF_A_TRAINING = (
    *(JOB_FILE, EXIT_FILE, KILL_FILE, WAIT_FILE, REPORT_FILE, METRICS_FILE, LOG_FILE, CHECKPOINT_FILE),
    *(EVALUATION_FILE, EVALUATION_LOG_FILE, SCRATCH, COPIES, SEAT, STOPPED_FILE),
)
"""What is in a job's folder once it was started, and not before."""
RUN_ID = re.compile(r"(?!.*\.\.)(?!.*\.lock\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""It is a folder's name, and a part of the names of the run's refs: git has no `..` and no `.lock` in those."""
BEGIN_LOCK, CREATE_LOCK, PREPARE_LOCK = ".begin.lock", ".create.lock", ".prepare.lock"
"""In the folder of the runs: held by who makes a run, and by the prepare command itself."""


def cache_dir() -> Path:
    """Where data, tokenizers and locks that outlive a workspace are: AUTOEXP_CACHE, or under XDG_CACHE_HOME."""
    if chosen := os.environ.get("AUTOEXP_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "autoexp"


@dataclass(frozen=True)
class Workspace:
    """A git checkout with a program that is worked on."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / SETTINGS_FILE

    @property
    def runs(self) -> Path:
        return self.root / "workflows" / "runs"

    @property
    def lessons(self) -> Path:
        """What agents learned in all runs of the workspace; a person may edit it."""
        return self.root / "workflows" / "lessons.md"

    @property
    def results(self) -> Path:
        return self.root / "results.tsv"

    @property
    def program(self) -> Path:
        return self.root / "program.md"

    def run(self, run_id: str) -> RunPaths:
        """The paths of a run, which need not exist. Raises UsageError for an id that is no plain name."""
        if not RUN_ID.fullmatch(run_id):
            raise UsageError(
                f"{run_id!r} is no run id: letters, digits, '.', '_' and '-', at most 100, the first a letter "
                "or digit, no '..', no '.lock' at the end",
                "autoexp start --run-id my-run",
            )
        return RunPaths(self.runs / run_id)

    def run_ids(self) -> list[str]:
        """The runs that have a journal, the oldest first."""
        return [name for _, name in self.created()]

    def created(self) -> list[tuple[float, str]]:
        """(when it was made, in seconds since the epoch, its id) of the runs that have a journal, the oldest first."""
        found = []
        if self.runs.is_dir():
            for folder in self.runs.iterdir():
                created = _created_at(folder / "history.jsonl")
                if created is not None and not folder.name.startswith("."):
                    found.append((created, folder.name))
        return sorted(found)

    def newest(self) -> str | None:
        """The newest run; one whose set-up failed, and which never was at work, only where there is no other."""
        known = self.run_ids()
        began = next((name for name in reversed(known) if not _stillborn(self.runs / name)), None)
        return began or (known[-1] if known else None)

    def existing(self, run_id: str | None) -> RunPaths:
        """The run with this id, by default the newest. Raises RunError that names those there are."""
        if run_id is None:
            newest = self.newest()
            if newest is None:
                raise RunError(f"there is no run yet in {self.root}", "autoexp start --loops 5")
            return RunPaths(self.runs / newest)
        paths = self.run(run_id)
        if not paths.journal.exists():
            known = self.run_ids()
            names = f"the runs are {', '.join(known)}" if known else "autoexp start --loops 5"
            if len(known) > 5:
                names = f"autoexp runs (it lists all {len(known)}; the newest are {', '.join(known[-5:])})"
            raise RunError(f"there is no run {run_id!r} in {self.root}", names)
        return paths

    def next_run_id(self, branch: str, taken: Iterable[str] = ()) -> str:
        """`<branch-slug>-rNNN`, one more than the highest there is, here or in `taken`."""
        slug = re.sub(r"[^a-zA-Z0-9]+", "-", branch).strip("-").lower()[:80]
        prefix = f"{slug or 'run'}-r"
        names = {*taken, *(entry.name for entry in self.runs.iterdir())} if self.runs.is_dir() else set(taken)
        numbers = [int(m[1]) for name in names if (m := re.match(rf"^{re.escape(prefix)}(\d{{3,}})$", name))]
        return f"{prefix}{max(numbers, default=0) + 1:03d}"


def stale(folder: Path) -> Path:
    """A folder beside that of an attempt, which is not there yet: for what is of some other training."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.stale-{number}")).exists():
        number += 1
    return aside


@dataclass(frozen=True)
class RunPaths:
    """The files of one run."""

    folder: Path

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def journal(self) -> Path:
        return self.folder / "history.jsonl"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def snapshot(self) -> Path:
        """The whole state at some point of the journal, so that a long one need not be replayed from its start."""
        return self.folder / "snapshot.json"

    @property
    def log(self) -> Path:
        return self.folder / "runner.log"

    @property
    def output(self) -> Path:
        """What a detached session prints: normally nothing."""
        return self.folder / "session.out"

    @property
    def results(self) -> Path:
        return self.folder / "results.tsv"

    @property
    def lock(self) -> Path:
        return self.folder / "session.lock"

    @property
    def requests(self) -> Path:
        """Requests to the session: more loops, stop."""
        return self.folder / "requests"

    @property
    def override(self) -> Path:
        """A person's proposal for the next iteration."""
        return self.folder / "next_proposal.json"

    @property
    def queue(self) -> Path:
        return self.folder / "queue"

    @property
    def seal_key(self) -> Path:
        """What the evaluations are sealed with: for the user alone to read, and never for a training."""
        return self.folder / "seal.key"

    def consumed(self, iteration: int) -> Path:
        return self.folder / "consumed_proposals" / f"iter_{iteration:04d}.json"

    def iteration(self, number: int) -> Path:
        return self.folder / "iterations" / f"{number:04d}"

    def attempt(self, number: int, attempt: int) -> Path:
        return self.iteration(number) / f"attempt-{attempt}"

    @property
    def worktrees(self) -> Path:
        return self.folder / "worktrees"

    def worktree(self, slot: int) -> Path:
        return self.worktrees / str(slot)

    def check(self, key: str) -> Path:
        """The trainings of a check."""
        return self.folder / "checks" / key


@dataclass(frozen=True)
class CheckPaths(RunPaths):
    """The files of a run as a training of a check has them: an attempt is in a folder of the check's."""

    key: str
    name: str
    """Of the training: program and seed."""

    def iteration(self, number: int) -> Path:
        return self.check(self.key) / self.name

    def worktree(self, slot: int) -> Path:
        return self.folder / "worktrees" / f"check-{slot}"


def find_workspace(start: Path | None = None) -> Workspace:
    """The git checkout that holds `start` (by default the current directory).

    Raises PreconditionError when there is none, and as `workspace_around`.
    """
    found = workspace_around(start)
    if found is None:
        here = (start or Path.cwd()).resolve()
        raise PreconditionError(f"{here} is not in a git repository", "autoexp init my-research, or: git init")
    return found


def workspace_around(start: Path | None = None) -> Workspace | None:
    """As `find_workspace`, but None when there is none.

    Raises PreconditionError in a worktree of a run: it is no workspace, and is wiped by the next candidate.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / ".git").exists():
            if (outer := _outer(folder)) is not None:
                raise PreconditionError(
                    f"{folder} is a worktree of a run; the workspace is {outer}", f"cd {shlex.quote(str(outer))}"
                )
            return Workspace(folder)
    return None


def _outer(folder: Path) -> Path | None:
    """The workspace whose run has `folder` for a worktree; None when it is no such thing."""
    try:
        pointer = (folder / ".git").read_text().strip().removeprefix("gitdir: ")
    except (OSError, UnicodeDecodeError):
        return None  # a folder: a repository of its own
    run = folder.parent.parent
    if run / "worktrees" != folder.parent or not RunPaths(run).journal.exists():
        return None
    around = folder.parents[4] if len(folder.parents) > 4 else None  # runs, workflows, the workspace
    if around is not None and Workspace(around).runs == run.parent and (around / ".git").exists():
        return around
    return Path(pointer).parent.parent.parent  # `workflows` is a link to elsewhere: the repository then


def default_branch() -> str:
    """`autoresearch/<mmmdd>`, for example autoresearch/mar8."""
    today = date.today()
    return f"autoresearch/{today:%b}{today.day}".lower()


def _stillborn(folder: Path) -> bool:
    """Whether all that a run has come to is an error of its set-up."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return not state["setup_done"] and bool(state["closed"]["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # a view that is missing, or one of a run that nobody has closed


def _created_at(journal: Path) -> float | None:
    """The time in a journal's first line; None when there is no whole line."""
    try:
        with journal.open("rb") as file:
            line = file.readline()
        return float(json.loads(line)["at"]) if line.endswith(b"\n") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
