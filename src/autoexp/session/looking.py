"""What a run did, trial by trial, and what is plugged in: gathered for `log`, `show`, `plugins` and the live view."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from autoexp.errors import AutoexpError, PreconditionError, RunError
from autoexp.runs import events as ev
from autoexp.runs.journal import decode, read
from autoexp.runs.records import Outcome, Proposal, Spent, Trial
from autoexp.runs.state import RunState, begin, reduce, replay, sum_of
from autoexp.workspace.files import tail
from autoexp.workspace.paths import LOG_FILE, PATCH_FILE, RunPaths, Workspace

LOG_BYTES = 1 << 18
"""How much of a training's log is searched for its last lines."""


class Follower:
    """A run's state, kept up to date: each look reads only what the journal gained since the last one."""

    def __init__(self, paths: RunPaths) -> None:
        """Raises JournalError when the journal cannot be read."""
        self.paths = paths
        self._restart()
        if self._state is None:
            read(paths.journal)  # says what is wrong with it

    def _restart(self) -> None:
        self._offset, self._lines = 0, 0
        self._state: RunState | None = None
        self.look()

    @property
    def state(self) -> RunState:
        assert self._state is not None
        return self._state

    def look(self) -> bool:
        """Take in what is new; whether there was anything. A line that is not whole yet waits for the next look."""
        try:
            with self.paths.journal.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:  # put back from a copy: begin again
                    self._restart()
                    return True
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            event = decode(line, self.paths.journal, self._lines)
            self._state = begin(event) if self._state is None else reduce(self._state, event)
        self._offset += len(whole)
        return bool(whole)


class LineReader:
    """The new whole lines of a file that grows; of an older one the last `first` lines are the first news."""

    def __init__(self, path: Path, first: int = 10) -> None:
        self._path, self._first, self._offset, self._rest = path, first, -1, b""

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin_at = max(0, size - LOG_BYTES) if self._offset < 0 else self._offset
                if begin_at > size:  # another file by now
                    begin_at, self._rest = 0, b""
                file.seek(begin_at)
                data = self._rest + file.read(4 * LOG_BYTES)
                fresh, self._offset = self._offset < 0, file.tell()
        except OSError:
            return []
        *whole, self._rest = data.split(b"\n")
        self._rest = self._rest[-LOG_BYTES:]
        texts = [line.decode(errors="replace") for line in whole]
        return texts[-self._first :] if fresh else texts


@dataclass(frozen=True)
class Row:
    """A trial beside what was the best when it was decided."""

    trial: Trial
    delta: float | None
    """Its metric less the best one's; None without both."""
    better: bool
    best: float | None
    """The best once it was decided."""


def rows(state: RunState) -> list[Row]:
    """All decided trials, then those that wait for their decision."""
    pending = [iteration.trial for _, iteration in sorted(state.open.items()) if iteration.trial is not None]
    found: list[Row] = []
    best: float | None = None
    for trial in (*state.trials, *pending):
        delta = trial.metric - best if trial.metric is not None and best is not None else None
        better = delta is not None and delta != 0 and (delta < 0) == (state.metric.direction == "min")
        if trial.decision == "keep" and trial.metric is not None:
            best = trial.metric
        found.append(Row(trial, delta, better, best))
    return found


class Attempt(BaseModel):
    """One training of an iteration, as far as it came."""

    model_config = ConfigDict(extra="forbid")
    number: int
    applied: str = ""
    commit: str = ""
    ref: str = ""
    folder: str = ""
    outcome: Outcome | None = None
    triage: str = ""
    of: str = ""
    """What it trained once more: 'candidate' or 'incumbent' (the best); '' for the first training."""
    why: str = ""
    """Why the rule wanted that."""


