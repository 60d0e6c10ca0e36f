"""What can be plugged in, by kind. Each is a small protocol; register an instance under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from autoexp.errors import PreconditionError

if TYPE_CHECKING:
    from autoexp.runs.events import Event
    from autoexp.runs.records import Best, Decision, Evidence, Measurement, Metric, Noise, Proposal, Trial
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context


class Proposer(Protocol):
    """Has ideas."""

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        """One change to the program at `state.tip`, or None when there is nothing left to propose.

        Called again with the same iteration after a crash: equal arguments should give an equal answer.
        """


@dataclass(frozen=True)
class Evaluation:
    """How what a job has trained is to be judged by others than itself.

    An executor that can have that done says so by an attribute `evaluates = True`; the others never get one of these.
    It writes evaluation.json, sealed, into the job's folder before `poll` says that the job has ended.
    """

    program: str
    """Path of the trainer's file in the commit; it keeps the contract of `workspace.contract`."""
    commit: str
    """What was trained."""
    source: str
    """The candidate's source hash."""
    repository: Path
    """The checkout whose git has the commit."""
    key: Path
    """The file of the run's key, which no training may see."""
    profile: str
    """The profile whose data is looked for where AUTOEXP_DATA names none."""
    seconds: float
    """How long it may take."""
    splits: tuple[str, ...] = ("val",)
    """The splits of the data that are evaluated; the first is the one that checks are made on."""
    checkpoint: Path | None = None
    """Evaluate this one instead of training."""

    def fields(self) -> dict[str, Any]:
        """As job.json has them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Isolation:
    """What a training may see and take, when it is to be isolated.

    An executor that can do that has a method `missing_isolation()`: None when it can here, else what is missing, in
    words. It says in `Exit.isolation` what was in force. The others never get one of these.
    """

    readable: tuple[Path, ...] = ()
    """What it may read beside the system's programs, its own interpreter and its directory."""
    hidden: tuple[Path, ...] = ()
    """What it may not even see, within that."""
    writable: tuple[Path, ...] = ()
    """What it may write to beside its own folder, where its report goes."""
    copied: tuple[Path, ...] = ()
    """Folders that it gets a copy of, to write to: nothing of that stays."""
    keeps_copies: bool = False
    """Whether new files in them are kept for later trainings, once it has ended well."""
    network: bool = False
    max_processes: int = 1000
    max_disk_bytes: int = 20 << 30
    max_memory_bytes: int | None = None


@dataclass(frozen=True)
class JobSpec:
    """A training to run. `folder` is the job's own; what is in it survives the process that asked."""

    key: str
    """Unique and deterministic: run, iteration, attempt. Every process of the job has it in AUTOEXP_JOB."""
    folder: Path
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    timeout_seconds: float
    locks: Path
    """A folder that all runs of the workspace share, for locks on what they share."""
    slot: int = 0
    """Which of the `slots` workers it is for: its device."""
    slots: int = 1
    gpus: int = 1
    """How many GPUs it trains on; its environment says so too, in AUTOEXP_GPUS."""
    standby: bool = False
    """Whether another job of this kind will come: a process may be started for it already, and wait."""
    evaluation: Evaluation | None = None
    """How it is judged; None when the trainer does that itself."""
    isolation: Isolation | None = None
    """What it is confined to; None: it may do what the user may."""


@dataclass(frozen=True)
class Exit:
    """How a job's process ended."""

    status: Literal["exited", "timeout", "killed", "lost", "not_started"]
    code: int | None
    """Exit code; negative for a signal, as in subprocess."""
    wall_seconds: float
    reason: str = ""
    isolation: str = ""
    """What the job was confined by; '' when it was not."""
    cpu_seconds: float | None = None
    """Processor time of all its processes, by the kernel's account."""
    gpu_seconds: float | None = None
    """Time that its busiest GPU was at work, by the driver's account."""
    host_memory_gb: float | None = None
    """The most memory of the machine, not of a GPU, that its processes had together, as it was looked at."""


class Executor(Protocol):
    """Runs jobs that go on without the session."""

    def submit(self, job: JobSpec) -> int | None:
        """Start the job unless its folder says that it was started; returns a pid, if there is one.

        `job.json` is written into the folder before anything is started: a job with one is never submitted again, and
        one that then never began is told by `poll` to be lost.
        Raises PreconditionError when it cannot be started at all (a missing command); nothing is left behind then.
        """

    def poll(self, folder: Path) -> Exit | None:
        """How the job in `folder` ended, or None while it runs. A job whose keeper is gone has ended as 'lost'."""

    def kill(self, folder: Path) -> None:
        """End the job's whole process tree; `poll` then says 'killed'."""


def missing_isolation(executor: Executor) -> str | None:
    """None when an executor can isolate trainings, else why not; those that say nothing cannot."""
    asked = getattr(executor, "missing_isolation", None)
    missing: str | None = asked() if asked is not None else "the executor cannot isolate trainings"
    return missing


def require_isolation(executor: Executor, then: str = "autoexp resume") -> None:
    """Raise PreconditionError when an executor cannot isolate trainings, and they are to be (`train.isolation`).

    `then` is what goes on when that is mended.
    """
    if (missing := missing_isolation(executor)) is not None:
        hint = f'apt-get install bubblewrap (or set isolation = "off" under [train]), then: {then}'
        raise PreconditionError(f'{missing}, and train.isolation is "required"', hint)


def isolates_by(executor: Executor) -> str:
    """What an executor isolates trainings by, with its version; one that can may say so by `isolates_by()`."""
    asked = getattr(executor, "isolates_by", None)
    return str(asked()) if asked is not None else "the executor"


