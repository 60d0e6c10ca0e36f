"""Asking an agent until it has answered: bad answers are told back, outages are waited for, each call is recorded."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from autoexp.errors import AgentError, AutoexpError, Interrupted, UnreachableError
from autoexp.runs.events import AgentAsked, AgentCalled
from autoexp.runs.records import AgentRecord
from autoexp.runs.resting import manner
from autoexp.spec.answers import amount, judged, number, plain
from autoexp.spec.ports import Answer, Ask, Usage
from autoexp.spec.secrets import redacted, without
from autoexp.spec.transcripts import latest

if TYPE_CHECKING:
    from autoexp.spec.context import Context
    from autoexp.workspace.settings import Agent as AgentSettings

A = TypeVar("A", bound=BaseModel)
BACK_OFF_SECONDS = 2.0
"""Before the first call after an outage; doubled each time, and a random share of it is left out."""
LONGEST_BACK_OFF_SECONDS = 120.0
BETWEEN_TRIES_SECONDS = 0.2
NEXT = "autoexp resume, or without it: autoexp resume --proposer search"


@dataclass(frozen=True)
class Prompt:
    """What is asked, in words and as JSON-able data."""

    text: str
    data: Mapping[str, Any]


def ask_for(
    name: str,
    prompt: str,
    answer: type[A],
    *,
    context: Context,
    stage: Literal["propose", "apply", "triage"],
    cwd: Path,
    transcript: Path,
    may_edit: bool,
    conversation: str | None = None,
    brief: Mapping[str, Any] | None = None,
    anew: Prompt | None = None,
    check: Callable[[A], str | None] | None = None,
    standing: AgentRecord | None = None,
) -> A:
    """The answer of the agent registered as `name`, in the shape of `answer`; `check` may refuse it with a reason.

    A bad answer, or none, is asked for again with what was wrong, `agent.tries` calls in all. Calls that end in a rate
    limit or an outage do not count as tries: they are repeated, later and later, within `agent.patience_seconds`.
    `prompt` may count on what was said in `conversation`; `anew` is then the complete one, for when that is gone. After
    a problem that is no outage a new conversation is begun: the old one may be the matter.
    `standing` is how the agent did so far, `state.agents.get(name)`: one that is down is asked once, or not at all.
    Raises UnreachableError when it is down, AgentError with the last problem; PreconditionError and Interrupted at
    once.
    """
    agent, settings = context.agents[name], context.settings.agent
    how = manner(standing, context.iteration)
    if how == "not" and standing is not None:
        raise UnreachableError(
            f"{name} is asked again in iteration {standing.rests_until}: "
            f"{standing.failures} calls in a row failed, the last one: {standing.problem}",
            NEXT,
        )
    if how == "once":
        settings = settings.model_copy(update={"tries": 1, "patience_seconds": 0.0})
    full = anew or Prompt(prompt, brief or {})
    data = brief or {}
    asked, complaint, problem, number, outages = prompt, "", "", 0, 0
    patient_until: float | None = None
    while number < settings.tries:
        question = Ask(
            prompt=asked,
            cwd=cwd,
            transcript=transcript,
            may_edit=may_edit,
            timeout_seconds=settings.timeout_seconds,
            brief=data,
            conversation=conversation,
            anew=_joined(full.text, complaint) if conversation is not None else "",
            task=stage,
            env=settings.env,
            stop=context.stop,
        )
        context.asked(_asked(context, stage, name, number + 1, settings))
        began, found = time.monotonic(), None
        try:
            said = _sound(agent.ask(question))
        except AgentError as error:
            said = Answer("", problem=str(error))
        except Interrupted:
            cut = Answer("", problem="stopped while it was at work", transcript=latest(transcript))
            _record(context, stage, name, cut, cut.problem, time.monotonic() - began, stopped=True)
            raise
        except AutoexpError:
            raise
        except Exception as error:  # an agent of a third party, or an answer that nobody has thought of
            context.log(redacted(traceback.format_exc()))
            said = Answer("", problem=f"{name} failed with {type(error).__name__}: {error}")
        wrong = plain(redacted(said.problem))
        if not wrong:
            found, wrong = judged(without(said.text), answer, check)
        _record(context, stage, name, said, wrong, time.monotonic() - began)
        conversation = said.conversation or conversation
        if said.problem and not said.busy:  # the conversation may be the matter: too long, say, or broken off
            conversation = None
            prompt, data = full.text, full.data
            asked = _joined(prompt, complaint)
        if found is not None:
            return found
        problem = wrong
        if said.busy:
            wait = _back_off(outages, said.retry_after_seconds)
            outages += 1
            patient_until = patient_until or began + settings.patience_seconds
            if time.monotonic() + wait >= patient_until:
                waited = f"could not be reached for {settings.patience_seconds:g} s"
                raise UnreachableError(f"{name} {'is still down' if how == 'once' else waited}: {problem}", NEXT)
            context.log(f"{name}: {problem}; asked again in {wait:.0f} s")
            _pause(wait, context.stop)
            continue
        number += 1
        if number < settings.tries:
            context.log(f"asking again ({number + 1} of {settings.tries}): {problem}")
            _pause(BETWEEN_TRIES_SECONDS, context.stop)
        if not said.problem:
            complaint = (
                f"Your previous answer could not be used: {problem}. Edits of files that you made for it "
                "are still there. Answer again, with one JSON object as asked above and nothing after it.\n"
            )
            # who goes on with a conversation has the question in it
            asked = complaint if said.conversation else _joined(prompt, complaint)
    calls = f"{settings.tries} call" + ("" if settings.tries == 1 else "s")
    kind = UnreachableError if how == "once" else AgentError
    raise kind(f"no usable answer in {calls}; the last problem: {problem}", NEXT)


def _asked(context: Context, stage: Any, name: str, number: int, settings: AgentSettings) -> AgentAsked:
    return AgentAsked(
        iteration=context.iteration,
        attempt=context.attempt,
        stage=stage,
        agent=name,
        number=number,
        tries=settings.tries,
        timeout_seconds=settings.timeout_seconds,
    )


def _joined(prompt: str, complaint: str) -> str:
    return f"{prompt}\n\n{complaint}" if complaint else prompt


def _back_off(outages: int, asked_seconds: float | None) -> float:
    """Seconds to wait: a random part of a growing time, but all that the server asked for and a little more."""
    own = min(BACK_OFF_SECONDS * 2.0 ** min(outages, 30), LONGEST_BACK_OFF_SECONDS) * random.uniform(0.5, 1.0)
    return own if asked_seconds is None else max(own, asked_seconds + random.uniform(0.1, 1.0))


def _sound(said: Answer) -> Answer:
    """The answer with nothing in it that the journal refuses, whoever wrote the agent."""
    used, wait, talk = said.usage, said.retry_after_seconds, said.conversation
    good_wait = isinstance(wait, int | float) and 0 <= wait < float("inf")
    return replace(
        said,
        text=said.text if isinstance(said.text, str) else "",
        problem=str(said.problem or ""),
        conversation=talk if isinstance(talk, str) and talk.isprintable() else None,
        usage=Usage(number(used.input_tokens), number(used.output_tokens), amount(used.cost_usd)),
        retry_after_seconds=wait if good_wait else None,
        transcript=said.transcript if isinstance(said.transcript, Path) else None,
    )


def _record(
    context: Context, stage: Any, name: str, said: Answer, problem: str, seconds: float, stopped: bool = False
) -> None:
    folder = ""
    if said.transcript is not None:
        with suppress(ValueError):
            folder = str(said.transcript.relative_to(context.paths.folder))
    context.called(
        AgentCalled(
            iteration=context.iteration,
            attempt=context.attempt,
            stage=stage,
            agent=name,
            seconds=round(seconds, 3),
            transcript=folder,
            conversation=said.conversation,
            input_tokens=said.usage.input_tokens,
            output_tokens=said.usage.output_tokens,
            cost_usd=said.usage.cost_usd,
            problem=problem[:500],
            busy=said.busy,
            stopped=stopped,
        )
    )


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stop():
            raise Interrupted("stopped between two calls of the agent", "autoexp resume")
        time.sleep(min(left, 0.1))
