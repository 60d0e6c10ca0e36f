"""A plugin of autoexp to start from: the proposer `halve`, and a wrapper that logs each training into the run's folder.

The entry point in pyproject.toml (group `autoexp`) is all that makes it known. Settings: [proposers.halve] constant.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from autoexp import hookimpl
from autoexp.runs.events import Event
from autoexp.runs.records import Proposal, SetConstant
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.workspace.candidate import described


class Halve:
    """Halves a constant of the best program, again and again."""

    def __init__(self, constant: str = "LR") -> None:
        self.constant = constant

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        """Half of what the constant is at `state.tip`; half of that for each that did not help; None without it."""
        files = context.settings.files
        constants = described(context.repository, state.tip, files.editable, files.frozen)[1]
        value = constants.get(self.constant)
        if isinstance(value, bool | str | None):
            return None
        failed = sum(1 for trial in state.trials if trial.base == state.tip != trial.commit)
        half = value / 2 ** (failed + 1)
        return Proposal(
            status="ok",
            description=f"halve {self.constant} to {half:g}",
            change_plan=f"{self.constant} = {half:g}: what is too large should shrink",
            commit_description=f"{self.constant} {value:g} -> {half:g}",
            edits=(SetConstant(name=self.constant, value=half),),
        )


@hookimpl
def autoexp_register_proposers(register: Callable[[str, Any], None], options: dict[str, dict[str, Any]]) -> None:
    register("halve", Halve(**options.get("halve", {})))


@hookimpl(wrapper=True)
def autoexp_train(state: RunState, context: Context) -> Generator[None, Event | None, Event | None]:
    """Around the stage, whoever implements it: one line for each event that it brings about."""
    event = yield
    if event is not None:
        with (context.paths.folder / "demo.log").open("a") as log:
            log.write(f"{event.type} {context.iteration}-{context.attempt}\n")
    return event
