"""The events of a journal: a closed set, one typed line each. What is not here did not happen."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from autoexp.runs.checked import Checked, CheckKind, Verdict
from autoexp.runs.records import Constant, Decision, Evidence, Metric, Noise, Outcome, Plan, Proposal, Record, Trial

FORMAT = 2
"""Version of the journal's format, in its first line. A reader refuses a newer one and reads every older one."""


class _Event(Record):
    at: float = Field(default_factory=lambda: round(time.time(), 3))
    """Seconds since the epoch. Nothing is decided by it but whether the hours of a budget are used up."""


class RunCreated(_Event):
    """The first line: what the run is and what it was made from."""

    type: Literal["run_created"] = "run_created"
    format: int = FORMAT
    run_id: str
    branch: str
    base: str
    seed: int
    metric: Metric
    settings: dict[str, Any] = {}
    plugins: dict[str, str] = {}
    """Name to version of the plugins that decide this run."""


class PlanMade(_Event):
    """Somebody asked for work. `request` names the file the request came in, so that it counts once."""

    type: Literal["plan_made"] = "plan_made"
    plan: Plan
    request: str | None = None


class StopRequested(_Event):
    """No new iteration is opened; those under way are finished."""

    type: Literal["stop_requested"] = "stop_requested"
    request: str | None = None


class SessionOpened(_Event):
    type: Literal["session_opened"] = "session_opened"
    pid: int
    host: str
    plugins: dict[str, str] = {}
    judged: dict[str, Any] = {}
    """The settings that trials must share for their numbers to compare."""
    journal_sha256: str = ""
    """Of all lines before this one, as they were then: `autoexp verify` sees whether one was changed since."""


class SessionClosed(_Event):
    """Why a session ended: done, stopped, interrupted, or an error with its hint."""

    type: Literal["session_closed"] = "session_closed"
    reason: str
    detail: str = ""
    hint: str = ""
    exit_code: int = 0
    journal_sha256: str = ""
    """Of all lines before this one."""


class SetupDone(_Event):
    type: Literal["setup_done"] = "setup_done"
    details: dict[str, str] = {}


class StageSkipped(_Event):
    type: Literal["stage_skipped"] = "stage_skipped"
    iteration: int
    stage: str


class BaselineOpened(_Event):
    """Iteration 0: the unchanged program."""

    type: Literal["baseline_opened"] = "baseline_opened"
    commit: str
    ref: str
    source: str
    constants: dict[str, Constant] = {}


class ProbeOpened(_Event):
    """Failures alike, in a row: an iteration that trains the best so far once more, to see whether it still trains."""

    type: Literal["probe_opened"] = "probe_opened"
    iteration: int
    """Its number; it is none of those that were asked for."""
    commit: str
    """What is trained: the best so far."""
    why: str
    """What failed, and how."""


class Excused(_Event):
    """Trials that failed through no fault of their own: what they tried counts as not tried. The run then stops."""

    type: Literal["excused"] = "excused"
    iterations: tuple[int, ...]
    """Which, the probe among them if there was one."""
    why: str
    """What is broken."""


class Proposed(_Event):
    type: Literal["proposed"] = "proposed"
    iteration: int
    base: str
    proposal: Proposal
    proposer: str
    """Who: a proposer's name, or proposal_file, next_proposal, queue."""


class Applied(_Event):
    """The edits are made, checked against what is editable, and stored as a git tree."""

    type: Literal["applied"] = "applied"
    iteration: int
    attempt: int
    status: Literal["applied", "failed", "empty", "refused", "repeated"]
    summary: str = ""
    by: Literal["edits", "agent", "nobody"] = "edits"
    tree: str = ""
    source: str = ""
    changed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    constants: dict[str, Constant] = {}
    again: bool = False
    """The program was trained before, and who proposed it is asked for another change, in the same iteration."""


class Committed(_Event):
    type: Literal["committed"] = "committed"
    iteration: int
    attempt: int
    commit: str
    ref: str


class TrainingStarted(_Event):
    type: Literal["training_started"] = "training_started"
    iteration: int
    attempt: int
    folder: str
    """The job's folder, relative to the run's."""
    pid: int | None = None
    slot: int = 0
    judged: bool = False
    """Whether the harness's judge evaluates it. The trainer's own word for the metric then counts nothing."""
    why_not_judged: str = ""
    """Why the trainer evaluates it itself, in words; '' in the journals of older releases."""
    isolated: bool = False
    """Whether it sees only what it needs. By what, its outcome says."""
    why_not_isolated: str = ""
    """Why it is not, in words; '' in the journals of older releases."""


