"""RunState: what is known of a run, and what can be asked of it. What changes it is in `state.py`."""

from __future__ import annotations

from autoexp.runs import events as ev
from autoexp.runs.checks import Check
from autoexp.runs.measuring import measured, repeats
from autoexp.runs.records import (
    AgentRecord,
    Best,
    Guidance,
    Idea,
    Lesson,
    Measurement,
    Metric,
    Noise,
    Outcome,
    Plan,
    Proposal,
    Question,
    Record,
    Spent,
    Taken,
    Trial,
)

BASELINE = ("baseline", "train", "triage", "record", "decide")
"""The stages of iteration 0."""
LOOP = ("propose", "apply", "commit", "train", "triage", "record", "decide")
"""The stages of every other iteration."""
TOP = ("setup", "baseline", "loop")
"""What `--only` selects."""


class Iteration(Record):
    """An iteration under way. `stage` is what comes next; `attempt` counts from 1."""

    number: int
    stage: str
    attempt: int = 1
    slot: int = 0
    """Its worktree and device, its own while it is open."""
    base: str = ""
    proposal: Proposal | None = None
    proposer: str = ""
    applied: ev.Applied | None = None
    commit: str = ""
    ref: str = ""
    job: ev.TrainingStarted | None = None
    outcome: Outcome | None = None
    failures: tuple[Outcome, ...] = ()
    """Outcomes of the earlier attempts."""
    triage: ev.Triaged | None = None
    reevaluate: str | None = None
    """Checkpoint that this attempt evaluates instead of training."""
    trial: Trial | None = None
    again: ev.LookAgain | None = None
    """What this attempt trains once more; None: the candidate for the first time."""
    repeated: tuple[tuple[str, str], ...] = ()
    """(description, why not) of changes that came to a program that was trained before; another was asked for."""

    @property
    def stages(self) -> tuple[str, ...]:
        return BASELINE if self.number == 0 else LOOP


class RunState(Record):
    """The whole truth about a run, as far as its journal goes."""

    format: int = ev.FORMAT
    run_id: str
    branch: str
    base: str
    seed: int
    metric: Metric
    created_at: float
    updated_at: float
    plan: Plan = Plan()
    setup_done: bool = False
    baseline_closed: bool = False
    """Decided, or skipped because it was not selected."""
    open: dict[int, Iteration] = {}
    trials: tuple[Trial, ...] = ()
    """Decided trials in iteration order, the baseline first."""
    next_number: int = 1
    """The number that the next loop iteration will get."""
    best: Best | None = None
    measurements: tuple[Measurement, ...] = ()
    """All finished trainings that have a number, in the order in which they ended."""
    carried: Noise | None = None
    """What earlier runs measured of the noise; None before it was looked for."""
    baseline_taken: Taken | None = None
    """What the trainings of the baseline took, the most of each."""
    baseline_evaluation: Taken | None = None
    """Likewise their evaluations, where a judge made them."""
    isolated: bool | None = None
    """Whether the last training was isolated, None before any."""
    why_not_isolated: str | None = None
    earlier_seconds: float = 0.0
    """What the sessions before the present one worked; of a closed one, it too."""
    trainings: int = 0
    """That were started, re-evaluations not counted."""
    since_keep: int = 0
    """Iterations decided in a row of which none was kept."""
    spent: Spent = Spent()
    agents: dict[str, AgentRecord] = {}
    """By the name of each agent that was called."""
    asking: dict[int, ev.AgentAsked] = {}
    """The calls of agents that are under way, by iteration."""
    conversations: dict[int, tuple[str, str]] = {}
    """(agent, its name for the conversation) of the iterations under way and of the one that is being proposed."""
    guidance: tuple[Guidance, ...] = ()
    """All that a person ever said to keep in mind, by number."""
    questions: tuple[Question, ...] = ()
    """All that the person was ever asked, by number."""
    ideas: tuple[Idea, ...] = ()
    """The backlog, by number."""
    lessons: tuple[Lesson, ...] = ()
    """The last two hundred."""
    stopping: bool = False
    session: ev.SessionOpened | None = None
    closed: ev.SessionClosed | None = None
    """How the last session ended; None while one is open, or when it was killed."""
    broken: str = ""
    """What ended the session although nothing was wrong with the candidates; '' again once another opens."""
    requests: tuple[str, ...] = ()
    """Requests already taken in (the last hundred)."""
    notes: tuple[ev.Noted, ...] = ()
    """The last few."""
    checks: tuple[Check, ...] = ()
    """What was trained again to see whether it holds: audits, reproductions, ablations, the oldest first."""
    checking: bool = False
    """A person asked for a check: nothing else is done until they resume the run."""
    simplified: tuple[ev.BestSimplified, ...] = ()
    """Each time that a simpler best was taken."""

    @property
    def check(self) -> Check | None:
        """The check that is under way."""
        return next((check for check in self.checks if check.under_way), None)

    @property
    def completed(self) -> int:
        """Completed loop iterations, the baseline not counted."""
        return len(self.trials) - (1 if self.trials and self.trials[0].iteration == 0 else 0)

    @property
    def worked_seconds(self) -> float:
        """Wall time of the run's sessions, up to the last event: nothing but the journal's own times."""
        if self.session is None or self.closed is not None:
            return self.earlier_seconds
        return self.earlier_seconds + max(0.0, self.updated_at - self.session.at)

    @property
    def steering(self) -> tuple[Guidance, ...]:
        """The guidance in force."""
        return tuple(each for each in self.guidance if not each.withdrawn)

    @property
    def unanswered(self) -> tuple[Question, ...]:
        """The questions that wait for the person."""
        return tuple(each for each in self.questions if not each.answer)

    @property
    def backlog(self) -> tuple[Idea, ...]:
        """The ideas that nobody has tried yet."""
        return tuple(each for each in self.ideas if each.tried is None and not each.dropped)

    @property
    def free_slot(self) -> int:
        """The worktree and device that the next iteration will get."""
        taken = {iteration.slot for iteration in self.open.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def measured(self, source: str, commit: str) -> tuple[Measurement, ...]:
        """The measurements of a program."""
        return measured(self.measurements, source, commit)

    @property
    def noise(self) -> Noise:
        """How much the metric changes from seed to seed, by all repeats of this run and what was carried into it."""
        return repeats(self.measurements, self.carried)

    def trained(self, source: str) -> Trial | None:
        """The trial that has trained the program with this hash; None when none has."""
        return next((t for t in self.trials if t.source == source and t.status == "success"), None)

    def talk(self, iteration: int, agent: str) -> str | None:
        """The conversation that `agent` has had about an iteration; None when it would begin one."""
        name, conversation = self.conversations.get(iteration, ("", ""))
        return conversation if name == agent else None

    @property
    def tip(self) -> str:
        """The commit that the next proposal starts from."""
        return self.best.commit if self.best else self.base


def same_words(one: str, other: str) -> bool:
    """Whether two texts say the same, but for case, spaces and the last full stop."""
    return " ".join(one.casefold().split()).rstrip(".") == " ".join(other.casefold().split()).rstrip(".")


def slot_of(state: RunState, iteration: int) -> int:
    """The worktree and device of an iteration that is proposed: its own when it is open already."""
    return state.open[iteration].slot if iteration in state.open else state.free_slot