class Shown(BaseModel):
    """Everything about one iteration: the schema of `autoexp show N --json`; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    iteration: int
    under_way: bool
    stage: str
    """What comes next; 'done' once it is decided."""
    proposer: str
    proposal: Proposal | None
    base: str
    commit: str
    ref: str
    metric: str
    value: float | None
    delta: float | None
    """Against the best before it."""
    better: bool
    decision: str | None
    verdict: str
    """The decision in a word for people: `untrained` for what never came to a training; '' while it is under way."""
    why: str
    attempts: list[Attempt]
    spent: Spent
    """What the agents took for it."""
    diff: str
    log_tail: list[str]
    files: list[str]


def shown(workspace: Workspace, paths: RunPaths, number: int, log_lines: int) -> Shown:
    """Everything about iteration `number`.

    Raises RunError for one that the run does not have, naming those it has.
    """
    journal = read(paths.journal)
    state = replay(journal)
    trials = {row.trial.iteration: row for row in rows(state)}
    numbers = sorted({*trials, *state.open})
    if number not in numbers:
        raise _unknown(state, number, numbers)
    row, iteration = trials.get(number), state.open.get(number)
    trial = row.trial if row else None
    own = [event for event in journal if _iteration_of(event) == number]
    attempts = _attempts(own)
    proposed = next((event for event in own if isinstance(event, ev.Proposed)), None)
    base = trial.base if trial else iteration.base if iteration else ""
    commit = trial.commit if trial else iteration.commit if iteration else ""
    return Shown(
        run_id=state.run_id,
        iteration=number,
        under_way=iteration is not None,
        stage=iteration.stage if iteration else "done",
        proposer=trial.proposer if trial else iteration.proposer if iteration else "",
        proposal=proposed.proposal if proposed else None,
        base=base,
        commit=commit,
        ref=trial.ref if trial else iteration.ref if iteration else "",
        metric=state.metric.name,
        value=trial.metric if trial else None,
        delta=row.delta if row else None,
        better=row.better if row else False,
        decision=trial.decision if trial else None,
        verdict=trial.verdict if trial and trial.decision else "",
        why=trial.why if trial else "",
        attempts=attempts,
        spent=sum_of(event for event in own if isinstance(event, ev.AgentCalled)),
        diff=_diff(workspace, paths, base, commit, paths.attempt(number, attempts[-1].number if attempts else 1)),
        log_tail=_log_tail(paths, attempts, log_lines),
        files=sorted(str(path) for path in paths.iteration(number).rglob("*") if path.is_file()),
    )


def _unknown(state: RunState, number: int, numbers: list[int]) -> RunError:
    if not numbers:
        return RunError(f"run {state.run_id} has no iteration yet", "autoexp status")
    known = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"only {numbers[0]}"
    return RunError(f"run {state.run_id} has no iteration {number}: it has {known}", f"autoexp show {numbers[-1]}")


def _iteration_of(event: ev.Event) -> int | None:
    return event.trial.iteration if isinstance(event, ev.Recorded) else getattr(event, "iteration", None)


def _attempts(events: Sequence[ev.Event]) -> list[Attempt]:
    found: dict[int, Attempt] = {}
    for event in events:
        if isinstance(event, ev.LookAgain):
            number = max(found, default=0) + 1
            found[number] = Attempt(number=number, of=event.of, why=event.why, commit=event.commit)
        if isinstance(event, ev.Applied | ev.Committed | ev.TrainingStarted | ev.TrainingEnded | ev.Triaged):
            attempt = found.setdefault(event.attempt, Attempt(number=event.attempt))
            match event:
                case ev.Applied():
                    attempt.applied = f"{event.status}: {event.summary}" if event.summary else event.status
                case ev.Committed():
                    attempt.commit, attempt.ref = event.commit, event.ref
                case ev.TrainingStarted():
                    attempt.folder = event.folder
                case ev.TrainingEnded():
                    attempt.outcome = event.outcome
                case ev.Triaged():
                    attempt.triage = f"{event.action}: {event.reason}" if event.reason else event.action
    return [found[number] for number in sorted(found)]


def _diff(workspace: Workspace, paths: RunPaths, base: str, commit: str, attempt: Path) -> str:
    """From git; where there is no candidate (it was refused, or git lost it), the patch that was put aside."""
    if base and commit and base != commit:
        from autoexp.workspace.repository import Repository

        try:
            return Repository(workspace).diff(base, commit)
        except AutoexpError:
            pass
    return tail(attempt / PATCH_FILE, LOG_BYTES)


def _log_tail(paths: RunPaths, attempts: list[Attempt], count: int) -> list[str]:
    folders = [attempt.folder for attempt in attempts if attempt.folder]
    if not folders or count <= 0:
        return []
    return tail(paths.folder / folders[-1] / LOG_FILE, LOG_BYTES).replace("\r", "\n").rstrip().splitlines()[-count:]


class Plugins(BaseModel):
    """What is plugged in: the schema of `autoexp plugins --json`; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    hooks: dict[str, list[str]]
    """Hook to its implementations in calling order; of a stage the first that answers counts."""
    parts: dict[str, dict[str, str]]
    """Kind (proposers, agents, …) to name to the plugin that registered it."""
    versions: dict[str, str]
    """Third-party plugins."""


def plugins(commands: Iterable[str]) -> Plugins:
    """All hooks and registered parts. `commands` are the modules with the built-in commands.

    Raises UsageError when a plugin cannot be loaded, or the settings of the workspace are wrong.
    """
    from autoexp.plugins.manager import BUILTINS, REGISTERING, collect, plugin_manager, versions
    from autoexp.spec import hookspecs

    manager = plugin_manager((*BUILTINS, *commands))
    options = _options()
    return Plugins(
        hooks={name: _calling(manager, name) for name in vars(hookspecs) if name.startswith("autoexp_")},
        parts={
            kind: {name: owner for name, (_, owner) in sorted(collect(manager, hook, options[kind]).items())}
            for kind, hook in REGISTERING.items()
        },
        versions=versions(manager),
    )


def _calling(manager: Any, hook: str) -> list[str]:
    """Stages are asked from the last registered to the first, by pluggy; parts and commands register in order."""
    found = getattr(manager.hook, hook).get_hookimpls()
    ordered = found if hook.startswith("autoexp_register_") else reversed(found)
    return [i.plugin_name + (" (wrapper)" if i.wrapper or i.hookwrapper else "") for i in ordered]


def _options() -> dict[str, dict[str, Any]]:
    """The options that plugins see, as in a session; outside a workspace the defaults."""
    from autoexp.plugins.manager import REGISTERING
    from autoexp.workspace.paths import find_workspace
    from autoexp.workspace.settings import Settings, load

    try:
        settings = load(find_workspace())
    except PreconditionError:
        settings = Settings()
    return {kind: getattr(settings, kind) for kind in REGISTERING}