class TrainingEnded(_Event):
    type: Literal["training_ended"] = "training_ended"
    iteration: int
    attempt: int
    outcome: Outcome


class Triaged(_Event):
    """What to do with the outcome: go on with it, or open attempt n+1 at `apply` (fix) or at `train`."""

    type: Literal["triaged"] = "triaged"
    iteration: int
    attempt: int
    action: Literal["proceed", "fix_and_rerun", "rerun", "reevaluate", "give_up"]
    reason: str = ""


class Recorded(_Event):
    type: Literal["recorded"] = "recorded"
    trial: Trial


class Decided(_Event):
    type: Literal["decided"] = "decided"
    iteration: int
    decision: Decision
    why: str
    evidence: Evidence | None = None
    """What it was decided by, in numbers; null where the rule gives none."""


class LookAgain(_Event):
    """The rule wants another training before it decides: the iteration goes back to `train`, as another attempt."""

    type: Literal["look_again"] = "look_again"
    iteration: int
    of: Literal["candidate", "incumbent"]
    """What is trained again: the candidate, or the best that it is compared with."""
    commit: str
    """Its commit."""
    source: str = ""
    """Hash of its program."""
    seed: int
    """The seed of the training."""
    why: str
    """In words and numbers."""


class NoiseCarried(_Event):
    """What earlier runs of the workspace, with the same harness, data and device, measured of the noise."""

    type: Literal["noise_carried"] = "noise_carried"
    noise: Noise
    """All of theirs together."""
    runs: tuple[str, ...] = ()
    """Their names."""


class AgentAsked(_Event):
    """A call of an agent begins. What came of it is `agent_called`; a killed session leaves it without an end."""

    type: Literal["agent_asked"] = "agent_asked"
    iteration: int
    attempt: int
    stage: Literal["propose", "apply", "triage"]
    """What it is asked for."""
    agent: str
    """Its registered name."""
    number: int
    """Which try it is, counted from 1; a call that is repeated after an outage is the same try."""
    tries: int
    """How many there are at most."""
    timeout_seconds: float
    """Wall time after which the call is ended."""


class AgentCalled(_Event):
    """One call of an agent, good or bad: what it took, and where all that was said is kept."""

    type: Literal["agent_called"] = "agent_called"
    iteration: int
    attempt: int
    stage: Literal["propose", "apply", "triage"]
    """What it was asked for."""
    agent: str
    """Its registered name."""
    seconds: float
    """Wall time of the call."""
    transcript: str = ""
    """Folder of the call, relative to the run's."""
    conversation: str | None = None
    """What the agent goes on with in later calls of this iteration."""
    input_tokens: int | None = None
    """As the agent reports it; null is unknown."""
    output_tokens: int | None = None
    """Likewise."""
    cost_usd: FiniteFloat | None = None
    """Likewise, in US dollars."""
    problem: str = ""
    """Why it gave no usable answer; '' when it did."""
    busy: bool = False
    """The problem was a rate limit or an outage."""
    stopped: bool = False
    """The session was stopped meanwhile, and the call with it: what it took is unknown, and nothing is its fault."""


class GuidanceGiven(_Event):
    """A person said what to keep in mind (`autoexp steer`)."""

    type: Literal["guidance_given"] = "guidance_given"
    text: str
    """Their words; they are in every brief from now on."""
    request: str | None = None
    """The request's file."""


class GuidanceWithdrawn(_Event):
    """A person took guidance back."""

    type: Literal["guidance_withdrawn"] = "guidance_withdrawn"
    number: int
    """Which, counted from 1."""
    request: str | None = None
    """The request's file."""


class QuestionAsked(_Event):
    """A proposer wants to know something from the person (`need_input`). Nothing waits for the answer."""

    type: Literal["question_asked"] = "question_asked"
    iteration: int
    by: str
    """The proposer."""
    text: str
    """The question."""


class QuestionAnswered(_Event):
    """The person's answer; it is in every brief from now on."""

    type: Literal["question_answered"] = "question_answered"
    number: int
    """Which question, counted from 1."""
    answer: str
    """Their words."""
    request: str | None = None
    """The request's file."""


