"""What a person says to a run and what its proposers remember, each once in the journal.

A live session takes a person's words in from a request; a run that nobody works on is worked on here for a moment.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from autoexp.errors import ProposalError, UsageError
from autoexp.runs import events as ev
from autoexp.runs.journal import Journal
from autoexp.runs.records import Guidance, Idea, Question
from autoexp.runs.state import RunState, reduce, same_words
from autoexp.session import requests, views
from autoexp.session.background import submit
from autoexp.session.snapshot import load
from autoexp.session.words import told, write_line
from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import RunPaths

WORDS = 4000
"""Characters of a person's words, at most: they are in every brief."""

Remembered = ev.QuestionAsked | ev.IdeaHad | ev.IdeaTried | ev.LessonLearned


def known(state: RunState, event: Remembered) -> bool:
    """Whether the run has it already: a question, an idea or a lesson in the same words."""
    match event:
        case ev.QuestionAsked():
            return any(same_words(each.text, event.text) for each in state.questions)
        case ev.IdeaHad():
            return any(same_words(each.text, event.text) for each in state.ideas)
        case ev.IdeaTried():
            return all(idea.number != event.number for idea in state.backlog)
        case ev.LessonLearned():
            return any(same_words(each.text, event.text) for each in state.lessons)


def said(name: str, request: requests.Request) -> ev.Event:
    """The event of a person's words, which came in the request of that name."""
    if request.kind == "steer":
        return ev.GuidanceGiven(text=request.text, request=name)
    if request.kind == "withdraw":
        return ev.GuidanceWithdrawn(number=request.number, request=name)
    if request.kind == "answer":
        return ev.QuestionAnswered(number=request.number, answer=request.text, request=name)
    return ev.IdeaDropped(number=request.number, request=name)


class Said(BaseModel):
    """What became of a person's words."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    waiting: int
    """How many of a person's words are not in the journal yet: a live session is busy, and takes them in soon."""
    guidance: list[Guidance]
    """In force now."""
    questions: list[Question]
    """All of them, with the answers."""


def steer(paths: RunPaths, text: str) -> Said:
    """Put guidance into every later brief. Raises UsageError for none, or too much."""
    return _say(paths, requests.Request(kind="steer", text=_words(text, 'autoexp steer "leave the optimizer alone"')))


def withdraw(paths: RunPaths, number: int) -> Said:
    """Take guidance back. Raises ProposalError when none in force has this number."""
    if all(each.number != number for each in load(paths).steering):
        raise ProposalError(
            f"no guidance in force has the number {number}: it was withdrawn already, or never given",
            "autoexp steer --list",
        )
    return _say(paths, requests.Request(kind="withdraw", number=number))


def answer(paths: RunPaths, number: int, text: str) -> Said:
    """Answer a question; a later answer replaces an earlier one. Raises ProposalError when there is no such."""
    if all(each.number != number for each in load(paths).questions):
        raise ProposalError(f"there is no question {number}", "autoexp answer")
    words = _words(text, f'autoexp answer {number} "..."')
    return _say(paths, requests.Request(kind="answer", number=number, text=words))


def drop(paths: RunPaths, number: int) -> Idea:
    """Take an idea out of the backlog, and return it. Raises ProposalError when it is not in there."""
    found = next((idea for idea in load(paths).backlog if idea.number == number), None)
    if found is None:
        raise ProposalError(f"no idea that waits has the number {number}", "autoexp ideas")
    _say(paths, requests.Request(kind="drop", number=number))
    return found.model_copy(update={"dropped": True})


def _words(text: str, example: str) -> str:
    words = text.replace("\x00", "").encode(errors="replace").decode().strip()
    if not words:
        raise UsageError("there are no words in it", example)
    if len(words) > WORDS:
        raise UsageError(f"that is {len(words)} characters, of {WORDS} at most", "put it into program.md")
    return words


def heard(paths: RunPaths) -> Said:
    """What the run knows of a person's words."""
    state = load(paths)
    waiting = [name for name, request, _ in requests.waiting(paths) if request.kind not in ("resume", "stop", "check")]
    return Said(
        run_id=paths.run_id,
        waiting=len([name for name in waiting if name not in state.requests]),
        guidance=list(state.steering),
        questions=list(state.questions),
    )


def _say(paths: RunPaths, request: requests.Request) -> Said:
    if submit(paths, request) == "idle":
        _take_in(paths)
    return heard(paths)


def _take_in(paths: RunPaths) -> None:
    """Put the words that wait into the journal of a run that nobody works on; a plan waits for a session."""
    lock = Lock(paths.lock)
    if not lock.acquire(wait_seconds=0.0):
        return  # a session has come meanwhile: it takes them in
    try:
        state = load(paths)
        journal = Journal(paths.journal)
        try:
            for name, request, path in requests.waiting(paths):
                if request.kind in ("resume", "stop", "check"):
                    continue
                if name not in state.requests:
                    event = said(name, request)
                    journal.append(event)
                    state = reduce(state, event)
                    write_line(paths.log, told(event))
                path.unlink(missing_ok=True)
            views.write_state(paths, state, journal.size)
        finally:
            journal.close()
    finally:
        lock.release()
