"""For the tests of plugins: a workspace with a tiny trainer, whole runs in this process, and conformance cases.

    from autoexp.testing import ProposerCases, make_workspace, run

    class TestHalve(ProposerCases):
        def make(self):
            return Halve()

    def test_two_iterations(tmp_path):
        workspace = make_workspace(tmp_path, LR=0.32)
        state = run(workspace, loops=2, proposer=Halve())
        assert [trial.decision for trial in state.trials] == ["keep", "keep", "keep"]

Nothing is faked but the trainer's science: git, worktrees, keepers, trainings and the journal are the real ones.
Subclass a `...Cases` class in a test module and pytest runs its tests against what `make` returns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

from autoexp.errors import PreconditionError
from autoexp.plugins.manager import REGISTERING
from autoexp.runs.events import Decided, Proposed
from autoexp.runs.journal import read
from autoexp.runs.plan import select
from autoexp.runs.records import Best, Constant, Decision, Direction, Edit, Metric, Proposal, SetConstant, Trial
from autoexp.runs.state import RunState, reduce, replay
from autoexp.session.create import create_run
from autoexp.session.loop import Session
from autoexp.session.planning import first_plan
from autoexp.session.requests import Request, post
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Executor, Exit, JobSpec, Proposer, Rule, Tracker
from autoexp.workspace.constants import replaced
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.settings import load

TRAINER = '''\
"""A program whose val_bpb hangs on two constants: best at LR = 0.01 and DEPTH = 6."""

from evaluate import val_bpb

LR = 0.08  # [0.0001, 1.0] log; learning rate
DEPTH = 4  # [1, 12]; layers

print(f"val_bpb: {val_bpb(LR, DEPTH):.6f}")
print("peak_vram_mb: 512.0")
'''
"""train.py of `make_workspace`: the editable file. It needs nothing but Python, and ends at once."""

EVALUATOR = '''\
"""The frozen part: the score of a learning rate and a depth, smaller is better."""

import math


def val_bpb(lr, depth):
    return 1.0 + math.log10(lr / 0.01) ** 2 / 10 + (depth - 6) ** 2 / 100
'''
"""evaluate.py of `make_workspace`: the frozen file."""

SETTINGS = """\
[train]
command = "{python} -S train.py"
timeout_seconds = 120

[files]
editable = ["train.py"]
frozen = ["evaluate.py"]

