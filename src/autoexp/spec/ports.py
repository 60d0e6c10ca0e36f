"""What can be plugged in, by kind. Each is a small protocol; register an instance under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from autoexp.runs.events import Event
    from autoexp.runs.records import Best, Decision, Metric, Proposal, Trial
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context


class Proposer(Protocol):
    """Has ideas."""

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        """One change to the program at `state.tip`, or None when there is nothing left to propose.

        Called again with the same iteration after a crash: equal arguments should give an equal answer.
        """


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


@dataclass(frozen=True)
class Exit:
    """How a job's process ended."""

    status: Literal["exited", "timeout", "killed", "lost", "not_started"]
    code: int | None
    """Exit code; negative for a signal, as in subprocess."""
    wall_seconds: float
    reason: str = ""


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


class Rule(Protocol):
    """Decides whether a recorded trial becomes the best."""

    def decide(self, trial: Trial, best: Best | None, trials: Sequence[Trial], metric: Metric) -> tuple[Decision, str]:
        """The decision and its reason in words and numbers. Only called for a trial with a metric."""


class Tracker(Protocol):
    """Looks on. What it raises is logged and never stops a run."""

    def track(self, event: Event, state: RunState) -> None:
        """Called after each event is in the journal."""
