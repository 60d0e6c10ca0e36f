"""Sessions that go on by themselves: start one detached, find a live one, ask it to stop."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoexp.errors import AutoexpError, RunError
from autoexp.runs.plan import next_stages
from autoexp.session import requests
from autoexp.session.snapshot import load
from autoexp.workspace.files import explained, tail
from autoexp.workspace.locks import Lock, held
from autoexp.workspace.paths import BEGIN_LOCK, RunPaths, Workspace

ATTACH_SECONDS = 3.0
"""How long a start waits for news, so that an error of the set-up is seen at once."""
START_SECONDS = 60.0
"""How long a session may take to get hold of the run, on a machine that is busy."""
POLL_SECONDS = 0.02


def live(paths: RunPaths) -> bool:
    """Whether a session works on the run."""
    return held(paths.lock)


def live_runs(workspace: Workspace) -> list[str]:
    """The runs that a session works on, the oldest first."""
    return [name for name in workspace.run_ids() if live(workspace.run(name))]


def refuse_beside(workspace: Workspace) -> None:
    """Raise RunError when a run is live: a second one, which competes for its devices, is begun by its name only."""
    if names := live_runs(workspace):
        what = f"run {names[0]} is live" if len(names) == 1 else f"the runs {', '.join(names)} are live"
        raise RunError(
            f"{what} in this workspace, and a second one would compete for its devices",
            f"autoexp watch, or autoexp resume --run-id {names[-1]} --loops 5; beside it: autoexp start --run-id NEW",
        )


@contextmanager
def beginning(workspace: Workspace) -> Iterator[None]:
    """Nobody else begins a run meanwhile: of two starts at the same moment each would find nobody at work.

    Raises RunError when a run is live, or another start takes its time.
    """
    lock = Lock(workspace.runs / BEGIN_LOCK)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not lock.acquire():
            refuse_beside(workspace)
            if time.monotonic() > deadline:
                raise RunError("another start is at work in this workspace", "try again in a moment: autoexp start")
            time.sleep(POLL_SECONDS)
    except OSError as error:
        raise explained(error, workspace.runs) from error
    try:
        refuse_beside(workspace)
        yield
    finally:
        lock.release()


def spawn(paths: RunPaths) -> int:
    """Start a session of its own for the run and return its pid. Returns when it works, or has ended."""
    before = paths.journal.stat().st_size
    with paths.output.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "autoexp.session.background", str(paths.folder)],
            cwd=paths.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    began = time.monotonic()
    while process.poll() is None and time.monotonic() < began + START_SECONDS:
        if time.monotonic() > began + ATTACH_SECONDS and live(paths):
            break  # it works, and has no news yet: data is being prepared, say
        if paths.journal.stat().st_size > before and not requests.waiting(paths):
            state = load(paths)
            if state.setup_done and next_stages(state, state.plan):
                break  # at work; where nothing is left to do its end is waited for
        time.sleep(POLL_SECONDS)
    return process.pid


def wait_for_end(paths: RunPaths) -> None:
    """Until no session works on the run. Looked at twice: one lets go for a moment between two requests."""
    seen = 0
    while seen < 2:
        seen = 0 if live(paths) else seen + 1
        time.sleep(5 * POLL_SECONDS)


def raise_if_failed(paths: RunPaths) -> None:
    """Raise the error with which the newest session ended, if it has ended with one."""
    if live(paths):
        return
    closed = load(paths).closed
    if closed is None:
        said = tail(paths.output, 2000).strip().splitlines()
        raise AutoexpError(
            f"the session did not start: {said[-1] if said else 'it said nothing'}", f"see {paths.output}"
        )
    if closed.exit_code:
        error = AutoexpError(closed.detail, closed.hint)
        error.exit_code = closed.exit_code
        raise error


def submit(paths: RunPaths, request: requests.Request, wait_seconds: float = 3.0) -> str:
    """Leave a request and see that somebody takes it in.

    Returns 'taken' (by a live session), 'queued' (a live session is busy and will), or 'idle': nobody works on the run.
    """
    path = requests.post(paths, request)
    deadline = time.monotonic() + wait_seconds
    while path.exists():
        if not live(paths):
            return "idle"
        if time.monotonic() > deadline:
            return "queued"
        time.sleep(POLL_SECONDS)
    return "taken"


def main(folder: Path) -> int:
    """The detached session."""
    from autoexp.session.loop import Session

    paths = RunPaths(folder)
    workspace = Workspace(folder.parents[2])
    try:
        Session(workspace, paths, say=lambda line: None).run()
    except AutoexpError as error:
        return error.exit_code  # it is in the journal, in runner.log and in status
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    gc.freeze()  # the interpreter's last collection finds nothing in all that was imported
    raise SystemExit(code)
