"""The only loop: ask what is next, call the stage, append its event, reduce, show."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from autoexp.brief import lessons
from autoexp.errors import (
    AutoexpError,
    Interrupted,
    NothingToProposeError,
    PreconditionError,
    RepositoryError,
    RunError,
    SurroundingsError,
    UsageError,
)
from autoexp.plugins.manager import parts, plugin_manager, versions
from autoexp.runs import budget
from autoexp.runs import events as ev
from autoexp.runs.journal import Journal
from autoexp.runs.plan import Step, baseline_failed, next_stages, pending
from autoexp.runs.state import RunState, reduce
from autoexp.session import checking, memory, requests, snapshot, surroundings, views
from autoexp.session.foresight import doubts, may_propose, refuse_endless, refuse_missing, strangers
from autoexp.session.stopping import only_waits
from autoexp.session.words import told, write_line
from autoexp.spec.context import Context, pick
from autoexp.spec.ports import Tracker
from autoexp.workspace import settings as settings_module
from autoexp.workspace.files import explained
from autoexp.workspace.inbox import queued
from autoexp.workspace.locks import Lock, held
from autoexp.workspace.marked import end_agents
from autoexp.workspace.paths import LOG_FILE, RunPaths, Workspace
from autoexp.workspace.repository import Repository

STAGE_EVENTS: dict[str, tuple[type, ...]] = {
    "setup": (ev.SetupDone,),
    "baseline": (ev.BaselineOpened,),
    "propose": (ev.Proposed,),
    "apply": (ev.Applied,),
    "commit": (ev.Committed,),
    "train": (ev.TrainingStarted, ev.TrainingEnded),
    "triage": (ev.Triaged,),
    "record": (ev.Recorded,),
    "decide": (ev.Decided, ev.LookAgain, ev.NoiseCarried),
}
SHORTEST_WAIT, LONGEST_WAIT = 0.02, 0.1
"""Seconds between two looks at a training: short at first, so that quick trainings are not slowed down."""


class Session:
    """Works on one run while it holds the run's lock. `say` prints a line for people."""

    def __init__(self, workspace: Workspace, paths: RunPaths, say: Callable[[str], None]) -> None:
        self.workspace, self.paths, self.say = workspace, paths, say
        self.stopped_by: str | None = None
        self.trackers: dict[str, Tracker] = {}
        self._end_now = False

    def run(self) -> RunState:
        """Work until the plan is done, stopped or interrupted. Returns the last state.

        Raises RunError when another session works on the run, and whatever AutoexpError ended the work.
        """
        while True:
            lock = Lock(self.paths.lock)
            if not lock.acquire(wait_seconds=1.0):
                raise RunError(
                    f"another session works on run {self.paths.run_id}", f"autoexp watch --run-id {self.paths.run_id}"
                )
            try:
                with self._signals():
                    state = self._work()
            finally:
                lock.release()
            # a request that came between the last look and the release would wait for nobody
            if not requests.waiting(self.paths):
                return state

    # -- one session ----------------------------------------------------------------------------------------------

    def _work(self) -> RunState:
        self.state = snapshot.load(self.paths)  # refuses a newer release's journal before anything is touched
        self._since_snapshot = 0
        self.journal = Journal(self.paths.journal)
        try:
            try:
                self._open()
                self._loop()
                self._refuse_failed_baseline()
                surroundings.refuse_broken(self.state, self.paths)
                self._close(*self._reason())
            except AutoexpError as error:
                self._close_with(error)
                raise
            except OSError as error:  # a full or read-only disk, a vanished folder: told as such, not as a bug
                explanation = explained(error, Path(error.filename or self.paths.folder))
                self._close_with(explanation)
                raise explanation from error
            except Exception as error:
                self.log(traceback.format_exc(), "ERROR")
                self._close("error", f"unexpected {type(error).__name__}: {error}", f"see {self.paths.log}", 1)
                raise
        finally:
            if self._since_snapshot >= snapshot.FEW:
                self._snapshot()
            self.journal.close()
        return self.state

    def _open(self) -> None:
        self.settings = settings_module.load(self.workspace)
        judged = _judged(self.settings)
        self._refuse_drift(judged)
        if self.settings.metric != self.state.metric:
            raise UsageError(
                f"the metric was {self.state.metric.name} ({self.state.metric.direction}) when the run began, "
                f"now it is {self.settings.metric.name} ({self.settings.metric.direction})",
                "put it back, or begin anew: autoexp start",
            )
        self.repository = Repository(self.workspace)
        self.plugins = plugin_manager()
        options = self.settings
        self.proposers = parts(self.plugins, "proposers", options.proposers)
        self.executors = parts(self.plugins, "executors", options.executors)
        self.rules = parts(self.plugins, "rules", options.rules)
        self.agents = parts(self.plugins, "agents", options.agents)
        trackers = parts(self.plugins, "trackers", options.trackers)
        self.trackers = {name: pick(trackers, name, "tracker") for name in options.run.trackers}
        before = self.state.session
        opened = ev.SessionOpened(
            pid=os.getpid(),
            host=socket.gethostname(),
            plugins=versions(self.plugins),
            judged=judged,
            journal_sha256=self.journal.sha256,
        )
        self.append(opened)
        if left := end_agents(self.paths.worktrees):
            self._note(
                f"ended what an agent of an earlier session had left at work: {', '.join(left)}", f"left-{opened.at}"
            )
        for name, value in judged.items():
            if before is not None and before.judged and before.judged.get(name) != value:
                said = f"{name} was {before.judged.get(name)} and is now {value}: trials from before may not compare"
                self._note(said, f"changed-{name}-{value}")
        self._take_requests(fresh=True)
        for other in self.workspace.run_ids():
            if other != self.paths.run_id and held(self.workspace.run(other).lock):
                text = f"run {other} is live in this workspace too: their trainings wait for each other's device"
                self._note(text, f"live-{other}")
        for names, name, kind in (
            *((self.proposers, name, "proposer") for name in self.state.plan.proposers),
            (self.executors, self.state.plan.executor, "executor"),
            (self.rules, self.state.plan.rule, "decision rule"),
        ):
            pick(names, name, kind)
        if may_propose(self.state):  # these may be needed in the middle of the night
            pick(self.proposers, self.settings.run.fallback, "proposer")
            pick(self.agents, self.settings.agent.name, "agent")
        refuse_endless(self.state.plan, self.agents, f"autoexp resume --run-id {self.paths.run_id}")
        if not self.state.checking and not queued(self.paths) and not self.paths.override.exists():
            # else a person has the next idea, or none is wanted
            refuse_missing(self.state, self.agents)
        self._note_doubts()
        kinds = {"proposers": self.proposers, "executors": self.executors, "rules": self.rules}
        for text, key in strangers(options, {**kinds, "agents": self.agents, "trackers": trackers}):
            self._note(text, key)
        views.write_results(self.workspace, self.paths, self.state, self.log)
        if self.state.setup_done:
            self._move_branch()

    def _refuse_drift(self, judged: dict[str, Any]) -> None:
        """A budget that changes makes every later trial better, or worse, than the ones it is compared with."""
        before = self.state.session.judged if self.state.session is not None else {}
        budget = "train.budget_seconds"
        if self.state.trials and before and before[budget] != judged[budget]:
            raise UsageError(
                f"{budget} was {before[budget]:g} when the trials were made and is now {judged[budget]:g}",
                "put it back, or begin anew: autoexp start",
            )

    def _note_doubts(self) -> None:
        for text, key in doubts(self.state, self.agents):
            if all(note.key != key for note in self.state.notes):
                self._note(text, key)

    def _loop(self) -> None:
        wait = SHORTEST_WAIT
        while True:
            self._take_requests(fresh=False)
            if self.stopped_by is not None:
                raise Interrupted(f"stopped by {self.stopped_by}", f"autoexp resume --run-id {self.paths.run_id}")
            if self._end_now or (self.state.stopping and only_waits(self.paths, self.state)):
                self._kill_jobs()
                return
            steps = next_stages(self.state, self.state.plan)
            if not steps:
                return
            if not self.paths.folder.is_dir():  # the keepers see it too
                raise RunError(f"the run's folder was removed: {self.paths.folder}", "autoexp start")
            begins = any(step.stage in ("propose", "probe") for step in steps)
            if begins and (why := surroundings.gone(self.workspace, self.settings)):
                self.append(surroundings.excuse(self.state, self.paths, why))
                continue
            try:
                progress = any(self._step(step) for step in steps)
            except Interrupted:
                if self.stopped_by is not None or not self._asked_to_end():
                    raise
                continue  # `stop --now` came in the middle of a stage: it is taken in above
            if progress:
                wait = SHORTEST_WAIT
            else:
                time.sleep(wait)
                wait = min(wait * 1.3, LONGEST_WAIT)

    def _refuse_failed_baseline(self) -> None:
        if baseline_failed(self.state):
            if why := surroundings.unprepared(self.state, self.workspace, self.settings):
                raise PreconditionError(f"the unchanged program does not train: {why}", surroundings.PREPARE)
            raise AutoexpError(
                f"the unchanged program does not train: {self.state.trials[0].why}",
                f"mend it and commit, or mend the settings, then: autoexp start "
                f"(log: {self.paths.attempt(0, 1) / LOG_FILE}); "
                "to go on without a baseline: autoexp resume --only loop",
            )

    def _step(self, step: Step) -> bool:
        """Do one step; False when its stage has nothing to tell yet."""
        if step.stage in checking.STEPS:
            event_of_check = checking.STEPS[step.stage](self.state, self._context(step), self.plugins.hook)
            if event_of_check is not None:
                self.append(event_of_check)
            return event_of_check is not None
        if step.skip:
            self.append(ev.StageSkipped(iteration=step.iteration, stage=step.stage))
            return True
        if step.stage in surroundings.STEPS:
            self.append(surroundings.step(self.state, self._context(step), step))
            return True
        event: ev.Event | None = getattr(self.plugins.hook, f"autoexp_{step.stage}")(
            state=self.state, context=self._context(step)
        )
        if event is None:
            return False
        if not isinstance(event, STAGE_EVENTS[step.stage]):
            wanted = " or ".join(kind.__name__ for kind in STAGE_EVENTS[step.stage])
            raise UsageError(
                f"stage {step.stage} returned {type(event).__name__} instead of {wanted}", "autoexp plugins"
            )
        self.append(event)
        return True

    def append(self, event: ev.Event) -> None:
        """Into the journal, into the state, then to all who look on."""
        after = reduce(self.state, event)
        if isinstance(event, ev.Recorded | ev.Decided):
            # Before the journal: what is then missing there is done again, and written again. After it, a kill in
            # between would leave a finished run, that nobody resumes, with a row that still says 'pending'.
            views.write_results(self.workspace, self.paths, after, self.log)
        self.journal.append(event)
        before, self.state = self.state, after
        self.log(told(event))
        if isinstance(event, ev.AgentCalled) and not event.problem:
            self._note_doubts()
        self._since_snapshot += 1
        if self._since_snapshot >= snapshot.EVERY:
            self._snapshot()
        views.write_state(self.paths, self.state, self.journal.size)
        if isinstance(event, ev.Decided) and not self.settings.train.keep_checkpoints:
            views.drop_checkpoints(self.paths, before, self.state)
        if isinstance(event, ev.LessonLearned) and self.settings.agent.lessons:
            lessons.keep(self.workspace, self.paths.run_id, self.state.lessons[-1])
        if isinstance(event, ev.CheckEnded) and not self.settings.train.keep_checkpoints:
            views.drop_checkpoints_of(self.paths, self.state, event)
        kept = isinstance(event, ev.Decided) and event.decision == "keep"
        if kept or isinstance(event, ev.SetupDone | ev.BestSimplified | ev.CheckClosed):
            self._move_branch()
        for name, tracker in self.trackers.items():
            try:
                tracker.track(event, self.state)
            except Exception as error:  # a third party's code; a tracker never stops a run
                self.log(f"tracker {name}: {error!r}", "WARNING")

    def _context(self, step: Step) -> Context:
        return Context(
            iteration=step.iteration,
            attempt=step.attempt,
            plan=self.state.plan,
            settings=self.settings,
            workspace=self.workspace,
            paths=self.paths,
            repository=self.repository,
            proposers=self.proposers,
            executors=self.executors,
            rules=self.rules,
            agents=self.agents,
            log=self.log,
            note=lambda text, key: self._note(text, key, step.iteration),
            called=self.append,
            asked=self.append,
            remember=self._remember,
            stop=lambda: self.stopped_by is not None or self._asked_to_end(),
        )

    # -- the small parts ------------------------------------------------------------------------------------------

    def _note(self, text: str, key: str, iteration: int | None = None) -> None:
        if any(note.key == key for note in self.state.notes):
            self.log(f"note: {text}")
        else:
            self.append(ev.Noted(text=text[:4000], key=key[:200], iteration=iteration))

    def _remember(self, event: memory.Remembered) -> None:
        """After a crash in the middle of a stage the same thing is remembered again: what is known is passed over."""
        if not memory.known(self.state, event):
            self.append(event)

    def _snapshot(self) -> None:
        with suppress(AutoexpError):  # a view: without it the next session begins a little slower
            snapshot.save(self.paths, self.state, self.journal.size)
            self._since_snapshot = 0

    def _move_branch(self) -> None:
        try:
            why = views.move_branch(self.repository, self.state)
        except RepositoryError as error:  # a lock that a killed git left, say; the branch is only a view
            why = f"the branch {self.state.branch} could not be moved: {error}"
        if why:
            self._note(why, f"branch-{why}")

    def _take_requests(self, fresh: bool) -> None:
        for name, request, path in requests.waiting(self.paths):
            if name not in self.state.requests:
                if request.kind in ("stop", "resume", "check"):
                    self._end_now = request.kind == "stop" and request.now
                if request.kind == "stop":
                    self.append(ev.StopRequested(request=name))
                elif request.kind == "check":
                    self._open_check(name, request)
                elif request.kind == "resume":
                    self._plan(name, request, fresh)
                else:
                    self.append(memory.said(name, request))
            path.unlink(missing_ok=True)

    def _plan(self, name: str, request: requests.Request, fresh: bool) -> None:
        try:
            plan = requests.planned(self.state.plan, request, self.state.completed, fresh, budget.used(self.state))
        except ValidationError as error:  # of another release of autoexp
            self._note(f"a request was not understood, and is dropped: {error.errors()[0]['msg']}", f"request-{name}")
        else:
            self.append(ev.PlanMade(plan=plan, request=name))

    def _open_check(self, name: str, request: requests.Request) -> None:
        try:
            opened = ev.CheckOpened.model_validate({**request.changes, "request": name})
        except ValidationError as error:  # of another release of autoexp
            self._note(f"a request was not understood, and is dropped: {error.errors()[0]['msg']}", f"request-{name}")
        else:
            self.append(opened)

    def _asked_to_end(self) -> bool:
        return any(request.kind == "stop" and request.now for _, request, _ in requests.waiting(self.paths))

    def _kill_jobs(self) -> None:
        for iteration in self.state.open.values():
            if iteration.job is not None and iteration.stage == "train":
                self.log(f"ending the training of iteration {iteration.number}")
                pick(self.executors, self.state.plan.executor, "executor").kill(
                    self.paths.folder / iteration.job.folder
                )
        for training in checking.at_work(self.state):
            self.log(f"ending the training of {training.program} with seed {training.seed}")
            if training.job is not None:
                pick(self.executors, self.state.plan.executor, "executor").kill(self.paths.folder / training.job.folder)

    def _reason(self) -> tuple[str, str]:
        """(why the session ends, in a word; in words)."""
        plan = self.state.plan
        if self._end_now or self.state.stopping:
            return "stopped", "on request"
        if self.state.checking and self.state.checks:
            last = self.state.checks[-1]
            return "checked", f"{last.key}: {last.verdict.finding}" if last.verdict is not None else last.key
        left = pending(self.state, plan)
        if left:
            return "pending", "not selected: " + ", ".join(left)
        wanted = "loop" in plan.stages and (plan.target is None or self.state.completed < plan.target)
        if wanted and (limit := budget.reached(self.state, plan)):
            return limit
        return "done", f"{self.state.completed} iteration" + ("s" if self.state.completed != 1 else "")

    def _close_with(self, error: AutoexpError) -> None:
        reason = "interrupted" if isinstance(error, Interrupted) else "error"
        if isinstance(error, NothingToProposeError):
            reason = "nothing_to_propose"
        if isinstance(error, SurroundingsError):
            reason = "surroundings"
        self._close(reason, str(error), error.hint, error.exit_code)

    def _close(self, reason: str, detail: str = "", hint: str = "", exit_code: int = 0) -> None:
        with suppress(AutoexpError):  # a full disk: the journal then ends without a farewell, and status says so
            self.append(
                ev.SessionClosed(
                    reason=reason,
                    detail=detail[:2000],
                    hint=hint,
                    exit_code=exit_code,
                    journal_sha256=self.journal.sha256,
                )
            )

    def log(self, text: str, level: str = "INFO") -> None:
        """A line in runner.log and for `say`. Neither can stop a run: the journal is the truth."""
        self.say(write_line(self.paths.log, text, level))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP stop the session at the next safe point. Trainings go on under their keepers."""

        def asked(number: int, frame: FrameType | None) -> None:
            self.stopped_by = signal.Signals(number).name

        before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _judged(settings: settings_module.Settings) -> dict[str, Any]:
    """The settings that two trials must share for their numbers to compare."""
    return {
        "train.command": list(settings.train.command),
        "train.budget_seconds": settings.train.budget_seconds,
        "train.env": settings.train.env,
        "files.editable": list(settings.files.editable),
        "files.frozen": list(settings.files.frozen),
    }


def printer() -> Callable[[str], None]:
    """Prints lines until standard output goes away (`| head`, a closed terminal); the run goes on without it."""
    gone = sys.stdout is None  # closed before we began

    def say(line: str) -> None:
        nonlocal gone
        if gone:
            return
        try:
            print(line.encode(errors="replace").decode(sys.stdout.encoding or "utf-8", "replace"), flush=True)
        except (OSError, UnicodeError, ValueError):
            gone = True
            with suppress(OSError):  # the interpreter flushes once more at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return say
