"""setup: is everything there that a training needs? Data that is missing is prepared, unless --no-auto-prepare."""

from __future__ import annotations

import shutil
import subprocess
import time

from autoexp.errors import AutoexpError, Interrupted, PreconditionError
from autoexp.runs.events import Event, SetupDone
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import require_isolation
from autoexp.workspace.candidate import editable_files, nothing_editable
from autoexp.workspace.files import tail
from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import PREPARE_LOCK
from autoexp.workspace.running import Stopped, run, taken
from autoexp.workspace.settings import filled, missing_data


@hookimpl(trylast=True)
def autoexp_setup(state: RunState, context: Context) -> Event | None:
    """Check git, program, command and data. Raises PreconditionError that names what is missing."""
    settings = context.settings
    editable = editable_files(context.repository, state.base, settings.files.editable, settings.files.frozen)
    if not editable:
        raise nothing_editable(settings.files, context.workspace.root)
    context.repository.exclude(["/workflows/runs/", "/workflows/lessons.md", "/results.tsv", *_links(context)])
    command = filled(settings.train.command[0], context.workspace)
    if shutil.which(command) is None and not (context.workspace.root / command).exists():
        raise PreconditionError(
            f"the training command {command!r} is not on PATH", f"install {command}, then: {_resume(context)}"
        )
    if settings.train.isolation == "required":
        require_isolation(context.executor(), _resume(context))
    missing = missing_data(context.workspace, context.settings)
    if missing:
        _prepare(context, missing)
    edited = context.repository.uncommitted(editable)
    if edited:
        context.note(
            f"{', '.join(editable)}: uncommitted edits are left alone and are not part of the run; "
            "try them with: autoexp propose --from-diff",
            "dirty",
        )
    return SetupDone(details={"editable": ", ".join(editable), "data": "ready"})


def _resume(context: Context) -> str:
    """What goes on with this run: while its set-up has failed, no other command means it by itself."""
    return f"autoexp resume --run-id {context.paths.run_id}"


def _links(context: Context) -> list[str]:
    """Links on the way to the runs: for git a link is a file, which the pattern of what is behind it does not name."""
    root, runs = context.workspace.root, context.workspace.runs
    return [f"/{path.relative_to(root)}" for path in (runs.parent, runs) if path.is_symlink()]


def _prepare(context: Context, missing: list[str]) -> None:
    """Run the prepare command. Raises PreconditionError when it may not run, fails, or leaves something missing."""
    settings = context.settings.prepare
    command = [filled(word, context.workspace) for word in settings.command or ()]
    by_hand = "autoexp prepare"
    if not context.plan.auto_prepare or not command:
        raise PreconditionError(f"data is missing: {', '.join(missing)}", f"{by_hand}, then: {_resume(context)}")
    if shutil.which(command[0]) is None:
        raise PreconditionError(
            f"the prepare command {command[0]!r} is not on PATH", f"install {command[0]}, then: {_resume(context)}"
        )
    log = context.paths.folder / "prepare.log"
    context.log(f"setup: preparing data: {' '.join(command)} (log: {log})")
    deadline = time.monotonic() + settings.timeout_seconds
    lock = Lock(context.workspace.runs / PREPARE_LOCK)

    def over() -> bool:
        return context.stop() or time.monotonic() > deadline

    try:
        taken(lock, over, lambda: context.log("setup: data is being prepared already: waiting for that"))
        if not missing_data(context.workspace, context.settings):
            return  # it was made while we waited
        with log.open("ab") as output:
            code = run(
                command,
                context.workspace.root,
                stop=over,
                lock=lock,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    except Stopped as error:
        if context.stop():
            raise Interrupted("stopped while preparing data", _resume(context)) from error
        raise AutoexpError(f"preparing data took longer than {settings.timeout_seconds:g} s", f"see {log}") from error
    finally:
        lock.release()
    if code:
        said = " ".join(tail(log, 2000).strip().splitlines()[-2:])
        raise PreconditionError(f"preparing data failed (exit {code}): {said}", f"{by_hand}, then: {_resume(context)}")
    if missing := missing_data(context.workspace, context.settings):
        raise PreconditionError(f"data is still missing after preparing: {', '.join(missing)}", f"see {log}")
