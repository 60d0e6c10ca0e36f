"""What is going on in a run, for people and programs. Reads; changes nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from autoexp.runs import budget
from autoexp.runs.auditing import audit_of_best
from autoexp.runs.records import Guidance, Noise, Question
from autoexp.runs.state import RunState
from autoexp.session import requests
from autoexp.session.accounts import (
    Asked,
    Down,
    Limit,
    Spending,
    asked,
    limits,
    more,
    seconds_left,
    spending,
    unreachable,
)
from autoexp.session.background import live
from autoexp.session.snapshot import LEFT_OUT, load
from autoexp.session.standing import CheckShown, Standing, check_shown
from autoexp.session.standing import progress as check_progress
from autoexp.workspace.inbox import queued
from autoexp.workspace.locks import held
from autoexp.workspace.paths import LOCK_FILE, LOG_FILE, WAIT_FILE, RunPaths, Workspace
from autoexp.workspace.report import progress

Phase = Literal["setup", "baseline", "loop", "done"]


STOPS = "; then it stops, as was asked (at once: autoexp stop --now)"
_COMMAND = re.compile(r"autoexp (?:resume|stop)\b(?! --run-id)(?: --now)?")
SUMMARY = {"iterations_completed", "counts", "baseline", "best_trial", "last_trials", "noise", "typical_seconds"}
SUMMARY |= {"standing", "standing_words"}
"""What is taken from `views.summary`."""
NEEDED = SUMMARY | (RunState.model_fields.keys() - LEFT_OUT)
"""What state.json of this release holds; an older one is not enough."""


class Progress(BaseModel):
    """Of the training in flight, as the trainer reports it; None where it does not."""

    model_config = ConfigDict(extra="forbid")
    step: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    elapsed_seconds: float | None = None
    budget_seconds: float | None = None
    fraction: float | None = None
    phase: str | None = None


class InProgress(BaseModel):
    model_config = ConfigDict(extra="forbid")
    iteration: int
    stage: str
    attempt: int
    description: str
    proposer: str = ""
    """Who had the idea."""
    progress: Progress | None = None
    waits_for_device: bool = False
    """Another training is on the device: the budget and the deadline begin afterwards."""


class BestSoFar(BaseModel):
    model_config = ConfigDict(extra="forbid")
    iteration: int
    commit: str
    metric: float
    description: str
    proposer: str = ""
    """Who had the idea."""
    gain: float | None = None
    """Against the baseline; positive is better."""


class NoiseShown(BaseModel):
    """How much the metric of one program changes from seed to seed, as far as repeats tell."""

    model_config = ConfigDict(extra="forbid")
    deviation: float | None
    """Standard deviation of a training's metric; null before anything was repeated."""
    uncertainty: float | None
    """Standard error of that."""
    repeats: int
    """Trainings with a further seed that tell it, those of earlier runs included."""
    carried: int
    """Of these, those of earlier runs of the workspace with the same harness, data and device."""


class Paths(BaseModel):
    model_config = ConfigDict(extra="forbid")
    run: str
    journal: str
    state: str
    log: str
    results: str
    train_log: str | None = None
    next_proposal: str


class Status(BaseModel):
    """The schema of `autoexp status --json`; fields are added, never renamed."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    branch: str
    proposer: str
    """Who has the ideas; of a mix all, with their shares."""
    live: bool
    """Whether a session works on the run right now."""
    pid: int | None
    phase: Phase
    waiting_on: str
    """What is being done, or what would have to happen next, in words."""
    setup_done: bool
    baseline_done: bool
    iterations_completed: int
    target: int | None
    """How many were asked for, over the whole run; null: as many as the budget lasts."""
    counts: dict[str, int]
    metric: str
    direction: str
    baseline_metric: float | None
    best: BestSoFar | None
    best_val_bpb: float | None
    """The best metric, whatever its name, under the ancestor's key."""
    noise: NoiseShown
    """The noise of the metric."""
    kept_commit: str | None
    in_progress: list[InProgress]
    eta_seconds: float | None
    """Until the target is reached or the hours or trainings of the budget are used up, by the median of the trials so
    far; null while nothing trains and an agent is waited for."""
    ended: str | None
    """How the last session ended, when none is live."""
    stop_reason: str | None
    """The same in a word; see [exit codes](exit-codes.md#why-a-run-stopped). Null while one is live or before any."""
    limits: list[Limit]
    """The limits of the budget."""
    spent: Spending
    """What the agents took, as they report it."""
    unreachable: list[Down]
    """Agents that do not answer."""
    asked: list[Asked]
    """Calls of agents that are under way."""
    stop_asked: bool
    """Whether the live session was asked to stop, and has not yet."""
    hint: str | None
    queued: int
    """Proposals of people that wait."""
    notes: list[str]
    paths: Paths
    standing: Standing
    """What the gain of the best is: claimed by the run, audited (trained again with fresh seeds), or none."""
    standing_words: str
    """The same in words and numbers."""
    check: CheckShown | None
    """The audit, reproduction or ablation that is under way."""
    audit: CheckShown | None
    """The audit of the present best, when it is through."""
    guidance: list[Guidance]
    """What the person wants kept in mind, as far as it is in force."""
    questions: list[Question]
    """What proposers want to know from the person, as far as it is not answered."""
    isolated: bool | None
    """Whether the last training sees only what it needs; null before any."""
    why_not_isolated: str | None
    """Why it does not, in words."""


