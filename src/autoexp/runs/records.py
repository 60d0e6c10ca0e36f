"""The nouns of a run. All are frozen pydantic models: a fact, once written, is not edited."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, PositiveInt

Decision = Literal["keep", "discard", "crash", "inconclusive"]
Direction = Literal["min", "max"]


class Record(BaseModel):
    """A frozen fact. Unknown keys are refused, so that a misspelt one is never silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _text(text: str) -> str:
    """Refuse text that no UTF-8 file could hold: what is once in the journal must be readable for ever."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode (found a lone surrogate)") from error
    return text


Text = Annotated[str, AfterValidator(_text)]
Constant = bool | int | FiniteFloat | Text
"""The value of an ALL_CAPS literal of an editable file."""


def _words(text: str) -> str:
    """Refuse text that no commit message, table or terminal could carry."""
    if not text.strip():
        raise ValueError("must not be blank")
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    return _text(text)


Words = Annotated[str, AfterValidator(_words)]


class SetConstant(Record):
    """Give an ALL_CAPS constant of an editable file another value; the rest of its line stays."""

    op: Literal["set"] = "set"
    name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="The constant, for example MATRIX_LR.")]
    value: Annotated[Constant, Field(description="Its new value, a literal.")]
    path: Annotated[str | None, Field(description="The file; left out, the first editable file that has it.")] = None


class Replace(Record):
    """Replace `old`, which must occur exactly once in the file, by `new`."""

    op: Literal["replace"]
    path: Words
    old: Annotated[Text, Field(min_length=1)]
    new: Text


class Patch(Record):
    """A unified diff, as `git diff` prints it."""

    op: Literal["patch"]
    diff: Words


Edit = Annotated[SetConstant | Replace | Patch, Field(discriminator="op")]


class Proposal(Record):
    """One change to try: what, why, and optionally the exact edits. Without edits an agent applies the plan."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        title="autoexp proposal",
        json_schema_extra={"$schema": "https://json-schema.org/draft/2020-12/schema"},
    )

    status: Annotated[
        Literal["ok", "need_input"],
        Field(description="'ok': can be tried. 'need_input': a question to the person, asked in `description`."),
    ]
    description: Annotated[Words, Field(description="The change in plain words, for the table of trials.")]
    change_plan: Annotated[Words, Field(description="Which edits to make, and why they should help.")]
    commit_description: Annotated[Words, Field(description="Message of the candidate's commit.")]
    edits: Annotated[tuple[Edit, ...], Field(description="Exact edits; they are applied without an agent.")] = ()


