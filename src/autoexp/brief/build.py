"""The brief for the next idea, as a prompt and as data. The same journal and files give the same brief, every byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoexp.brief import history
from autoexp.brief.counting import COUNTER
from autoexp.brief.fitting import Fitted, Section, fitted
from autoexp.brief.lessons import told
from autoexp.workspace.candidate import editable_texts
from autoexp.workspace.files import head_of
from autoexp.workspace.report import loss_curve

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.workspace.paths import RunPaths, Workspace
    from autoexp.workspace.repository import Repository
    from autoexp.workspace.settings import Settings

STUCK = 5
"""Trials without a keep after which the ideas of the backlog are offered again."""
FILE_CHARACTERS = 4 << 20
"""Of program.md and of a source file, at most: no limit has room for more."""
CURVE_POINTS = 5
GLOBS_BYTES = 200
LATER = "Do not edit any file and do not run anything now: another step makes the change."
AT_ONCE = (
    "Make the change now, in the files of the current folder, and then answer. Edit only the files that may change, "
    "make no new ones, use no git commands, install nothing and do not run the training."
)
FIRST = "Propose the next experiment."
"""The first line, which tells a program what is asked."""
ANSWER = """\
Answer with one JSON object and nothing after it. Its keys, all of them text and none of them empty:
- "status": "ok", or "need_input" when only a person can settle a question; then ask it in "description", and leave \
the other keys out. Nobody waits for the answer: it comes in a later brief.
- "description": the change in one plain sentence, for the table of trials.
- "change_plan": which edits to make where, exactly enough to make them, and why they should help.
- "commit_description": the message of the commit.
Optional: "edits", a list of exact edits that need no further thought:
  {"op": "set", "name": "A_CONSTANT_IN_CAPITALS", "value": 0.1}
  {"op": "replace", "path": "a/file", "old": "text that occurs once", "new": "text"}
