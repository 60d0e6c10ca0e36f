"""What can be plugged in, by kind. Each is a small protocol; register an instance under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

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


class Agent(Protocol):
    """A program that answers in words, and edits files when asked to."""

    def available(self) -> str | None:
        """None when it can be called, else what is missing, for the user."""

    def ask(self, prompt: str, cwd: Path, transcript: Path, stop: Callable[[], bool]) -> str:
        """The agent's text after one call in `cwd`. Everything sent and received is kept under `transcript`.

        Raises AgentError when it fails or runs out of time, PreconditionError when it is not there.
        """


class Rule(Protocol):
    """Decides whether a recorded trial becomes the best."""

    def decide(self, trial: Trial, best: Best | None, trials: Sequence[Trial], metric: Metric) -> tuple[Decision, str]:
        """The decision and its reason in words and numbers. Only called for a trial with a metric."""


class Tracker(Protocol):
    """Looks on. What it raises is logged and never stops a run."""

    def track(self, event: Event, state: RunState) -> None:
        """Called after each event is in the journal."""