[audit]
auto = false
"""
"""autoexp.toml of `make_workspace`."""


def make_workspace(path: Path, trainer: str = TRAINER, settings: str = SETTINGS, **constants: Constant) -> Workspace:
    """A git repository at `path` with train.py, evaluate.py and autoexp.toml, committed on branch main.

    `constants` replace those of the trainer: `make_workspace(path, LR=0.5)`.
    """
    for name, value in constants.items():
        trainer = replaced(trainer, name, value)
    path.mkdir(parents=True, exist_ok=True)
    for file, text in (("train.py", trainer), ("evaluate.py", EVALUATOR), ("autoexp.toml", settings)):
        (path / file).write_text(text)
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "add", "--all")
    git(path, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "--quiet", "--message=The program")
    return Workspace(path)


def git(path: Path, *args: str) -> str:
    """What a git command prints in `path`, without the last newline."""
    done = subprocess.run(["git", *args], cwd=path, check=True, capture_output=True, text=True)
    return done.stdout.removesuffix("\n")


def proposal(*edits: Edit, description: str = "", **constants: Constant) -> Proposal:
    """A proposal that makes `edits`, and sets `constants`."""
    sets = tuple(SetConstant(name=name, value=value) for name, value in constants.items())
    words = description or ", ".join(f"{name} = {value}" for name, value in constants.items()) or "an edit"
    return Proposal(status="ok", description=words, change_plan=words, commit_description=words, edits=(*edits, *sets))


class Scripted:
    """A proposer that has its proposals from the start: the first for iteration 1, and so on."""

    def __init__(self, *proposals: Proposal) -> None:
        self.proposals = proposals

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        return self.proposals[context.iteration - 1] if context.iteration <= len(self.proposals) else None


class Registering:
    """A plugin that registers parts by kind and name: `Registering(rules={"mine": Mine()})`."""

    def __init__(self, **kinds: Mapping[str, Any]) -> None:
        unknown = set(kinds) - set(REGISTERING)
        if unknown:
            raise TypeError(f"there are no parts of kind {', '.join(sorted(unknown))}")
        self.kinds = kinds

    def _all(self, kind: str, register: Any) -> None:
        for name, part in self.kinds.get(kind, {}).items():
            register(name, part)

    @hookimpl
    def autoexp_register_proposers(self, register: Any) -> None:
        self._all("proposers", register)

    @hookimpl
    def autoexp_register_agents(self, register: Any) -> None:
        self._all("agents", register)

    @hookimpl
    def autoexp_register_executors(self, register: Any) -> None:
        self._all("executors", register)

    @hookimpl
    def autoexp_register_decision_rules(self, register: Any) -> None:
        self._all("rules", register)

    @hookimpl
    def autoexp_register_trackers(self, register: Any) -> None:
        self._all("trackers", register)


def install(folder: Path, entry_points: Mapping[str, str], version: str = "1.0") -> None:
    """Make `folder`, once it is on sys.path or PYTHONPATH, a distribution with these `autoexp` entry points."""
    info = folder / "autoexp_testing-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: autoexp-testing\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[autoexp]\n" + "".join(f"{k} = {v}\n" for k, v in entry_points.items()))


plugged_in = SimpleNamespace()
"""Where the entry points that `plugged` makes lead to."""


@contextmanager
def plugged(plugins: Mapping[str, object]) -> Iterator[None]:
    """Within it, this process finds the plugins as if they were installed: through entry points."""
    points = {}
    for name, plugin in plugins.items():
        attribute = f"plugin_{id(plugin)}"
        setattr(plugged_in, attribute, plugin)
        points[name] = f"autoexp.testing:plugged_in.{attribute}"
    with tempfile.TemporaryDirectory(prefix="autoexp-testing-") as folder:
        install(Path(folder), points)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)


def run(
    workspace: Workspace,
    loops: int | None = 0,
    proposer: Proposer | str | None = None,
    *,
    run_id: str = "test",
    plugins: Mapping[str, object] | None = None,
    **plan: Any,
) -> RunState:
    """Start the run, or resume it with `loops` more, and work on it in this process until it is done.

    `plugins` are plugged in by name; `plan` sets fields of `autoexp.runs.records.Plan`. Raises what ended the session.
    """
    found = dict(plugins or {})
    if isinstance(proposer, str):
        plan["proposer"] = proposer
    elif proposer is not None:
        plan["proposer"] = "under-test"
        found["autoexp-testing"] = Registering(proposers={"under-test": proposer})
    with plugged(found):
        paths = workspace.run(run_id)
        if paths.journal.exists():
            post(paths, Request(kind="resume", loops=loops, changes=plan))
        else:
            first = first_plan(load(workspace), select(None, None, None, None), loops, plan)
            create_run(workspace, load(workspace), first, run_id, None)
        return Session(workspace, paths, say=lambda line: None).run()


def replayed(paths: RunPaths) -> RunState:
    """The state that the run's journal adds up to."""
    return replay(read(paths.journal))


class _Keeping:
    """A proposer around another: keeps what went in and out, and what a second asking would have said."""

    def __init__(self, inner: Proposer, fresh: Proposer) -> None:
        self.inner, self.fresh = inner, fresh
        self.answers: list[tuple[Proposal | None, Proposal | None]] = []

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        answer = self.inner.propose(state, context)
        self.answers.append((answer, self.fresh.propose(state, context)))
        return answer