def status(paths: RunPaths) -> Status:
    """The run's status. Raises JournalError when its journal cannot be read."""
    return described(paths, *_state(paths))


def described(paths: RunPaths, state: RunState, summary: dict[str, Any]) -> Status:
    """The status of a run whose state and summary (`views.summary`) are known already."""
    alive, audit = live(paths), audit_of_best(state)
    working = [_in_progress(paths, state, number, alive) for number in sorted(state.open)]
    baseline = summary["baseline"]["metric"] if summary["baseline"] else None
    bounds = limits(state, time.time() if alive else None)
    calls = asked(state, time.time()) if alive else []
    stopping = alive and (state.stopping or any(request.kind == "stop" for _, request, _ in requests.waiting(paths)))
    return Status(
        run_id=state.run_id,
        branch=state.branch,
        proposer=state.plan.proposer,
        live=alive,
        pid=state.session.pid if alive and state.session else None,
        phase=_phase(state, summary),
        waiting_on=_named(paths, _waiting_on(paths, state, summary, alive, working, stopping)),
        setup_done=state.setup_done,
        baseline_done=state.baseline_closed,
        iterations_completed=summary["iterations_completed"],
        target=state.plan.target,
        counts=summary["counts"],
        metric=state.metric.name,
        direction=state.metric.direction,
        baseline_metric=baseline,
        best=_best(state, summary, baseline),
        best_val_bpb=state.best.metric if state.best else None,
        noise=_noise(state, summary),
        kept_commit=state.best.commit if state.best else None,
        in_progress=working,
        eta_seconds=_eta(state, summary, working, bounds) if alive and (working or not calls) else None,
        ended=_named(paths, _ended(state, alive)),
        stop_reason=_stop_reason(state, alive),
        limits=bounds,
        spent=spending(state),
        unreachable=unreachable(state, _latest(state, summary), alive),
        asked=calls,
        stop_asked=stopping,
        hint=_named(paths, _hint(state, summary, working)) if not alive else None,
        queued=len(queued(paths)) + paths.override.exists(),
        notes=[note.text for note in state.notes if _still(paths, note.key or "", alive)],
        paths=Paths(
            run=str(paths.folder),
            journal=str(paths.journal),
            state=str(paths.state),
            log=str(paths.log),
            results=str(paths.results),
            train_log=_train_log(paths, state),
            next_proposal=str(paths.override),
        ),
        standing=summary["standing"],
        standing_words=summary["standing_words"],
        check=check_shown(state, state.check) if state.check is not None else None,
        audit=check_shown(state, audit) if audit is not None else None,
        guidance=list(state.steering),
        questions=list(state.unanswered),
        isolated=state.isolated,
        why_not_isolated=state.why_not_isolated,
    )


T = TypeVar("T", str, str | None)


def _named(paths: RunPaths, text: T) -> T:
    """The commands in it mean this run, also when it is not the newest."""
    if not text or not _COMMAND.search(text) or Workspace(paths.folder.parents[2]).newest() == paths.run_id:
        return text
    return _COMMAND.sub(rf"\g<0> --run-id {paths.run_id}", text)


