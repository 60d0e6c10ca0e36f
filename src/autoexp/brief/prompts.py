"""The two other questions that agents are asked: make this change, and what now that its training failed.

The first line of each is stable: it tells which question is asked. Both are short for an agent that goes on with the
conversation in which it had the idea, and complete for one that does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoexp.brief.fitting import Section, fitted
from autoexp.spec.answers import untrusted
from autoexp.spec.asking import Prompt

if TYPE_CHECKING:
    from autoexp.runs.records import Outcome, Proposal
    from autoexp.workspace.settings import Settings

PROBLEM_BYTES = 12_000
PLAN_BYTES = 16_000
DIFF_BYTES = 16_000


EDITS = """Edits are made one after the other. Each is one of:
  {"op": "replace", "path": "a/file", "old": "text that occurs exactly once in the file", "new": "text"}
  {"op": "set", "name": "A_CONSTANT_IN_CAPITALS", "value": 0.1}
  {"op": "patch", "diff": "a unified diff, as `git diff` prints it"}
In "old" give whole lines, as few as make it occur once, with their indentation as it is."""


def apply_prompt(
    proposal: Proposal,
    settings: Settings,
    problem: str = "",
    program: Section | None = None,
    guidance: Sequence[str] = (),
    edits_itself: bool = True,
) -> Prompt:
    """Ask for the edits of a proposal. `problem` says what came of the attempt before; put logs through `untrusted`.

    `program` and `guidance` are for an agent that has not had the brief: the program's source, the person's words. One
    that does not edit files itself answers with exact edits, and needs the source in any case.
    """
    plan = {"description": proposal.description, "change_plan": _head(proposal.change_plan, PLAN_BYTES)}
    files = settings.files
    problem = _head(problem, PROBLEM_BYTES)
    head = [
        "Apply this experiment to the program.",
        json.dumps(plan, indent=2, ensure_ascii=False),
        _how(
            ", ".join(files.editable), f" Never these: {', '.join(files.frozen)}." if files.frozen else "", edits_itself
        ),
        _section("The attempt before this one went wrong. Put that right, within the plan", problem),
        _section("What the person wants kept in mind", _head("\n".join(guidance), PLAN_BYTES)),
    ]
    tail = (
        "When done, answer with one JSON object and nothing after it: "
        + '{"status": "applied", "summary": "what you changed"'
        + ("" if edits_itself else ', "edits": […]')
        + '}, or {"status": "failed", "summary": "why it cannot be done"}.'
    )
    if not edits_itself:
        tail = f"{EDITS}\n\n{tail}"
    start = "\n\n".join(part for part in head if part)
    text = fitted(start, [program], tail, settings.agent.brief_tokens).text if program else f"{start}\n\n{tail}\n"
    data = {
        "ask": "apply",
        "proposal": proposal.model_dump(mode="json"),
        "editable": list(files.editable),
        "frozen": list(files.frozen),
        "problem": problem,
        "program": "\n".join(program.parts) if program else None,
        "answer": tail,
    }
    return Prompt(text, data)


def _how(editable: str, never: str, edits_itself: bool) -> str:
    if not edits_itself:
        return (
            f"You cannot edit files yourself: answer with the exact edits, and they are made for you. Only these files "
            f"may change: {editable}.{never} Leave the printed results and the time budget of the program as they are. "
            "Change what the plan says and no more."
        )
    return (
        "Make the edits directly in the files of the current folder. What goes:\n"
        f"- Edit only these files: {editable}.{never}\n"
        "- Make no new files, and delete or rename none. Install nothing.\n"
        "- Use no git commands: what you edited is found and committed for you.\n"
        "- Do not run the training, nor anything else that takes long.\n"
        "- Leave the printed results and the time budget of the program as they are.\n"
        "- Change what the plan says and no more."
    )


def triage_prompt(outcome: Outcome, log_tail: str, proposal: Proposal | None = None, diff: str = "") -> Prompt:
    """Ask what to do about a failed training. `log_tail` is the log as it is; it is made fit for a prompt here.

    `proposal` and `diff` are for an agent that does not know what was tried.
    """
    ended = (
        f"It ended as: {outcome.status}{f', exit code {outcome.exit_code}' if outcome.exit_code is not None else ''}."
    )
    reason = untrusted(outcome.reason, 500) if outcome.reason else ""
    log = untrusted(log_tail) if log_tail.strip() else "(the log is empty)"
    plan = f"{proposal.description}\n{_head(proposal.change_plan, PLAN_BYTES)}" if proposal else ""
    diff = _head(diff, DIFF_BYTES)
    answer = (
        'Answer with one JSON object and nothing after it: {"action": "one of the two", "reason": "one sentence; for '
        'fix_and_rerun, what to repair"}.'
    )
    parts = [
        "The training of a candidate failed.",
        ended,
        _section("What was tried", plan),
        _section("Its change of the program", diff),
        _section("The reason that was found", reason),
        _section("The end of its log", log),
        "Choose one action:\n"
        "- fix_and_rerun: a plain mistake (a typo, a wrong shape, a missing import, slightly too much memory) that a "
        "small edit repairs without giving up the idea.\n"
        "- mark_crash_and_discard: the idea itself does not work, or the cause is not clear.\n"
        "Do not edit any file and do not run anything now.",
        answer,
    ]
    data = {
        "ask": "triage",
        "status": outcome.status,
        "exit_code": outcome.exit_code,
        "proposal": proposal.model_dump(mode="json") if proposal else None,
        "diff": diff,
        "reason": reason,
        "log": log,
        "answer": answer,
    }
    return Prompt("\n\n".join(part for part in parts if part) + "\n", data)


def _section(title: str, text: str) -> str:
    return f"## {title}\n{text}" if text.strip() else ""


def _head(text: str, limit: int) -> str:
    raw = text.encode(errors="ignore")
    if len(raw) <= limit:
        return text
    return raw[:limit].decode(errors="ignore") + f"\n[… {len(raw) - limit} more bytes]"