Optional: "ideas", a list of other ideas that you had, a sentence each: they are kept. "idea": the number of the kept \
idea that this is. "lesson": one sentence on what the last trials teach, if they teach something new."""


@dataclass(frozen=True)
class Brief:
    """What is sent, and what it came to."""

    text: str
    """The prompt."""
    data: dict[str, Any]
    """The same as JSON-able data."""
    tokens: int
    """Of the text."""
    limit: int
    """What the settings allow."""
    counter: str = COUNTER
    """Who counted."""


def propose_brief(
    state: RunState,
    iteration: int,
    settings: Settings,
    workspace: Workspace,
    paths: RunPaths,
    repository: Repository,
    conversation: bool = False,
    at_once: bool = False,
) -> Brief:
    """Ask for the change that iteration `iteration` tries, on the program at `state.tip`.

    `conversation`: the agent goes on with one in which it has had the brief; then only what is new is said. `at_once`:
    it makes the change itself, in the same call.
    """
    limit = settings.agent.brief_tokens
    again = state.open[iteration].repeated if iteration in state.open else ()
    sections = [
        Section("steering", "What the person wants kept in mind", tuple(_steering(state)), 0.08),
        Section("questions", "Questions to the person", tuple(_questions(state)), 0.05),
        Section("repeated", "Proposed just now, and tried before: propose something else", tuple(_again(again)), 0.04),
    ]
    if conversation and again:
        head = f"{FIRST}\n\nYou have the brief of this iteration already, and it stands."
    else:
        head = _head(state, settings, at_once)
        sections += _rest(state, settings, workspace, paths, repository)
    found = fitted(head, sections, ANSWER, limit)
    return Brief(found.text, _data(state, iteration, settings, found, limit, at_once), found.tokens, limit)


def _head(state: RunState, settings: Settings, at_once: bool) -> str:
    better = "lower" if state.metric.direction == "min" else "higher"
    files, seconds = settings.files, f"{settings.train.budget_seconds:g} seconds"
    return (
        f"{FIRST}\n\n"
        f"A program is improved by trying one change at a time. It is trained for {seconds} and judged by "
        f"{head_of(state.metric.name, 100)}; {better} is better. Propose exactly one change, unlike those tried so "
        "far. Keep it simple unless something larger promises a clear gain. A trial that fails is a trial lost.\n\n"
        f"Only these files may change: {head_of(', '.join(files.editable), GLOBS_BYTES)}."
        + (f" Never these: {head_of(', '.join(files.frozen), GLOBS_BYTES)}." if files.frozen else "")
        + f" {AT_ONCE if at_once else LATER}"
    )


def _rest(
    state: RunState, settings: Settings, workspace: Workspace, paths: RunPaths, repository: Repository
) -> list[Section]:
    program = _lines(_read(workspace))
    rows = history.table(state)
    return [
        Section("program", "The person's instructions (program.md)", program, 0.15),
        Section("best", "Best so far, and how it got there, the latest first", tuple(_best(state)), 0.06),
        Section("facts", "What is known of the numbers", tuple(_facts(state, paths)), 0.03),
        sources(state.tip, settings, repository, 0.30),
        Section("trials", "Trials so far, the latest first", tuple(rows), 0.10, "rows"),
        Section(
            "diffs",
            "What the latest failures had changed, the latest first",
            tuple(history.diffs(state, repository, settings.files)),
            0.07,
        ),
        Section("endings", "How the latest failures ended", tuple(history.endings(state)), 0.04, "endings"),
        Section(
            "lessons", "Lessons of earlier trials, the latest first", tuple(told(state, settings, workspace)), 0.03
        ),
        Section("older", "Tried before those", tuple(history.older(state)), 0.03),
        Section("ideas", _ideas_title(state), tuple(_ideas(state)), 0.02, "ideas"),
    ]


def sources(commit: str, settings: Settings, repository: Repository, share: float) -> Section:
    """The editable files at a commit. Frozen ones are not among them, whatever the globs say."""
    files = settings.files
    texts = editable_texts(repository, commit, files.editable, files.frozen)
    parts = [part for path, text in texts.items() for part in (f"--- {path}", *_lines(text[:FILE_CHARACTERS]))]
    return Section("source", "The program as it is now, every file that may change", tuple(parts), share)


def _steering(state: RunState) -> list[str]:
    return [f"{each.number}. {line}" for each in reversed(state.steering) for line in _lines(each.text)]


def _questions(state: RunState) -> list[str]:
    """The answers, the latest first, then what is open."""
    answered = [
        f"Asked: {history.line(each.text, 500)}\nAnswered by the person: {history.line(each.answer, 2000)}"
        for each in reversed(state.questions)
        if each.answer
    ]
    waiting = [
        f"Waiting for the person's answer, do not ask it again: {history.line(each.text, 500)}"
        for each in reversed(state.unanswered)
    ]
    return [*answered, *waiting]


def _again(repeated: Sequence[tuple[str, str]]) -> list[str]:
    return [f"- {history.line(words, 200)}: {history.line(why, 200)}" for words, why in reversed(repeated)]


def _best(state: RunState) -> list[str]:
    if state.best is None:
        return ["None yet: no trial has a number."]
    return [f"{state.metric.name} = {state.best.metric:g} of trial {state.best.iteration}.", *history.way(state)]


def _facts(state: RunState, paths: RunPaths) -> list[str]:
    lines = [history.noise(state)]
    best = next((t for t in reversed(state.trials) if state.best and t.iteration == state.best.iteration), None)
    curve = loss_curve(paths.attempt(best.iteration, best.attempts)) if best is not None else []
    if curve:
        step = max(1, len(curve) // CURVE_POINTS)
        chosen = [*curve[step - 1 : -1 : step][: CURVE_POINTS - 1], curve[-1]]
        points = ", ".join(f"{loss:.4g} at {progress:.0%}" for progress, loss in chosen)
        lines.append(f"Training loss of the program below, along its budget: {points}.")
    return lines


def stuck(state: RunState) -> bool:
    """Whether none of the last STUCK trials was kept."""
    last = [trial for trial in state.trials if trial.iteration][-STUCK:]
    return len(last) == STUCK and all(trial.decision != "keep" for trial in last)


def _ideas_title(state: RunState) -> str:
    if stuck(state):
        return f"None of the last {STUCK} trials was kept. Ideas that were had before and not tried"
    return "Ideas that were had before"


def _ideas(state: RunState) -> list[str]:
    backlog = state.backlog
    if not stuck(state):
        return [f"{len(backlog)} are kept for when the trials get stuck."] if backlog else []
    return [f"{idea.number}. {history.line(idea.text, 300)}" for idea in reversed(backlog)]


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.rstrip("\n").split("\n")) if text.strip() else ()


def _read(workspace: Workspace) -> str:
    try:
        with workspace.program.open("rb") as file:
            return file.read(FILE_CHARACTERS).decode(errors="replace")
    except OSError:
        return ""


def _data(
    state: RunState, iteration: int, settings: Settings, found: Fitted, limit: int, at_once: bool
) -> dict[str, Any]:
    """What the text was made of; only what the text tells too."""
    sections: Mapping[str, Any] = {
        cut.section.name: {
            "title": cut.section.title,
            "text": "\n".join(cut.section.parts[: cut.kept]),
            "unit": cut.section.unit,
            "kept": cut.kept,
            "left_out": cut.left_out,
        }
        for cut in found.cuts
    }
    return {
        "ask": "propose",
        "run_id": state.run_id,
        "iteration": iteration,
        "metric": state.metric.model_dump(mode="json"),
        "best": state.best.model_dump(mode="json") if state.best else None,
        "budget_seconds": settings.train.budget_seconds,
        "editable": list(settings.files.editable),
        "frozen": list(settings.files.frozen),
        "edits_at_once": at_once,
        "sections": sections,
        "answer": ANSWER,
        "tokens": found.tokens,
        "limit": limit,
        "counter": COUNTER,
    }
