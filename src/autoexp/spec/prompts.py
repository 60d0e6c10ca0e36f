"""What agents are asked. The same state gives the same prompt; everything that may be long is bounded.

The first line of each prompt is stable: it tells which of the three questions is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoexp.errors import RepositoryError
from autoexp.spec.answers import untrusted
from autoexp.workspace.repository import matches

if TYPE_CHECKING:
    from autoexp.runs.records import Outcome, Proposal, Trial
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context
    from autoexp.workspace.settings import Settings

PROGRAM_BYTES = 16_000
SOURCE_BYTES = 40_000
"""Of all editable files together."""
TRIALS = 20
DIFFS = 5
DIFF_BYTES = 2_000
PROBLEM_BYTES = 12_000


LATER = "Do not edit any file and do not run anything now: another step makes the change."


def propose_prompt(state: RunState, context: Context, making: str = LATER) -> str:
    """Ask for the next change to the program at `state.tip`. `making` says who makes it, and when."""
    metric, files = state.metric, context.settings.files
    better = "lower" if metric.direction == "min" else "higher"
    best = f"{metric.name} = {state.best.metric:g} of trial {state.best.iteration}" if state.best else "none yet"
    seconds = f"{context.settings.train.budget_seconds:g} seconds"
    parts = [
        "Propose the next experiment.",
        f"A program is improved by trying one change at a time. It is trained for {seconds} and judged by "
        f"{metric.name}; {better} is better. Propose exactly one change, unlike those tried so far. "
        "Keep it simple unless something larger promises a clear gain. A trial that fails is a trial lost.",
        f"Only these files may change: {', '.join(files.editable)}.{_frozen(files.frozen)} {making}",
        _section("The person's instructions (program.md)", _head(_text(context.workspace.program), PROGRAM_BYTES)),
        f"Best so far: {best}.",
        _section("Trials so far, the latest last", _table(state.trials[-TRIALS:])),
        _section("What the latest failures had changed", _diffs(state.trials, context)),
        *_source(state, context),
        "Answer with one JSON object and nothing after it. Its keys, all of them text and none of them empty:\n"
        '- "status": "ok", or "need_input" when only a person can settle a question; then ask it in "description".\n'
        '- "description": the change in one plain sentence, for the table of trials.\n'
        '- "change_plan": which edits to make where, exactly enough to make them, and why they should help.\n'
        '- "commit_description": the message of the commit.\n'
        'Optional: "edits", a list of exact edits that need no further thought:\n'
        '  {"op": "set", "name": "A_CONSTANT_IN_CAPITALS", "value": 0.1}\n'
        '  {"op": "replace", "path": "a/file", "old": "text that occurs once", "new": "text"}',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def apply_prompt(proposal: Proposal, settings: Settings, problem: str = "") -> str:
    """Ask for the edits of a proposal. `problem` says what came of the attempt before; put logs through `untrusted`."""
    plan = {"description": proposal.description, "change_plan": proposal.change_plan}
    parts = [
        "Apply this experiment to the program.",
        json.dumps(plan, indent=2, ensure_ascii=False),
        "Make the edits directly in the files of the current folder. What goes:\n"
        f"- Edit only these files: {', '.join(settings.files.editable)}.{_frozen(settings.files.frozen)}\n"
        "- Make no new files, and delete or rename none. Install nothing.\n"
        "- Use no git commands: what you edited is found and committed for you.\n"
        "- Do not run the training, nor anything else that takes long.\n"
        "- Leave the printed results and the time budget of the program as they are.\n"
        "- Change what the plan says and no more.",
        _section(
            "The attempt before this one went wrong. Put that right, within the plan", _head(problem, PROBLEM_BYTES)
        ),
        "When done, answer with one JSON object and nothing after it: "
        '{"status": "applied", "summary": "what you changed"}, or '
        '{"status": "failed", "summary": "why it cannot be done"}.',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def triage_prompt(outcome: Outcome, log_tail: str) -> str:
    """Ask what to do about a failed training. `log_tail` is the log as it is; it is made fit for a prompt here."""
    ended = (
        f"It ended as: {outcome.status}{f', exit code {outcome.exit_code}' if outcome.exit_code is not None else ''}."
    )
    parts = [
        "The training of a candidate failed.",
        ended,
        _section("The reason that was found", untrusted(outcome.reason, 500) if outcome.reason else ""),
        _section("The end of its log", untrusted(log_tail) if log_tail.strip() else "(the log is empty)"),
        "Choose one action:\n"
        "- fix_and_rerun: a plain mistake (a typo, a wrong shape, a missing import, slightly too much memory) that a "
        "small edit repairs without giving up the idea.\n"
        "- mark_crash_and_discard: the idea itself does not work, or the cause is not clear.\n"
        "Do not edit any file and do not run anything now.",
        'Answer with one JSON object and nothing after it: {"action": "one of the two", "reason": "one sentence; for '
        'fix_and_rerun, what to repair"}.',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _frozen(frozen: Sequence[str]) -> str:
    return f" Never these: {', '.join(frozen)}." if frozen else ""


def _section(title: str, text: str) -> str:
    return f"## {title}\n{text}" if text.strip() else ""


def _source(state: RunState, context: Context) -> Iterable[str]:
    """The editable files as the change finds them, as far as there is room."""
    files, left = context.settings.files, SOURCE_BYTES
    for path in context.repository.files(state.tip):
        if matches(path, files.editable) and not matches(path, files.frozen):
            text = context.repository.show(state.tip, path) or ""
            yield _section(f"{path} as it is now", _head(text, left) if left > 0 else "(left out: no room)")
            left -= len(text.encode(errors="ignore"))


def _table(trials: Sequence[Trial]) -> str:
    if not trials:
        return ""
    rows = [
        f"{trial.iteration}\t{'-' if trial.metric is None else f'{trial.metric:.6f}'}\t{trial.decision}\t"
        f"{_line(trial.description, 200)}\t{_line(' '.join(filter(None, (trial.reason, trial.why))), 160)}"
        for trial in trials
    ]
    return "\n".join(["number\tmetric\tdecision\tdescription\twhy", *rows])


def _diffs(trials: Sequence[Trial], context: Context) -> str:
    """Diffs of the last changes that were not kept: an agent that sees them repeats them less."""
    found = []
    failed = [trial for trial in trials if trial.iteration and trial.decision != "keep" and trial.base != trial.commit]
    for trial in failed[-DIFFS:]:
        try:
            diff = context.repository.diff(trial.base, trial.commit)
        except RepositoryError:  # a commit that is gone is no reason not to propose
            continue
        found.append(f"Trial {trial.iteration} ({trial.decision}):\n{_head(diff, DIFF_BYTES)}")
    return "\n".join(found)


def _line(text: str, limit: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _head(text: str, limit: int) -> str:
    raw = text.encode(errors="ignore")
    if len(raw) <= limit:
        return text
    return raw[:limit].decode(errors="ignore") + f"\n[… {len(raw) - limit} more bytes]"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").replace("\x00", "")
    except OSError:
        return ""
