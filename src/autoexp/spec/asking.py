"""Asking an agent until it has answered: bad answers are told back, outages are waited for, each call is recorded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from autoexp.errors import AgentError, Interrupted
from autoexp.runs.events import AgentCalled
from autoexp.spec.answers import judged
from autoexp.spec.ports import Answer, Ask

if TYPE_CHECKING:
    from autoexp.spec.context import Context

A = TypeVar("A", bound=BaseModel)
BACK_OFF_SECONDS = 2.0
"""Before the first call after an outage; doubled each time, and a random share of it is left out."""
LONGEST_BACK_OFF_SECONDS = 120.0
BETWEEN_TRIES_SECONDS = 0.2


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
    check: Callable[[A], str | None] | None = None,
) -> A:
    """The answer of the agent registered as `name`, in the shape of `answer`; `check` may refuse it with a reason.

    A bad answer, or none, is asked for again with what was wrong, `agent.tries` calls in all. Calls that end in a rate
    limit or an outage do not count as tries: they are repeated, later and later, within `agent.patience_seconds`.
    Raises AgentError with the last problem; PreconditionError and Interrupted at once.
    """
    agent, settings = context.agents[name], context.settings.agent
    asked, problem, number, outages = prompt, "", 0, 0
    patient_until: float | None = None
    while number < settings.tries:
        question = Ask(
            prompt=asked,
            cwd=cwd,
            transcript=transcript,
            may_edit=may_edit,
            timeout_seconds=settings.timeout_seconds,
            brief=brief or {},
            conversation=conversation,
            stop=context.stop,
        )
        began, found = time.monotonic(), None
        try:
            said = agent.ask(question)
        except AgentError as error:
            said = Answer("", problem=str(error))
        wrong = said.problem
        if not wrong:
            found, wrong = judged(said.text, answer, check)
        _record(context, stage, name, said, wrong, time.monotonic() - began)
        conversation = said.conversation or conversation
        if found is not None:
            return found
        problem = wrong
        if said.busy:
            wait = _back_off(outages, said.retry_after_seconds)
            outages += 1
            patient_until = patient_until or began + settings.patience_seconds
            if time.monotonic() + wait >= patient_until:
                raise AgentError(f"{name} could not be reached for {settings.patience_seconds:g} s: {problem}")
            context.log(f"{name}: {problem}; asked again in {wait:.0f} s")
            _pause(wait, context.stop)
            continue
        number += 1
        if number < settings.tries:
            context.log(f"asking again ({number + 1} of {settings.tries}): {problem}")
            _pause(BETWEEN_TRIES_SECONDS, context.stop)
        if not said.problem:
            asked = (
                f"Your previous answer could not be used: {problem}. Edits of files that you made for it "
                "are still there. Answer again, with one JSON object as asked above and nothing after it.\n"
            )
            if not said.conversation:  # who goes on with one has the question in it
                asked = f"{prompt}\n\n{asked}"
    calls = f"{settings.tries} call" + ("" if settings.tries == 1 else "s")
    raise AgentError(f"no usable answer in {calls}; the last problem: {problem}")


def _back_off(outages: int, asked_seconds: float | None) -> float:
    """Seconds to wait: what the server asked for and a little more, else a random part of a growing time."""
    if asked_seconds is not None:
        return min(asked_seconds, LONGEST_BACK_OFF_SECONDS) + random.uniform(0.1, 1.0)
    return min(BACK_OFF_SECONDS * 2.0**outages, LONGEST_BACK_OFF_SECONDS) * random.uniform(0.5, 1.0)


def _record(context: Context, stage: Any, name: str, said: Answer, problem: str, seconds: float) -> None:
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
        )
    )


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stop():
            raise Interrupted("stopped between two calls of the agent", "autoexp resume")
        time.sleep(min(left, 0.1))