def _still(paths: RunPaths, key: str, alive: bool) -> bool:
    """Whether a note still says what is so."""
    other = key.removeprefix("live-")
    return other == key or (alive and live(RunPaths(paths.folder.with_name(other))))


def _state(paths: RunPaths) -> tuple[RunState, dict[str, Any]]:
    """From state.json when it is as new as the journal (quick in a long run), else from the journal itself."""
    try:
        summary = json.loads(paths.state.read_bytes())
        if summary["journal_bytes"] == paths.journal.stat().st_size and summary.keys() >= NEEDED:
            fields = {name: value for name, value in summary.items() if name in RunState.model_fields}
            return RunState.model_validate(fields), summary
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # a view: missing, torn, edited or of another release
    from autoexp.session import views  # it brings git along, which a look at state.json does not need

    state = load(paths)
    return state, views.summary(state)


def _phase(state: RunState, summary: dict[str, Any]) -> Phase:
    if not state.setup_done:
        return "setup"
    if not state.baseline_closed:
        return "baseline"
    return "done" if not state.open and _enough(state, summary) else "loop"


def _enough(state: RunState, summary: dict[str, Any]) -> bool:
    """Whether all that was asked for is done: the target, or as much as the budget allows."""
    target = state.plan.target
    if target is not None and summary["iterations_completed"] >= target:
        return True
    return budget.reached(state, state.plan) is not None


def _latest(state: RunState, summary: dict[str, Any]) -> str:
    """Who proposed last."""
    if state.open:
        return state.open[max(state.open)].proposer
    last = summary["last_trials"]
    return str(last[-1]["proposer"]) if last else ""


def _in_progress(paths: RunPaths, state: RunState, number: int, alive: bool) -> InProgress:
    iteration = state.open[number]
    folder = paths.folder / iteration.job.folder if iteration.stage == "train" and iteration.job is not None else None
    if folder is not None and not alive and not held(folder / LOCK_FILE):
        folder = None  # it has ended: what it said last is not what it does
    description = iteration.proposal.description if iteration.proposal else ("baseline" if number == 0 else "")
    return InProgress(
        iteration=number,
        stage=iteration.stage,
        attempt=iteration.attempt,
        description=description,
        proposer=iteration.proposer,
        progress=_progress(folder) if folder is not None else None,
        waits_for_device=folder is not None and (folder / WAIT_FILE).exists(),
    )


def _progress(folder: Path) -> Progress | None:
    """What the trainer says. It is a stranger's file: a field that is no finite number counts as not said."""
    fields = progress(folder)

    def number(name: str) -> float | None:
        value = fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
            return None  # infinities and NaN fail the comparison
        return float(value)

    step, fraction, phase = number("step"), number("progress"), fields.get("phase")
    if not fields:
        return None
    if phase == "evaluate":
        fraction = 1.0  # of the training; what is evaluated is not the budget
    return Progress(
        step=int(step) if step is not None else None,
        loss=number("loss"),
        tokens_per_second=number("tokens_per_second"),
        elapsed_seconds=number("elapsed"),
        budget_seconds=number("budget"),
        fraction=min(max(fraction, 0.0), 1.0) if fraction is not None else None,
        phase=phase[:40] if isinstance(phase, str) else None,
    )


def _hint(state: RunState, summary: dict[str, Any], working: list[InProgress]) -> str:
    """What to type next when nobody works on the run."""
    if state.closed is not None and state.closed.hint:
        return state.closed.hint
    if working or not state.setup_done or not _enough(state, summary):
        return "autoexp resume"
    limit = budget.reached(state, state.plan)
    target = state.plan.target
    done = target is not None and summary["iterations_completed"] >= target
    return "autoexp resume" + more(limit[0] if limit and not done else "done", state.plan)


def training_alone(paths: RunPaths, state: RunState) -> list[int]:
    """The iterations whose training goes on under its keeper although no session is live."""
    jobs = [(number, iteration.job) for number, iteration in sorted(state.open.items()) if iteration.stage == "train"]
    return [number for number, job in jobs if job is not None and held(paths.folder / job.folder / LOCK_FILE)]