class Metric(Record):
    """What is optimised. `name` is looked up in the report, or in the printed `name: value` summary."""

    name: str = "val_bpb"
    direction: Direction = "min"

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`."""
        return a < b if self.direction == "min" else a > b


class Evidence(Record):
    """What a decision was made by, in numbers. Differences are turned so that less than 0 is better."""

    difference: float
    """Mean of the candidate's measurements less the estimate of the best."""
    error: float
    """Standard error of that."""
    candidate: int
    """Measurements of the candidate."""
    best: int
    """Measurements of the best."""
    better: float | None = None
    """Probability that the candidate is better."""
    noise: float | None = None
    """Standard deviation of one training that was reckoned with."""
    estimate: float | None = None
    """The best's metric as it is believed to be."""
    estimate_error: float | None = None
    """Standard error of that."""
    lead: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    """(progress, training loss less that of the best with the same seed) along the candidate's first training."""


class Taken(Record):
    """What a training took, measured from outside."""

    wall_seconds: float = 0.0
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None

    def at_least(self, other: Taken) -> Taken:
        """The larger one of each."""
        mine, others = self.model_dump(), other.model_dump()
        return Taken(
            **{name: max((v for v in (mine[name], others[name]) if v is not None), default=None) for name in mine}
        )


class Outcome(Record):
    """How a training ended, as its keeper and its report say. `metric` is set for a success, and only then."""

    status: Literal["success", "crash", "timeout", "killed", "lost", "untrained", "stopped"]
    """`stopped`: ended early, since the decision rule saw no hope."""
    reason: str = ""
    exit_code: int | None = None
    metric: FiniteFloat | None = None
    metrics: dict[str, float] = {}
    memory_gb: float = 0.0
    training_seconds: float | None = None
    wall_seconds: float | None = None
    checkpoint: str | None = None
    """Path of a checkpoint that was complete before the training failed; it can be evaluated again."""
    evaluated_by: Literal["", "trainer", "judge"] = ""
    """Who computed the metric: the harness's judge, in a process of its own, or the trainer itself. '' in journals from
    before this was told."""
    seal: str = ""
    """Of the judge's evaluation, as in evaluation.json: 64 hex digits; '' without one."""
    isolation: str = ""
    """What the training was confined by; '' when it could see and do what the user can."""
    over_budget: str = ""
    """Why it was longer than its budget, by what was measured from outside; it is then no success."""
    cpu_seconds: float | None = None
    """Processor time of all its processes, by the kernel's account."""
    gpu_seconds: float | None = None
    """Time that its busiest GPU was at work, by the driver's account."""
    host_memory_gb: float | None = None
    """The most memory of the machine that its processes had together; `memory_gb` is the device's, by its report."""
    evaluation_taken: Taken | None = None
    """What the judge and those it asked took, loading included; None without a judge."""
    checkpoint_mb: float | None = None
    """Size of its checkpoint in megabytes (2^20 bytes)."""
    seed: int | None = None
    """What the training was told to draw its random numbers from."""
    curve: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    """(progress from 0 to 1, training loss) along it, as far as its trainer tells."""
    machine: str = ""
    """Hash of what its numbers hang on beside the program and the seed: harness, data, device, settings."""
    evidence: Evidence | None = None
    """Of one that was stopped: the numbers that were foretold."""


class Measurement(Record):
    """One finished training of a program with one seed, judged."""

    iteration: int
    """Whose training it was; of a best that was looked at again, the iteration that asked."""
    attempt: int
    commit: str
    source: str
    """Hash of the program; '' where nobody made one, and the commit tells."""
    seed: int
    value: FiniteFloat
    """The metric."""
    curve: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    """Of the outcome."""
    machine: str = ""
    """Of the outcome."""

    @property
    def program(self) -> str:
        """What all measurements of one program share."""
        return self.source or self.commit


class Noise(Record):
    """How much the metric of one program changes from seed to seed, as far as repeats tell."""

    squares: float = 0.0
    """Squared deviations of repeats from the mean of their program, summed up."""
    freedom: int = 0
    """Degrees of freedom in them: repeats less programs."""

    @property
    def deviation(self) -> float | None:
        """Standard deviation of a training's metric; None before anything was repeated."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else None

    @property
    def uncertainty(self) -> float | None:
        """Standard error of that, in parts of it."""
        return 1.0 / math.sqrt(2.0 * self.freedom) if self.freedom else None


class Trial(Record):
    """An iteration that has run: a row of the table. The decision is added when it is made."""

    iteration: int
    description: str
    proposer: str
    base: str
    commit: str
    ref: str
    source: str
    """sha256 over the editable files: two trials with the same source are the same experiment."""
    constants: dict[str, Constant] = {}
    status: Literal["success", "crash", "timeout", "killed", "lost", "untrained", "stopped"]
    reason: str = ""
    metric: FiniteFloat | None = None
    memory_gb: float = 0.0
    seconds: float | None = None
    attempts: int = 1
    decision: Decision | None = None
    why: str = ""
    excused: bool = False
    """It failed through no fault of its own: what it tried counts as not tried."""
    evidence: Evidence | None = None
    """What it was decided by, in numbers; null where the rule gives none."""

    @property
    def verdict(self) -> str:
        """The decision in a word, for people: what was never trained is no crash."""
        if self.decision == "crash" and self.status == "untrained":
            return "untrained"
        return self.decision or "pending"


class Spent(Record):
    """What the agents of a run have taken, as they report it."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    uncounted: int = 0
    """Calls whose tokens nobody reported."""
    unpriced: int = 0
    """Calls whose cost nobody reported: the sum is then a lower bound."""


class AgentRecord(Record):
    """An agent of a run: what it took, and whether it answers."""

    spent: Spent = Spent()
    since: float | None = None
    """When the first of its calls failed that have failed in a row, up to the last one; None when that was good."""
    problem: str = ""
    """What was wrong with the last one."""
    busy: bool = False
    """That was a rate limit or an outage."""
    failures: int = 0
    """Failed calls in a row that were neither."""
    rests_until: int = 0
    """Not asked before this iteration; in an outage only people's proposals in words wait for it."""


class Guidance(Record):
    """What a person wants kept in mind, in every brief until it is withdrawn."""

    number: int
    """What `autoexp steer --withdraw` takes."""
    text: str
    """Their words."""
    withdrawn: bool = False
    """Whether it is in force no more."""


class Question(Record):
    """What a proposer wants to know from the person. The run goes on meanwhile."""

    number: int
    """What `autoexp answer` takes."""
    iteration: int
    """Where it came up."""
    by: str
    """Who asks: a proposer's name."""
    text: str
    """The question."""
    answer: str = ""
    """The person's; '' while it is open."""


class Idea(Record):
    """An idea that somebody had and did not propose then."""

    number: int
    """What `autoexp ideas --drop` takes."""
    iteration: int
    """Where it came up."""
    by: str
    """Who had it: a proposer's name."""
    text: str
    """The idea."""
    tried: int | None = None
    """The iteration that tried it; null while none has."""
    dropped: bool = False
    """Whether a person took it out."""


class Lesson(Record):
    """What a proposer says it learned from the trials."""

    iteration: int
    """Where it was learned."""
    by: str
    """Who says so: a proposer's name."""
    text: str
    """The lesson."""


class Best(Record):
    """The best trial so far: what the next proposal starts from and the run branch holds."""

    iteration: int
    commit: str
    metric: float


def _lifted(value: Any) -> Any:
    return None if value == "none" else value


def _lifted_by_zero(value: Any) -> Any:
    return None if value in ("none", "0", 0) and value is not False else value


Amount = Annotated[Annotated[FiniteFloat, Field(gt=0)] | None, BeforeValidator(_lifted_by_zero)]
"""A limit; 0 and "none" are none."""
Count = Annotated[PositiveInt | None, BeforeValidator(_lifted_by_zero)]
"""A limit in whole numbers; 0 and "none" are none."""
Goal = Annotated[FiniteFloat | None, BeforeValidator(_lifted)]
"""A value of the metric; "none" is none."""


class Budget(Record):
    """When a run opens no more iterations. What is under way is finished, and the baseline is measured all the same."""

    max_hours: Amount = None
    """Hours that the run's sessions work, added up over resumes. What a killed session did after the last thing that it
    wrote down is not counted, nor a training that goes on without a session."""
    max_trials: Count = None
    """Trainings of the whole run: the baseline, each iteration, each repair and rerun of one that was started. An
    evaluation that is done again and a candidate that was refused are none. Iterations under way may still be repaired
    past it."""
    max_cost: Amount = None
    """US dollars, as the agents report them. Calls of unknown cost count as nothing, and are told."""
    max_tokens: Count = None
    """Tokens that agents read and wrote, as they report them."""
    until: Goal = None
    """Enough: a best as good as this, in the metric's direction."""
    plateau: Count = None
    """Decided iterations in a row of which none was kept. A resume of a run that this has ended counts anew."""


class Plan(Record):
    """What a session is asked to do. `target` counts completed loop iterations over the whole run."""

    stages: tuple[str, ...] = ("setup", "baseline", "loop")
    loop: tuple[str, ...] = ("propose", "apply", "commit", "train", "triage", "record", "decide")
    target: int | None = 0
    """None: until the budget ends it."""
    workers: int = 1
    proposer: str = "search"
    executor: str = "local"
    rule: str = "confirm"
    stochastic: bool = True
    """Whether agents (large language models) may be asked at all; `--no-stochastic` says no."""
    auto_prepare: bool = True
    budget: Budget = Budget()
    audit_seeds: int = 0
    """Seeds of the audit at the end of the run; 0: there is none by itself."""
    audit_share: float = 0.2
    """Of the time that the run has worked, at most so much is for that audit."""

    @property
    def proposers(self) -> dict[str, float]:
        """Who proposes, each with its share."""
        return shares(self.proposer)


def shares(proposer: str) -> dict[str, float]:
    """The proposers of a mix as in `opencode=0.7,search=0.3`, each with its share; a single name has all of it.

    Raises ValueError for what is no such mix.
    """
    found: dict[str, float] = {}
    for part in proposer.split(","):
        name, equals, share = (word.strip() for word in part.partition("="))
        try:
            value = float(share) if equals else 1.0
        except ValueError:
            value = math.nan
        if not name or not 0.0 < value < math.inf:
            raise ValueError(f"{part.strip()!r} is no NAME=SHARE with a positive share")
        if name in found:
            raise ValueError(f"{name!r} is in it twice")
        found[name] = value
    return found


def chosen(shares: Mapping[str, float], seed: int, iteration: int) -> str:
    """Whose turn it is: by the shares, the same for the same seed and iteration."""
    return random.Random(f"{seed}-{iteration}").choices(list(shares), list(shares.values()))[0]
