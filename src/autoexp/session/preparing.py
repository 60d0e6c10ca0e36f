"""Making the data ready: the prepare command of the settings, or the trainer's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from autoexp.errors import AutoexpError, PreconditionError, UsageError
from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import PREPARE_LOCK, SETTINGS_FILE, Workspace, workspace_around
from autoexp.workspace.running import run, taken
from autoexp.workspace.settings import Settings, filled, load, missing_data
from autoexp.workspace.trainer import PACKAGE, told


def prepare(dataset: str | None, profile: str | None, extra: Sequence[str]) -> list[str]:
    """Run the workspace's prepare command, its output passing through. Returns what to tell in the end.

    Outside a workspace it is the trainer's own. Raises PreconditionError when something is missing, else AutoexpError.
    """
    workspace, settings = _here()
    command, overridden = _command_line(workspace, settings, dataset, profile)
    if command is None:
        return [f"nothing to prepare: prepare.command is not set in {SETTINGS_FILE}", "next: autoexp start --loops 5"]
    lock = Lock(workspace.runs / PREPARE_LOCK) if workspace is not None and workspace.runs.is_dir() else None
    if lock is not None:  # a run may be at it, also one whose session was killed
        taken(lock, lambda: False, lambda: print("data is being prepared already: waiting for that", file=sys.stderr))
    _run([*command, *extra], workspace.root if workspace else Path.cwd(), lock)
    if workspace is None or settings is None:
        return ["next: autoexp init my-research"]
    if missing := missing_data(workspace, settings):
        if overridden:
            return [
                f"this workspace trains on other data, which is still missing: {', '.join(missing)}",
                "next: autoexp prepare",
            ]
        raise PreconditionError(
            f"the prepare command left something missing: {', '.join(missing)}", f"edit [prepare] in {SETTINGS_FILE}"
        )
    if overridden:
        own = settings.train.env.get("AUTOEXP_DATA", "its own data")
        return [f"this workspace goes on training on {own}: see {SETTINGS_FILE}"]
    return ["ready: autoexp start --loops 5"]


def _here() -> tuple[Workspace | None, Settings | None]:
    workspace = workspace_around()
    if workspace is None:
        return None, None
    settings = load(workspace)
    known = workspace.settings.exists() or settings != Settings()
    return (workspace, settings) if known else (None, None)


def _command_line(
    workspace: Workspace | None, settings: Settings | None, dataset: str | None, profile: str | None
) -> tuple[list[str] | None, bool]:
    """(the command, whether it prepares other data than the settings say). Raises UsageError when it cannot."""
    chosen = {"--dataset": _absolute(dataset), "--profile": profile}
    changes = {flag: value for flag, value in chosen.items() if value is not None}
    if workspace is None or settings is None:
        own = [sys.executable, "-m", f"{PACKAGE}.prepare", "--dataset", "bundled", "--profile", "auto"]
        return _changed(own, changes), False
    if settings.prepare.command is None:
        if changes:
            raise UsageError(
                f"prepare.command is not set in {SETTINGS_FILE}: nothing takes {', '.join(changes)}", "autoexp doctor"
            )
        return None, False
    command = [filled(word, workspace) for word in settings.prepare.command]
    if not changes:
        return command, False
    if f"{PACKAGE}.prepare" not in command:
        raise UsageError(
            f"the prepare command is {' '.join(command)}, which takes no {', '.join(changes)}", "autoexp prepare"
        )
    changed = _changed(command, changes)
    if changed == command:
        return command, False
    return _without(changed, "--out"), True  # the named folder belongs to the settings' own data


def _absolute(dataset: str | None) -> str | None:
    if dataset in (None, "bundled", "climbmix"):
        return dataset
    return str(Path(str(dataset)).expanduser().absolute())  # the command runs in the workspace's root


def _changed(command: list[str], changes: dict[str, str]) -> list[str]:
    for flag, value in changes.items():
        command = [*_without(command, flag), flag, value]
    return command


def _without(command: list[str], flag: str) -> list[str]:
    if flag not in command:
        return list(command)
    place = command.index(flag)
    return [*command[:place], *command[place + 2 :]]


def _run(command: list[str], folder: Path, lock: Lock | None) -> None:
    """Run it with its output passing through; the two lines of its last error become the error raised."""
    if shutil.which(command[0]) is None and not (folder / command[0]).exists():
        raise PreconditionError(
            f"the prepare command {command[0]!r} is not on PATH", f"install {command[0]}, then: autoexp prepare"
        )
    own = (
        f"{PACKAGE}.prepare" in command
    )  # of others even stderr goes straight to the terminal: it may hold a progress bar
    held: list[str] = []
    code = run(
        command,
        folder,
        lock=lock,
        stderr=subprocess.PIPE if own else None,
        reads=lambda stream: _pass_on(stream, held),
    )
    if code == 0:
        return
    if own and held:
        raise told("".join(held), code, "preparing data failed")
    kind = PreconditionError if code == 3 else AutoexpError
    raise kind(
        f"the prepare command failed (exit {code}): {' '.join(command)}", "see its output above, then: autoexp prepare"
    )


def _pass_on(stream: IO[bytes], held: list[str]) -> None:
    """Pass lines on as they come, and hold back those that will be told as the error."""
    for raw in stream:
        line = raw.decode(errors="replace")
        if held or line.startswith("error: "):
            held.append(line)
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
