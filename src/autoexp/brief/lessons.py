"""What agents learned: of this run, or with `agent.lessons` of all runs of the workspace, in a file for people too."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from autoexp.brief.history import line
from autoexp.errors import AutoexpError
from autoexp.workspace.files import write_atomic

if TYPE_CHECKING:
    from autoexp.runs.records import Lesson
    from autoexp.runs.state import RunState
    from autoexp.workspace.paths import Workspace
    from autoexp.workspace.settings import Settings

LIMIT_BYTES = 32_000
"""Of the file: when it is full, the oldest lesson goes. What a person wrote is left alone."""
WORDS = 400
"""Characters of a lesson."""
_TITLE = "# Lessons of earlier trials\n\nWritten by agents, one a line; edit as you like. Briefs have them in.\n\n"


def told(state: RunState, settings: Settings, workspace: Workspace) -> list[str]:
    """The lessons for a brief, the latest first. A file that a person cut down is believed over the journal."""
    if settings.agent.lessons and workspace.lessons.exists():
        return [text for text in reversed(_read(workspace).splitlines()) if text.startswith(("- ", "* "))]
    return [f"- {line(each.text, WORDS)} (trial {each.iteration})" for each in reversed(state.lessons)]


def keep(workspace: Workspace, run_id: str, lesson: Lesson) -> None:
    """Add a lesson to the workspace's file, unless it stands there already. What cannot be written is let go."""
    said = f"- {line(lesson.text, WORDS)}"
    text = _read(workspace) or _TITLE
    if len(text.encode(errors="replace")) > LIMIT_BYTES:
        return  # somebody uses it for more than this, and is not to lose a word
    if any(each.startswith(f"{said} (") for each in text.splitlines()):
        return
    if not text.endswith("\n"):
        text += "\n"
    lines = [*text.splitlines(keepends=True), f"{said} (run {run_id}, iteration {lesson.iteration})\n"]
    while sum(len(each.encode()) for each in lines) > LIMIT_BYTES:
        oldest = next((at for at, each in enumerate(lines) if each.startswith("- ") and "(run " in each), None)
        if oldest is None:
            return  # it is full of a person's words
        del lines[oldest]
    with suppress(AutoexpError):
        write_atomic(workspace.lessons, "".join(lines))


def _read(workspace: Workspace) -> str:
    try:
        with workspace.lessons.open("rb") as file:
            return file.read(LIMIT_BYTES + 1).decode(errors="replace").replace("\x00", "")
    except OSError:
        return ""