class IdeaHad(_Event):
    """An idea for the backlog: had, and not proposed."""

    type: Literal["idea_had"] = "idea_had"
    iteration: int
    by: str
    """The proposer."""
    text: str
    """The idea."""


class IdeaTried(_Event):
    """An iteration takes up an idea of the backlog."""

    type: Literal["idea_tried"] = "idea_tried"
    iteration: int
    number: int
    """Which idea, counted from 1."""


class IdeaDropped(_Event):
    """A person took an idea out of the backlog."""

    type: Literal["idea_dropped"] = "idea_dropped"
    number: int
    """Which idea, counted from 1."""
    request: str | None = None
    """The request's file."""


class LessonLearned(_Event):
    """What a proposer says it learned from the trials."""

    type: Literal["lesson_learned"] = "lesson_learned"
    iteration: int
    by: str
    """The proposer."""
    text: str
    """The lesson."""


class Noted(_Event):
    """A thing worth telling that changes nothing: a refused override, a branch that could not be moved."""

    type: Literal["noted"] = "noted"
    text: str
    iteration: int | None = None
    key: str | None = None
    """Notes with the same key are written once."""


class CheckOpened(_Event):
    """A check was asked for, or is due at the end of a run: programs are trained again, and no decision hangs on it.

    With the key of one that is under way it is gone on with.
    """

    type: Literal["check_opened"] = "check_opened"
    key: str
    """Its kind, and a number: audit-1."""
    kind: CheckKind
    """What it asks."""
    programs: tuple[Checked, ...]
    """What is trained."""
    seeds: tuple[int, ...]
    """Each program is trained with each of them."""
    auto: bool = False
    """At the end of a run, by itself; a person who asks for one wants nothing else done meanwhile."""
    early: bool = False
    """Over as soon as the first training comes to exactly what was recorded."""
    keep: bool = False
    """A simpler best becomes the run's best even if the rule does not say so."""
    notes: tuple[str, ...] = ()
    """What it cannot look at: changes that cannot be taken out alone."""
    request: str | None = None
    """The request's file."""


class CheckGrown(_Event):
    """What a check has found so far asks for one more program: a best without all the changes that carry nothing."""

    type: Literal["check_grown"] = "check_grown"
    key: str
    """The check."""
    program: Checked
    """What is trained too, with the same seeds."""


class CheckStarted(_Event):
    """A training of a check began."""

    type: Literal["check_started"] = "check_started"
    key: str
    """The check."""
    place: int
    """Which of its trainings, counted from 0."""
    job: TrainingStarted
    """As of an iteration's training; its number is negative, for it is of none."""


class CheckEnded(_Event):
    """A training of a check ended."""

    type: Literal["check_ended"] = "check_ended"
    key: str
    """The check."""
    place: int
    """Which of its trainings, counted from 0."""
    outcome: Outcome
    """How."""
    action: Literal["proceed", "rerun", "reevaluate"] = "proceed"
    """What triage makes of it: it counts as it is, or is done again."""


class CheckClosed(_Event):
    """What a check found."""

    type: Literal["check_closed"] = "check_closed"
    key: str
    """The check."""
    verdict: Verdict
    """What it found."""


class BestSimplified(_Event):
    """The best without changes that carry nothing is the run's best from now on."""

    type: Literal["best_simplified"] = "best_simplified"
    key: str
    """The check that found it."""
    commit: str
    """The simpler program."""
    of: str
    """The best before."""
    removed: tuple[int, ...]
    """The iterations whose changes are not in it."""
    metric: float
    """The mean over its trainings in the check."""
    why: str
    """Why it is kept: the rule's reason, or that a person asked for it."""


Event = (
    RunCreated
    | PlanMade
    | StopRequested
    | SessionOpened
    | SessionClosed
    | SetupDone
    | StageSkipped
    | BaselineOpened
    | ProbeOpened
    | Excused
    | Proposed
    | Applied
    | Committed
    | TrainingStarted
    | TrainingEnded
    | Triaged
    | Recorded
    | Decided
    | LookAgain
    | NoiseCarried
    | AgentAsked
    | AgentCalled
    | GuidanceGiven
    | GuidanceWithdrawn
    | QuestionAsked
    | QuestionAnswered
    | IdeaHad
    | IdeaTried
    | IdeaDropped
    | LessonLearned
    | Noted
    | CheckOpened
    | CheckGrown
    | CheckStarted
    | CheckEnded
    | CheckClosed
    | BestSimplified
)
ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
