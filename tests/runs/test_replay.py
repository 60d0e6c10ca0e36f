"""Crashes anywhere, over many seeds: a run of invented stages always ends in the same trials (law 3, in the pure part).

The stages' effects outlive a crash, as files and commits do. A crash comes before an effect, between an effect and its
event, in the middle of the event's line, or after it.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autoexp.runs import events as ev
from autoexp.runs import journal
from autoexp.runs.journal import Journal, encode, read
from autoexp.runs.plan import Step, next_stages
from autoexp.runs.records import Metric, Outcome, Plan
from autoexp.runs.state import RunState, reduce, replay
from autoexp.testing import proposal, trial


class Crash(Exception):
    """The process is gone; what is in `World` and in the journal's file stays."""


class World:
    """What stages bring about. Each thing has a key and comes about once, however often it is asked for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.things: dict[tuple[Any, ...], Any] = {}
        self.done: Counter[tuple[Any, ...]] = Counter()

    def effect(self, *key: Any) -> float:
        """A number that hangs on the seed and the key alone."""
        if key not in self.things:
            self.done[key] += 1
            self.things[key] = random.Random(f"{self.seed} {key}").random()
        return float(self.things[key])

    def event(self, state: RunState, step: Step) -> ev.Event | None:
        n, a = step.iteration, step.attempt
        chance = self.effect(step.stage, n, a)
        if step.stage == "setup":
            return ev.SetupDone()
        if step.stage == "baseline":
            return ev.BaselineOpened(commit="0" * 40, ref="r", source="s")
        if step.stage == "propose":
            return ev.Proposed(iteration=n, base=state.tip, proposal=proposal(LR=chance), proposer="p")
        if step.stage == "apply":
            status = "refused" if chance < 0.15 else "applied"
            return ev.Applied.model_validate({"iteration": n, "attempt": a, "status": status})
        if step.stage == "commit":
            return ev.Committed(iteration=n, attempt=a, commit=f"{n:040}", ref="r")
        if step.stage == "train":
            if state.open[n].job is None:
                return ev.TrainingStarted(iteration=n, attempt=a, folder=f"{n}-{a}")
            if self.luck.random() < 0.5:
                return None  # it still trains
            crash = Outcome(status="crash", reason="by chance")
            outcome = Outcome(status="success", metric=self.effect("metric", n, a)) if chance > 0.3 or n == 0 else crash
            return ev.TrainingEnded(iteration=n, attempt=a, outcome=outcome)
        if step.stage == "triage":
            outcome = state.open[n].outcome
            assert outcome is not None
            retry = "rerun" if chance < 0.5 else "fix_and_rerun"
            action = "proceed" if outcome.metric is not None else (retry if a < 3 else "give_up")
            return ev.Triaged.model_validate({"iteration": n, "attempt": a, "action": action})
        if step.stage == "record":
            outcome = state.open[n].outcome
            return ev.Recorded(trial=trial(n, outcome.metric if outcome else None, attempts=a))
        made = state.open[n].trial
        assert made is not None
        better = made.metric is not None and (state.best is None or made.metric < state.best.metric)
        verdict = "crash" if made.metric is None else ("keep" if better else "discard")
        return ev.Decided.model_validate({"iteration": n, "decision": verdict, "why": "w"})

    luck = random.Random(0)


def session(path: Path, world: World, plan: Plan, luck: random.Random, crashes: float) -> RunState:
    """The loop of a session, which crashes with this chance at each of the places where it can."""

    def perhaps() -> None:
        if luck.random() < crashes:
            raise Crash

    state, lines = replay(read(path)), Journal(path)
    world.luck = luck
    try:
        while steps := next_stages(state, plan):
            for step in steps:
                perhaps()
                event = ev.StageSkipped(iteration=step.iteration, stage=step.stage) if step.skip else None
                event = event or world.event(state, step)
                if event is None:
                    continue
                perhaps()
                if luck.random() < crashes:
                    line = encode(event)
                    with path.open("ab") as file:
                        file.write(line[: luck.randrange(len(line))])
                    raise Crash
                after = reduce(state, event)
                lines.append(event)
                state = after
                perhaps()
                break
    finally:
        lines.close()
    return state


def ends(path: Path, seed: int, workers: int, crashes: float) -> tuple[RunState, World, int]:
    """A whole run of eight iterations, resumed after each crash."""
    created = ev.RunCreated(run_id="r", branch="b", base="0" * 40, seed=seed, metric=Metric())
    journal.create(path, [created])
    world, luck, crashed = World(seed), random.Random(seed * 1000 + workers), 0
    while True:
        try:
            return session(path, world, Plan(target=8, workers=workers), luck, crashes), world, crashed
        except Crash:
            crashed += 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_that_crashes_everywhere_ends_like_one_that_never_does(tmp_path: Path, workers: int) -> None:
    total = 0
    for seed in range(12):
        calm, _, _ = ends(tmp_path / f"calm-{seed}", seed, workers, crashes=0.0)
        state, world, crashed = ends(tmp_path / f"wild-{seed}", seed, workers, crashes=0.06)
        total += crashed
        assert state.trials == calm.trials
        assert (state.best, state.open, state.next_number) == (calm.best, {}, 9)
        assert [t.iteration for t in state.trials] == list(range(9))
        assert set(world.done.values()) == {1}
        assert replay(read(tmp_path / f"wild-{seed}")) == state
    assert total > 150  # or nothing was tried


def test_a_run_with_workers_can_be_cut_off_at_any_event_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """Every prefix of a journal is a run that can be resumed."""
    calm, _, _ = ends(tmp_path / "calm", 4, 2, crashes=0.0)
    lines = (tmp_path / "calm").read_bytes().splitlines(keepends=True)
    for length in range(1, len(lines), 3):
        path = tmp_path / f"cut-{length}"
        path.write_bytes(b"".join(lines[:length]))
        state = session(path, World(4), Plan(target=8, workers=2), random.Random(length), crashes=0.0)
        assert state.trials == calm.trials
