"""The reducers on which no stage's turn depends: what agents took, what a person said, what proposers remember."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, TypeVar

from autoexp.runs import events as ev
from autoexp.runs.records import AgentRecord, Guidance, Idea, Lesson, Question, Record, Spent
from autoexp.runs.resting import judged
from autoexp.runs.shape import RunState

R = TypeVar("R", bound=Record)
Changes = dict[str, Any]
"""The fields of a state that an event changes, with their new values."""
LESSONS = 200
"""How many a run remembers."""


def taken(state: RunState, request: str | None) -> tuple[str, ...]:
    return (*state.requests, request)[-100:] if request else state.requests


def agent_asked(state: RunState, event: ev.AgentAsked) -> Changes:
    return {"asking": {**state.asking, event.iteration: event}}


def agent_called(state: RunState, event: ev.AgentCalled) -> Changes:
    conversations = state.conversations
    if event.conversation:
        conversations = {**conversations, event.iteration: (event.agent, event.conversation)}
    before = state.agents.get(event.agent, AgentRecord())
    after = judged(before, event).model_copy(update={"spent": _added(before.spent, event)})
    return {
        "spent": _added(state.spent, event),
        "agents": {**state.agents, event.agent: after},
        "conversations": conversations,
        "asking": {number: asked for number, asked in state.asking.items() if number != event.iteration},
    }


def sum_of(calls: Iterable[ev.AgentCalled]) -> Spent:
    """What these calls took together."""
    return functools.reduce(_added, calls, Spent())


def _added(spent: Spent, event: ev.AgentCalled) -> Spent:
    counted = event.input_tokens is not None or event.output_tokens is not None
    return Spent(
        calls=spent.calls + 1,
        input_tokens=spent.input_tokens + (event.input_tokens or 0),
        output_tokens=spent.output_tokens + (event.output_tokens or 0),
        cost_usd=spent.cost_usd + (event.cost_usd or 0.0),
        uncounted=spent.uncounted + (not counted),
        unpriced=spent.unpriced + (event.cost_usd is None),
    )


def noted(state: RunState, event: ev.Noted) -> Changes:
    return {"notes": (*state.notes, event)[-20:]}


def _changed(items: tuple[R, ...], number: int, **changes: Any) -> tuple[R, ...]:
    """With the item of that number changed; a number that is none changes nothing: it was asked for twice, say."""
    return tuple(item.model_copy(update=changes) if getattr(item, "number", 0) == number else item for item in items)


def guidance_given(state: RunState, event: ev.GuidanceGiven) -> Changes:
    new = Guidance(number=len(state.guidance) + 1, text=event.text)
    return {"guidance": (*state.guidance, new), "requests": taken(state, event.request)}


def guidance_withdrawn(state: RunState, event: ev.GuidanceWithdrawn) -> Changes:
    changed = _changed(state.guidance, event.number, withdrawn=True)
    return {"guidance": changed, "requests": taken(state, event.request)}


def question_asked(state: RunState, event: ev.QuestionAsked) -> Changes:
    new = Question(number=len(state.questions) + 1, iteration=event.iteration, by=event.by, text=event.text)
    return {"questions": (*state.questions, new)}


def question_answered(state: RunState, event: ev.QuestionAnswered) -> Changes:
    changed = _changed(state.questions, event.number, answer=event.answer)
    return {"questions": changed, "requests": taken(state, event.request)}


def idea_had(state: RunState, event: ev.IdeaHad) -> Changes:
    new = Idea(number=len(state.ideas) + 1, iteration=event.iteration, by=event.by, text=event.text)
    return {"ideas": (*state.ideas, new)}


def idea_tried(state: RunState, event: ev.IdeaTried) -> Changes:
    return {"ideas": _changed(state.ideas, event.number, tried=event.iteration)}


def idea_dropped(state: RunState, event: ev.IdeaDropped) -> Changes:
    return {
        "ideas": _changed(state.ideas, event.number, dropped=True),
        "requests": taken(state, event.request),
    }


def lesson_learned(state: RunState, event: ev.LessonLearned) -> Changes:
    new = Lesson(iteration=event.iteration, by=event.by, text=event.text)
    return {"lessons": (*state.lessons, new)[-LESSONS:]}
