"""What a stage may touch: the ports, the paths, the settings. Built by the session, once for each call of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from autoexp.errors import UsageError

if TYPE_CHECKING:
    from autoexp.runs.events import AgentAsked, AgentCalled, IdeaHad, IdeaTried, LessonLearned, QuestionAsked
    from autoexp.runs.records import Plan
    from autoexp.spec.ports import Agent, Executor, Proposer, Rule
    from autoexp.workspace.paths import RunPaths, Workspace
    from autoexp.workspace.repository import Repository
    from autoexp.workspace.settings import Settings

    Remembered = QuestionAsked | IdeaHad | IdeaTried | LessonLearned

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """The surroundings of one stage call. `iteration` and `attempt` say which."""

    iteration: int
    attempt: int
    plan: Plan
    settings: Settings
    workspace: Workspace
    paths: RunPaths
    repository: Repository
    proposers: Mapping[str, Proposer]
    executors: Mapping[str, Executor]
    rules: Mapping[str, Rule]
    agents: Mapping[str, Agent]
    log: Callable[[str], None]
    """A line for people, in runner.log and on the terminal."""
    note: Callable[[str, str], None]
    """(text, key): a remark for the journal, once for each key."""
    called: Callable[[AgentCalled], None] = field(default=lambda event: None)
    """Puts a call of an agent into the journal, at once: what it took counts also when the stage is cut off."""
    asked: Callable[[AgentAsked], None] = field(default=lambda event: None)
    """Puts the beginning of such a call into the journal, for those who look on."""
    remember: Callable[[Remembered], None] = field(default=lambda event: None)
    """Puts a question, an idea or a lesson into the journal, at once; one that is in there already, only once."""
    stop: Callable[[], bool] = field(default=lambda: False)
    """Whether the session was asked to stop at once; long calls look now and then."""

    def executor(self) -> Executor:
        return pick(self.executors, self.plan.executor, "executor")

    def rule(self) -> Rule:
        return pick(self.rules, self.plan.rule, "decision rule")

    def agent(self, proposer: str = "") -> str | None:
        """Name of the agent that may be asked about a proposal of `proposer`; None: --no-stochastic, or none is there.

        Who had the idea carries it out; for the ideas of others, the run's proposer if that is an agent, else
        `agent.name`.
        """
        if not self.plan.stochastic:
            return None
        for name in (proposer, *self.plan.proposers, self.settings.agent.name):
            if name in self.agents and self.agents[name].available() is None:
                return name
        pick(self.agents, self.settings.agent.name, "agent")  # a misspelt name is told, not passed over
        return None


def pick(registry: Mapping[str, T], name: str, kind: str) -> T:
    """The part registered under `name`. Raises UsageError that lists the names there are."""
    if name not in registry:
        raise UsageError(f"there is no {kind} {name!r} (there are: {', '.join(sorted(registry))})", "autoexp plugins")
    return registry[name]
