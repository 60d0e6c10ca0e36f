"""steer, answer, ideas, brief: what a person says to the agents of a run, and what these are sent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from autoexp.cli.run import AsJson, RunId
from autoexp.spec.markers import hookimpl

if TYPE_CHECKING:
    from autoexp.session.memory import Said


@hookimpl
def autoexp_register_commands(app: typer.Typer) -> None:
    app.command()(steer)
    app.command()(answer)
    app.command()(ideas)
    app.command()(brief)


def steer(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to keep in mind from now on.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show what is in force.")] = False,
    number: Annotated[int | None, typer.Option("--withdraw", metavar="N", help="Take number N of --list back.")] = None,
    run_id: RunId = None,
    json: AsJson = False,
) -> None:
    """Tell a run's agents what to keep in mind. It is in every brief until it is withdrawn; nothing is stopped."""
    from autoexp.errors import UsageError
    from autoexp.session import memory
    from autoexp.workspace.paths import find_workspace

    if (text is not None) + show + (number is not None) > 1:
        raise UsageError("give words, --list or --withdraw, one of them", "autoexp steer --help")
    paths = find_workspace().existing(run_id)
    withdrawn = ""
    if text is not None:
        said = memory.steer(paths, text)
    elif number is not None:
        withdrawn = next((each.text for each in memory.heard(paths).guidance if each.number == number), "")
        said = memory.withdraw(paths, number)
    else:
        said = memory.heard(paths)
    _show_guidance(said, withdrawn, json)


def answer(
    number: Annotated[
        int | None, typer.Argument(metavar="N", help="Which question; left out, they are listed.")
    ] = None,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The answer.")] = None,
    run_id: RunId = None,
    json: AsJson = False,
) -> None:
    """Answer a question that an agent asked (need_input), or list the open ones. The answer is in every later brief."""
    from autoexp.errors import UsageError
    from autoexp.session import memory
    from autoexp.workspace.paths import find_workspace

    paths = find_workspace().existing(run_id)
    if number is None:
        said = memory.heard(paths)
    elif text is None:
        raise UsageError("the answer is missing", f'autoexp answer {number} "..."')
    else:
        said = memory.answer(paths, number, text)
    _show_questions(said, json)


def ideas(
    number: Annotated[int | None, typer.Option("--drop", metavar="N", help="Take idea N out of the backlog.")] = None,
    run_id: RunId = None,
    json: AsJson = False,
) -> None:
    """Show the ideas that agents had and did not try then. They are offered back when the trials get stuck."""
    from autoexp.cli import render
    from autoexp.session import memory
    from autoexp.session.snapshot import load
    from autoexp.workspace.paths import find_workspace

    paths = find_workspace().existing(run_id)
    found = [memory.drop(paths, number)] if number is not None else list(load(paths).ideas)
    if json:
        render.show_json([idea.model_dump(mode="json") for idea in found])
        return
    for idea in found:
        became = "dropped" if idea.dropped else f"tried in {idea.tried}" if idea.tried is not None else "waits"
        render.say(f"{idea.number:>3}  {became:11}  {render.clean(idea.text)}  ({idea.by}, iteration {idea.iteration})")
    if not found:
        render.say("no idea was kept")


def brief(run_id: RunId = None, json: AsJson = False) -> None:
    """Print exactly what the next call for an idea would send to an agent. How long it is, is told on stderr."""
    from autoexp.cli import render
    from autoexp.session.briefing import next_brief
    from autoexp.workspace.paths import find_workspace

    workspace = find_workspace()
    found = next_brief(workspace, workspace.existing(run_id))
    if json:
        render.show_json(found.data)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(found.text.encode())
        sys.stdout.flush()
    print(f"{found.tokens} of {found.limit} tokens, counted by {found.counter}", file=sys.stderr)


def _show_guidance(said: Said, withdrawn: str, as_json: bool) -> None:
    from autoexp.cli import render

    if as_json:
        render.show_json(said.model_dump(mode="json"))
        return
    if withdrawn:
        render.say(f"withdrawn: {render.clean(withdrawn)}")
    if said.guidance:
        render.say("in force, in every brief until withdrawn (autoexp steer --withdraw N):")
    for each in said.guidance:
        render.say(f"{each.number:>3}  {render.clean(each.text)}")
    if not said.guidance:
        render.say("no guidance is in force")
    _show_waiting(said)


def _show_questions(said: Said, as_json: bool) -> None:
    from autoexp.cli import render

    if as_json:
        render.show_json(said.model_dump(mode="json"))
        return
    for each in said.questions:
        render.say(f"{each.number:>3}  {render.clean(each.text)}  ({each.by}, iteration {each.iteration})")
        render.say(f"     {render.clean(each.answer) if each.answer else 'not answered yet'}")
    if not said.questions:
        render.say("nobody has asked anything")
    _show_waiting(said)


def _show_waiting(said: Said) -> None:
    from autoexp.cli import render

    if said.waiting:
        render.say(f"{said.waiting} more wait: the run is busy, and takes them in soon")