class ProposerCases:
    """What every proposer must do. `make` returns a new one; `workspace` may be another than the tiny one."""

    loops = 3

    def make(self) -> Proposer:
        raise NotImplementedError

    def workspace(self, path: Path) -> Workspace:
        return make_workspace(path)

    def test_it_proposes_in_a_run(self, tmp_path: Path) -> None:
        """Each iteration has its idea, which can be applied; no training but of an idea."""
        workspace = self.workspace(tmp_path / "work")
        state = run(workspace, self.loops, self.make())
        assert state.completed == self.loops
        proposed = [event for event in read(workspace.run("test").journal) if isinstance(event, Proposed)]
        assert [event.proposer for event in proposed] == ["under-test"] * self.loops
        assert [trial.status for trial in state.trials[1:]] == ["success"] * self.loops

    def test_asked_again_it_answers_the_same(self, tmp_path: Path) -> None:
        """After a crash it is asked again, in a new process, with equal arguments."""
        proposer = _Keeping(self.make(), self.make())
        run(self.workspace(tmp_path / "work"), self.loops, proposer)
        assert len(proposer.answers) == self.loops
        for first, second in proposer.answers:
            assert first == second

    def test_it_leaves_the_checkout_alone(self, tmp_path: Path) -> None:
        workspace = self.workspace(tmp_path / "work")
        before = git(workspace.root, "status", "--porcelain"), git(workspace.root, "rev-parse", "HEAD")
        run(workspace, 1, self.make())
        assert (git(workspace.root, "status", "--porcelain"), git(workspace.root, "rev-parse", "HEAD")) == before


def trial(number: int, metric: float | None, **fields: Any) -> Trial:
    """A recorded trial with this metric; without one it crashed."""
    given = {"iteration": number, "metric": metric, "status": "crash" if metric is None else "success"}
    words = {"description": f"idea {number}", "proposer": "test", "base": "0" * 40, "commit": f"{number:040x}"}
    return Trial.model_validate({**words, "ref": f"refs/autoexp/test/{number:04d}-1", "source": "", **given, **fields})


class RuleCases:
    """What every decision rule must do. `make` returns a new one."""

    def make(self) -> Rule:
        raise NotImplementedError

    def decisions(self, metrics: Sequence[float], direction: Direction) -> list[tuple[Decision, str]]:
        """What the rule says of trials with these metrics, each kept one becoming the best."""
        rule, metric = self.make(), Metric(direction=direction)
        best: Best | None = None
        trials: list[Trial] = []
        said = []
        for number, value in enumerate(metrics):
            new = trial(number, value)
            decision, why = rule.decide(new, best, tuple(trials), metric)
            if decision == "keep":
                best = Best(iteration=number, commit=new.commit, metric=value)
            trials.append(new.model_copy(update={"decision": decision, "why": why}))
            said.append((decision, why))
        return said

    def test_it_gives_a_decision_and_its_reason(self) -> None:
        for direction in get_args(Direction):
            for decision, why in self.decisions([1.0, 1.1, 0.9, 0.9, 1e-9, -2.0, 1e9], direction):
                assert decision in get_args(Decision)
                assert why.strip()

    def test_the_first_number_is_kept(self) -> None:
        """Without it there would be nothing to compare with."""
        for direction in get_args(Direction):
            assert self.decisions([1.0], direction)[0][0] == "keep"

    def test_equal_arguments_have_an_equal_answer(self) -> None:
        """After a crash the rule is asked again, in a new process."""
        metrics = [1.0, 0.9, 0.95, 0.8, 0.8]
        assert self.decisions(metrics, "min") == self.decisions(metrics, "min")

    def test_it_decides_a_run(self, tmp_path: Path) -> None:
        workspace = make_workspace(tmp_path / "work")
        rules = {"rules": Registering(rules={"under-test": self.make()})}
        steps = Scripted(proposal(LR=0.04), proposal(LR=0.5))
        state = run(workspace, 2, steps, plugins=rules, rule="under-test")
        assert state.completed == 2
        assert all(trial.decision and trial.why for trial in state.trials)