@dataclass(frozen=True)
class Ask:
    """One call of an agent."""

    prompt: str
    """What is asked, in words."""
    cwd: Path
    """The folder it works in: the iteration's worktree, as the change finds it."""
    transcript: Path
    """Everything sent and received is kept in a new numbered folder under this one."""
    may_edit: bool
    """Whether it is to edit the files in `cwd`. If not, it should be kept from it; what it did is looked at anyway."""
    timeout_seconds: float
    """Wall time; its whole process group ends with it."""
    brief: Mapping[str, Any] = field(default_factory=dict)
    """What the prompt was made of, for agents that take JSON."""
    conversation: str | None = None
    """The one to go on with, as an earlier answer of the same agent named it. When it is gone, a new one is begun."""
    anew: str = ""
    """What to ask instead of `prompt` in a new one, when that is gone: `prompt` may leave out what was said in it."""
    task: Literal["propose", "apply", "triage"] = "propose"
    """Which of the three questions this is."""
    env: tuple[str, ...] = ()
    """Names of environment variables, or `PREFIX_*`, that the user lets agents have beside those that each needs."""
    stop: Callable[[], bool] = field(default=lambda: False)
    """Whether the session was asked to stop at once; a long call looks now and then."""


@dataclass(frozen=True)
class Usage:
    """What a call took, as the agent reports it. None is unknown, which is not 0."""

    input_tokens: int | None = None
    """All that the model read, from a cache or not."""
    output_tokens: int | None = None
    """All that it wrote, its reasoning included."""
    cost_usd: float | None = None
    """What it cost, in US dollars."""


@dataclass(frozen=True)
class Answer:
    """What came of a call."""

    text: str
    """What the agent said, the last thing last."""
    conversation: str | None = None
    """Its name for the conversation, if it can go on with one."""
    usage: Usage = Usage()
    """What the call took."""
    problem: str = ""
    """Why the text is no answer: a refusal, an error of the model's server; '' when it is one."""
    busy: bool = False
    """The problem is a rate limit or an outage: worth waiting for."""
    retry_after_seconds: float | None = None
    """How long the server asked to wait."""
    transcript: Path | None = None
    """The folder of this call."""


class Agent(Protocol):
    """A program that answers in words, and edits files when asked to.

    One that cannot edit files says so by an attribute `edits_files = False`. To apply a proposal it then gets the
    editable files in the prompt and answers with exact `edits`, which are made for it. One that knows what mends it
    when it is not available says so by an attribute `mend`: a command, or what to set.
    """

    def available(self) -> str | None:
        """None when it can be called, else what is missing, for the user."""

    def ask(self, question: Ask) -> Answer:
        """Call it once. A failure of the agent, of its server or of its time is a `problem` of the answer.

        Raises AgentError when not even that can be told, PreconditionError when it is not there, Interrupted when
        `question.stop` said so. Whatever it started has ended when this returns or raises.
        """


def mended(agent: Agent, instead: str) -> str:
    """A hint for an agent that is not available: what mends it, or the command `instead`."""
    return f"{getattr(agent, 'mend', '') or 'install it'}, or: {instead}"


def edits_files(agent: Agent) -> bool:
    """Whether an agent edits the files itself; those that say nothing do."""
    return bool(getattr(agent, "edits_files", True))


@dataclass(frozen=True)
class Case:
    """All that a decision may hang on."""

    trial: Trial
    """The candidate's; its metric is the mean of its measurements."""
    best: Best | None
    """None for the first number there is."""
    trials: Sequence[Trial]
    """The decided ones, in order."""
    metric: Metric
    """What is optimised."""
    candidate: Sequence[Measurement]
    """All finished trainings of the candidate's program."""
    incumbent: Sequence[Measurement]
    """Those of the best."""
    noise: Noise
    """What all repeats of the run, and of earlier ones like it, tell of the noise."""
    may_look: bool = True
    """Whether another training may be asked for. An answer that asks although not counts as inconclusive."""
    lines: int = 0
    """Lines that the change adds to the program, less those that it deletes."""
    memory_gb: float = 0.0
    """Peak memory of the candidate's trainings; 0 where it is not known."""

    @property
    def best_trial(self) -> Trial | None:
        """The trial that became the best."""
        return next((t for t in self.trials if self.best is not None and t.iteration == self.best.iteration), None)


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a case: a decision, or whom to train again before there can be one."""

    decision: Decision
    """When `look` is set, the decision if there can be no further training."""
    why: str
    """In words and numbers."""
    look: Literal["candidate", "incumbent"] | None = None
    """Whom to train again first; None: the decision stands."""
    evidence: Evidence | None = None
    """The numbers, for the record and for later decisions."""


class Rule(Protocol):
    """Decides whether a recorded trial becomes the best.

    One that can ask for more trainings has a method `judge` (see `Judge`), and that is called instead.
    """

    def decide(self, trial: Trial, best: Best | None, trials: Sequence[Trial], metric: Metric) -> tuple[Decision, str]:
        """The decision and its reason in words and numbers. Only called for a trial with a metric."""


class Judge(Rule, Protocol):
    """A rule that looks at all measurements, and may ask for more. Equal cases must have equal answers."""

    def judge(self, case: Case) -> Verdict:
        """Keep, discard or inconclusive, or another training of the candidate or of the best first."""


class Foreseer(Judge, Protocol):
    """A judge that looks at trainings under way, too."""

    def foresee(self, case: Case, seed: int, curve: Sequence[tuple[float, float]]) -> Verdict | None:
        """A verdict when the candidate's first training, with this (progress, loss) curve so far, is hopeless: it is
        then ended. None to let it go on. `case.trial` has no metric yet.
        """


class Tracker(Protocol):
    """Looks on. What it raises is logged and never stops a run."""

    def track(self, event: Event, state: RunState) -> None:
        """Called after each event is in the journal."""
