"""Stop a run, live or not."""

from __future__ import annotations

import time

from autoexp.errors import RunError
from autoexp.plugins.manager import parts, plugin_manager
from autoexp.runs.state import RunState
from autoexp.session import requests
from autoexp.session.background import live, live_runs, submit
from autoexp.session.snapshot import load
from autoexp.session.status import training_alone
from autoexp.spec.context import pick
from autoexp.workspace.paths import WAIT_FILE, RunPaths, Workspace
from autoexp.workspace.settings import load as load_settings

END_SECONDS = 20.0


def to_stop(workspace: Workspace, run_id: str | None) -> RunPaths:
    """The run that is to be stopped: by default the one that is live, else the newest.

    Raises RunError when several are live, and as `Workspace.existing`.
    """
    names = live_runs(workspace) if run_id is None else []
    if len(names) > 1:
        raise RunError(f"{len(names)} runs are live: {', '.join(names)}", f"autoexp stop --run-id {names[-1]}")
    return workspace.existing(names[0] if names else run_id)


def only_waits(paths: RunPaths, state: RunState) -> bool:
    """Whether all that is under way are trainings that wait for their device: none would be lost."""
    return bool(state.open) and all(
        iteration.stage == "train"
        and iteration.job is not None
        and (paths.folder / iteration.job.folder / WAIT_FILE).exists()
        for iteration in state.open.values()
    )


def stop_run(workspace: Workspace, paths: RunPaths, now: bool) -> str:
    """Ask the live session to stop; with `now`, end the trainings too, live or not. Returns what was done."""
    state = load(paths)
    if live(paths):
        taken = submit(paths, requests.Request(kind="stop", now=now))
        deadline = time.monotonic() + END_SECONDS
        at_once = now or only_waits(paths, state)
        while at_once and live(paths) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not live(paths):
            return "stopped"
        return (
            f"stopping: no new {'training' if state.check is not None else 'iteration'} will begin"
            if taken == "taken"
            else "the run is busy and will stop after this stage"
        )
    jobs = [iteration.job for iteration in state.open.values() if iteration.job and iteration.stage == "train"]
    jobs += [training.job for check in state.checks for training in check.trainings if training.job]
    if now and jobs:
        executor = pick(
            parts(plugin_manager(), "executors", load_settings(workspace).executors), state.plan.executor, "executor"
        )
        for job in jobs:
            executor.kill(paths.folder / job.folder)
        return f"no session was live; ended {len(jobs)} training" + ("s" if len(jobs) > 1 else "")
    if alone := training_alone(paths, state):
        return f"no session is live, but {len(alone)} training goes on by itself: autoexp stop --now ends it"
    return "no session is live"