class ExecutorCases:
    """What every executor must do. `make` returns a new one: nothing may be remembered but in the job's folder."""

    patience_seconds = 60.0
    """How long a job of no length may take, queueing included."""

    def make(self) -> Executor:
        raise NotImplementedError

    def job(self, path: Path, program: str, timeout_seconds: float = 60.0, key: str = "") -> JobSpec:
        """A job that runs a Python program in a folder of its own under `path`."""
        folder, work = path / "runs" / "r" / "iterations" / "0001" / "attempt-1", path / "work"
        work.mkdir(parents=True, exist_ok=True)
        return JobSpec(
            key=key or f"{folder}:1-1",
            folder=folder,
            command=(sys.executable, "-c", program),
            cwd=work,
            env={"GREETING": "hello"},
            timeout_seconds=timeout_seconds,
            locks=path / "runs",
        )

    def wait(self, folder: Path) -> Exit:
        """How the job ended, looked at by a new executor each time."""
        deadline = time.monotonic() + self.patience_seconds
        while (ended := self.make().poll(folder)) is None:
            assert time.monotonic() < deadline, "the job does not end"
            time.sleep(0.02)
        return ended

    def wait_for(self, file: Path) -> None:
        """Until a job has made a file."""
        deadline = time.monotonic() + self.patience_seconds
        while not file.exists():
            assert time.monotonic() < deadline, f"the job does not make {file}"
            time.sleep(0.02)

    def test_it_tells_the_exit_code_and_keeps_the_output(self, tmp_path: Path) -> None:
        program = "import os, sys; print(os.environ['GREETING'], os.environ['AUTOEXP_JOB']); sys.exit(7)"
        job = self.job(tmp_path, program, key="the-key")
        self.make().submit(job)
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) == ("exited", 7)
        assert "hello the-key" in (job.folder / "train.log").read_text()

    def test_the_job_runs_in_its_directory(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "open('here', 'w').close()")
        self.make().submit(job)
        assert self.wait(job.folder).code == 0
        assert (job.cwd / "here").exists()

    def test_a_deadline_ends_it(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "import time; time.sleep(600)", timeout_seconds=0.3)
        self.make().submit(job)
        assert self.wait(job.folder).status == "timeout"

    def test_a_running_job_has_not_ended_and_can_be_killed(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "import time; open('up', 'w').close(); time.sleep(600)")
        self.make().submit(job)
        self.wait_for(job.cwd / "up")
        assert self.make().poll(job.folder) is None
        self.make().kill(job.folder)
        assert self.wait(job.folder).status == "killed"

    def test_a_job_that_was_submitted_twice_runs_once(self, tmp_path: Path) -> None:
        """A session that was killed before it could write down that it submitted the job will do it again."""
        job = self.job(tmp_path, "import time; open('runs', 'a').write('x'); time.sleep(0.3)")
        self.make().submit(job)
        self.wait_for(job.cwd / "runs")
        self.make().submit(job)
        assert self.wait(job.folder).status == "exited"
        self.make().submit(job)
        assert self.wait(job.folder).status == "exited"
        assert (job.cwd / "runs").read_text() == "x"

    def test_a_missing_command_is_refused_and_leaves_nothing(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "")
        missing = JobSpec(**{**vars(job), "command": ("no-such-program-anywhere",)})
        try:
            self.make().submit(missing)
        except PreconditionError:
            assert not job.folder.exists() or not any(job.folder.iterdir())
        else:
            raise AssertionError("PreconditionError was not raised")


class TrackerCases:
    """What every tracker must do. `make` returns a new one; what it writes must go under `path`."""

    def make(self, path: Path) -> Tracker:
        raise NotImplementedError

    def check(self, path: Path, state: RunState) -> None:
        """Override it to look at what was tracked of a run that ended in `state`."""

    def test_it_takes_every_event_of_a_run(self, tmp_path: Path) -> None:
        """A keep, a discard, a refusal and a crash go by, and a resume, and it never raises."""
        workspace = make_workspace(tmp_path / "work")
        bad = proposal(SetConstant(name="NO_SUCH", value=1), description="a tab\tand a\nnewline, ünïcode")
        run(workspace, 4, Scripted(proposal(LR=0.04), proposal(LR=0.5), bad, proposal(LR=-1.0)))
        events = read(workspace.run("test").journal)
        (tmp_path / "tracked").mkdir()
        tracker = self.make(tmp_path / "tracked")
        state = replay(events[:1])
        for event in events[1:]:
            state = reduce(state, event)
            tracker.track(event, state)
            if isinstance(event, Decided) and event.iteration == 2:
                tracker = self.make(tmp_path / "tracked")  # the session was resumed
        assert [t.decision for t in state.trials] == ["keep", "keep", "discard", "crash", "crash"]
        self.check(tmp_path / "tracked", state)