def _waiting_on(
    paths: RunPaths, state: RunState, summary: dict[str, Any], alive: bool, working: list[InProgress], stopping: bool
) -> str:
    if state.check is not None:
        return _waiting_on_check(paths, state, alive)
    if not alive:
        if alone := training_alone(paths, state):
            return (
                f"nobody, but the training of iteration {alone[0]} goes on by itself: autoexp resume takes it in, "
                "autoexp stop --now ends it"
            )
        if working:
            return f"nobody: iteration {working[0].iteration} stands at {working[0].stage}; autoexp resume goes on"
        if not state.setup_done:
            return "nobody: the set-up is not done; autoexp resume goes on"
        if not _enough(state, summary):
            return "nobody: autoexp resume goes on"
        target = state.plan.target
        if target is not None and summary["iterations_completed"] >= target:
            return "nothing: the target is reached; autoexp resume --loops N does more"
        return f"nothing: the budget has ended it; {_hint(state, summary, working)} does more"
    if not working:
        what = "setup" if not state.setup_done else ("baseline" if not state.baseline_closed else "a proposal")
        return what + (STOPS if stopping else "")
    words = []
    for item in working:
        name = f"iteration {item.iteration}" if item.iteration else "baseline"
        done = f" {item.progress.fraction:.0%}" if item.progress and item.progress.fraction is not None else ""
        if item.waits_for_device:
            done = " (waits for the device: another training is on it)"
        words.append(f"{name}: {item.stage}{done}")
    return ", ".join(words) + (STOPS if stopping else "")


def _waiting_on_check(paths: RunPaths, state: RunState, alive: bool) -> str:
    """A check goes before iterations."""
    check = state.check
    assert check is not None
    if not alive:
        command = "autoexp resume" if check.auto else f"autoexp {check.kind}"
        return f"nobody: {check.key} is under way, {check_progress(check)}; {command} goes on"
    words = []
    for place in check.running:
        training = check.trainings[place]
        said = _progress(paths.folder / training.job.folder) if training.job is not None else None
        done = f" {said.fraction:.0%}" if said is not None and said.fraction is not None else ""
        words.append(f"{training.program} with seed {training.seed}{done}")
    now = f"{check.key}, {check_progress(check)}" + (f": {', '.join(words)}" if words else "")
    return now + (STOPS if state.stopping else "")


def _best(state: RunState, summary: dict[str, Any], baseline: float | None) -> BestSoFar | None:
    if state.best is None:
        return None
    gain = None
    if baseline is not None:
        gain = baseline - state.best.metric if state.metric.direction == "min" else state.best.metric - baseline
    trial = summary.get("best_trial") or {}
    return BestSoFar(
        **state.best.model_dump(),
        description=trial.get("description", ""),
        proposer=trial.get("proposer", ""),
        gain=gain,
    )


def _noise(state: RunState, summary: dict[str, Any]) -> NoiseShown:
    known = Noise.model_validate(summary["noise"])
    deviation, share = known.deviation, known.uncertainty
    return NoiseShown(
        deviation=deviation,
        uncertainty=deviation * share if deviation is not None and share is not None else None,
        repeats=known.freedom,
        carried=state.carried.freedom if state.carried is not None else 0,
    )


def _eta(state: RunState, summary: dict[str, Any], working: list[InProgress], bounds: list[Limit]) -> float | None:
    seconds: float | None = summary.get("typical_seconds") or next(
        (w.progress.budget_seconds for w in working if w.progress and w.progress.budget_seconds), None
    )
    target, done = state.plan.target, sum(w.progress.fraction or 0.0 for w in working if w.progress)
    left = (target or 0) - summary["iterations_completed"] + (0 if state.baseline_closed else 1)
    if target is not None and left <= 0:
        return None
    found = seconds_left(state, bounds, seconds, left - done)
    return round(found, 1) if found is not None else None


def _ended(state: RunState, alive: bool) -> str | None:
    if alive:
        return None
    if state.closed is None:
        # its last views (results.tsv, the branch) may be behind the journal until a session opens again
        return (
            "the session was killed; autoexp resume brings everything up to date" if state.session else "no session yet"
        )
    return state.closed.reason + (f": {state.closed.detail}" if state.closed.detail else "")


def _stop_reason(state: RunState, alive: bool) -> str | None:
    if alive or state.session is None:
        return None
    return state.closed.reason if state.closed is not None else "killed"


def _train_log(paths: RunPaths, state: RunState) -> str | None:
    jobs = [iteration.job for iteration in state.open.values() if iteration.job is not None]
    return str(paths.folder / jobs[-1].folder / LOG_FILE) if jobs else None
