"""What an agent is asked that cannot edit files: exact edits, which are made for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoexp.runs.records import Proposal
    from autoexp.workspace.settings import Files

SOURCE_BYTES = 200_000
"""Of all files together. An edit of text that was not shown cannot be exact."""
PROBLEM_BYTES = 12_000

HOW = """Edits are made one after the other. Each is one of:
  {"op": "replace", "path": "a/file", "old": "text that occurs exactly once in the file", "new": "text"}
  {"op": "set", "name": "A_CONSTANT_IN_CAPITALS", "value": 0.1}
  {"op": "patch", "diff": "a unified diff, as `git diff` prints it"}
In "old" give whole lines, as few as make it occur once, with their indentation as it is."""


def edits_prompt(proposal: Proposal, files: Files, texts: Mapping[str, str], problem: str = "") -> str:
    """Ask for the edits of a proposal. `texts` are the editable files; `problem` is as for `apply_prompt`."""
    plan = {"description": proposal.description, "change_plan": proposal.change_plan}
    frozen = f" Never these: {', '.join(files.frozen)}." if files.frozen else ""
    parts = [
        "Apply this experiment to the program.",
        json.dumps(plan, indent=2, ensure_ascii=False),
        f"You cannot edit files yourself: answer with the exact edits, and they are made for you. Only these files "
        f"may change: {', '.join(files.editable)}.{frozen} Leave the printed results and the time budget of the "
        "program as they are. Change what the plan says and no more.",
        f"## The attempt before this one went wrong. Put that right, within the plan\n{problem[-PROBLEM_BYTES:]}"
        if problem.strip()
        else "",
        *_sources(texts),
        HOW,
        "Answer with one JSON object and nothing after it: "
        '{"status": "applied", "summary": "what you changed", "edits": […]}, or '
        '{"status": "failed", "summary": "why it cannot be done"}.',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sources(texts: Mapping[str, str]) -> list[str]:
    found, left = [], SOURCE_BYTES
    for path, text in texts.items():
        size = len(text.encode(errors="ignore"))
        shown = text if size <= left else "(left out: no room; do not edit it)"
        found.append(f"## {path} as it is now\n{shown}")
        left -= min(size, left)
    return found
