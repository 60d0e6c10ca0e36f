"""The flags that `start` and `resume` share, each said once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

Background = Annotated[
    bool,
    typer.Option(
        "--background-train/--no-background-train",
        help="Work detached (default), or in this process until it is done.",
    ),
]


@dataclass(frozen=True)
class Flags:
    """What a person may say of a run's plan."""

    loops: Annotated[
        int | None, typer.Option("--loops", min=0, help="How many iterations to do, after the baseline.")
    ] = None
    only: Annotated[
        str | None, typer.Option("--only", help="Stages to do: setup,baseline,loop or stages of the loop.")
    ] = None
    loop_only: Annotated[
        str | None,
        typer.Option("--loop-only", help="Stages of the loop: propose,apply,commit,train,triage,record,decide."),
    ] = None
    from_stage: Annotated[str | None, typer.Option("--from-stage", help="First of setup, baseline, loop.")] = None
    to_stage: Annotated[str | None, typer.Option("--to-stage", help="Last of setup, baseline, loop.")] = None
    proposal_file: Annotated[Path | None, typer.Option("--proposal-file", help="The next proposal, in JSON.")] = None
    no_stochastic: Annotated[
        bool | None,
        typer.Option("--no-stochastic/--stochastic", help="Ask no agent: the fallback proposer has the ideas."),
    ] = None
    auto_prepare: Annotated[
        bool | None,
        typer.Option("--auto-prepare/--no-auto-prepare", help="Prepare missing data in setup (default: yes)."),
    ] = None
    background_train: Background = True
    proposer: Annotated[str | None, typer.Option("--proposer", help="Who has the ideas; see: autoexp plugins.")] = None
    executor: Annotated[str | None, typer.Option("--executor", help="Where trainings run.")] = None
    rule: Annotated[str | None, typer.Option("--rule", help="What decides.")] = None
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Trainings at the same time, one a device.")
    ] = None
    audit: Annotated[
        bool | None,
        typer.Option(
            "--audit/--no-audit", help="Audit the gain at the end, however short the run was; or do not ([audit] auto)."
        ),
    ] = None
    max_hours: Annotated[
        str | None, typer.Option("--max-hours", help="Open no iteration after so many hours of work.")
    ] = None
    max_trials: Annotated[
        str | None, typer.Option("--max-trials", help="... after so many trainings, of whatever kind.")
    ] = None
    max_cost: Annotated[
        str | None, typer.Option("--max-cost", help="... after so many US dollars, as agents report them.")
    ] = None
    max_tokens: Annotated[
        str | None, typer.Option("--max-tokens", help="... after so many tokens, as agents report them.")
    ] = None
    until: Annotated[str | None, typer.Option("--until", help="... once the best metric is as good as this.")] = None
    plateau: Annotated[
        str | None, typer.Option("--plateau", help="... after so many iterations in a row without a keep.")
    ] = None

    def changes(self) -> dict[str, Any]:
        """The fields of the plan that the flags set or lift, without its stages. Raises UsageError for a bad limit."""
        from autoexp.session.planning import limits

        stochastic = None if self.no_stochastic is None else not self.no_stochastic
        named = {"proposer": self.proposer, "executor": self.executor, "rule": self.rule, "workers": self.workers}
        named |= {"stochastic": stochastic, "auto_prepare": self.auto_prepare}
        found: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        amounts = {"max_hours": self.max_hours, "max_trials": self.max_trials, "max_cost": self.max_cost}
        budget = limits({**amounts, "max_tokens": self.max_tokens, "until": self.until, "plateau": self.plateau})
        return {**found, "budget": budget} if budget else found


def flagged(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is Flags, as Typer wants it: with all of their fields for parameters."""
    shared = inspect.signature(Flags, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    flat = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared.values())]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        flags = Flags(**{name: given.pop(name) for name in shared})
        command(flags, **given)

    called.__annotations__ = {each.name: each.annotation for each in flat}
    called.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return called
