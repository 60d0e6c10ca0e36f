"""Stop a run, live or not."""

from __future__ import annotations

import time

from autoexp.plugins.manager import parts, plugin_manager
from autoexp.session import requests
from autoexp.session.background import live, submit
from autoexp.session.snapshot import load
from autoexp.session.status import training_alone
from autoexp.spec.context import pick
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.settings import load as load_settings

END_SECONDS = 20.0


def stop_run(workspace: Workspace, paths: RunPaths, now: bool) -> str:
    """Ask the live session to stop; with `now`, end the trainings too, live or not. Returns what was done."""
    state = load(paths)
    if live(paths):
        taken = submit(paths, requests.Request(kind="stop", now=now))
        deadline = time.monotonic() + END_SECONDS
        while now and live(paths) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not live(paths):
            return "stopped"
        return (
            "stopping: no new iteration will begin"
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
