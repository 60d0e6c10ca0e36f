"""Repeats: attempts of their own with seeds of the harness, in the record and in every view."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import NOISY, Lab

from autoexp.runs import events as ev
from autoexp.runs.measuring import mean, noises, repeats, seed_of
from autoexp.runs.records import Measurement, Noise
from autoexp.runs.state import RunState
from autoexp.session import snapshot
from autoexp.spec.ports import Case, Verdict
from autoexp.testing import Registering, Scripted, make_workspace, proposal, run

IDEAS = (proposal(LR=0.06), proposal(DEPTH=5), proposal(LR=0.075))


def noisy(path: Path, settings: str = "") -> Lab:
    lab = Lab(path, settings="[rules.confirm]\nthrift = 0.1\n" + settings, trainer=NOISY)
    lab.script(*IDEAS)
    return lab


def told_by(lab: Lab, number: int) -> list[tuple[str, float | None, int | None]]:
    shown = json.loads(lab.command("show", str(number), "--json"))
    return [(a["of"], a["outcome"]["metric"], a["outcome"]["seed"]) for a in shown["attempts"]]


def test_repeats_are_attempts_with_paired_seeds_and_all_is_told(tmp_path: Path) -> None:
    lab = noisy(tmp_path)
    lab.start(3, "--rule", "confirm")
    state = lab.state
    looks = lab.events(ev.LookAgain)
    assert [look.iteration for look in looks[:2]] == [0, 0], "the unchanged program three times"
    for program in {m.program for m in state.measurements}:
        seeds = [m.seed for m in state.measurements if m.program == program]
        assert seeds == [seed_of(state.seed, number) for number in range(1, len(seeds) + 1)]
    for trial in state.trials:
        own = state.measured(trial.source, trial.commit)
        assert trial.metric == pytest.approx(mean([m for m in own if m.iteration == trial.iteration]))
        assert trial.attempts == 1 + sum(look.iteration == trial.iteration for look in looks)
    assert state.best is not None
    holder = state.trials[state.best.iteration]
    assert state.best.metric == pytest.approx(mean(state.measured(holder.source, holder.commit)))
    for trial in state.trials[1:]:
        assert trial.evidence is not None
        assert f"over {trial.evidence.candidate} v {trial.evidence.best}, P(better) = " in trial.why

    number = next(look.iteration for look in looks if look.of == "incumbent")
    attempts = told_by(lab, number)
    assert attempts[0] == ("", attempts[0][1], state.seed) and "incumbent" in {of for of, _, _ in attempts}
    said = lab.command("show", str(number))
    assert "the best again" in said and "P(better)" in said
    rows = (lab.root / "results.tsv").read_text().splitlines()
    assert len(rows) == len(state.trials) + 1, "a row for each iteration, however many trainings it took"
    assert len(lab.command("log").splitlines()) >= len(state.trials)
    noise = lab.status()["noise"]
    assert (
        noise["repeats"]
        == state.noise.freedom
        == len(state.measurements) - len({m.program for m in state.measurements})
    )
    assert noise["deviation"] == pytest.approx(state.noise.deviation)
    assert f"from seed to seed, by {noise['repeats']} repeats" in lab.command("status")
    assert snapshot.load(lab.paths) == state


def test_with_several_workers_decisions_stay_in_order_and_the_journal_tells_all(tmp_path: Path) -> None:
    lab = noisy(tmp_path)
    lab.start(3, "--rule", "confirm", "--workers", "2")
    decided = [event.iteration for event in lab.events(ev.Decided)]
    assert decided == [0, 1, 2, 3]
    state = lab.state
    assert state.open == {} and snapshot.load(lab.paths) == state
    looks = lab.events(ev.LookAgain)
    assert len(state.measurements) == 4 + len(looks) == len(set(lab.trainings()))
    for trial in state.trials:
        own = [m for m in state.measured(trial.source, trial.commit) if m.iteration == trial.iteration]
        assert trial.metric == pytest.approx(mean(own))


def test_earlier_runs_tell_the_noise_where_all_is_the_same(tmp_path: Path) -> None:
    lab = noisy(tmp_path)
    lab.start(0, "--rule", "confirm")
    first = lab.state
    assert (len(first.measurements), first.carried) == (3, Noise())
    lab.run_id = "second"
    lab.command("start", "--run-id", "second", "--loops", "1", "--proposer", "scripted", "--rule", "confirm",
                "--branch", "lab/second", "--no-background-train")  # fmt: skip
    second = lab.state
    assert second.carried == first.noise
    assert [m.iteration for m in second.measurements].count(0) < 3, "the baseline needs no repeats of its own"
    assert lab.status()["noise"]["carried"] == 2
    lab.workspace.settings.write_text(
        lab.workspace.settings.read_text().replace("timeout", "budget_seconds = 7\ntimeout", 1)
    )
    lab.run_id = "third"
    lab.command("start", "--run-id", "third", "--loops", "0", "--proposer", "scripted", "--rule", "confirm",
                "--branch", "lab/third", "--no-background-train")  # fmt: skip
    assert lab.state.carried == Noise(), "another budget is another noise"
    assert len(lab.state.measurements) == 3


class Looks:
    """A rule that wants so many looks at the candidate, whatever comes."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def decide(self, *arguments: object) -> tuple[str, str]:
        raise AssertionError("judge is asked instead")

    def judge(self, case: Case) -> Verdict:
        more = case.best is not None and len(case.candidate) <= self.looks
        return Verdict("keep" if case.best is None else "inconclusive", "as told", "candidate" if more else None)


def looked(path: Path, trainer: str, looks: int = 2, loops: int = 1, **plan: object) -> RunState:
    workspace = make_workspace(path, trainer)
    plugins = {"looks": Registering(rules={"looks": Looks(looks)})}
    return run(workspace, loops, Scripted(proposal(LR=0.04), proposal(LR=0.02)), plugins=plugins, rule="looks", **plan)


def test_a_candidate_that_fails_with_another_seed_is_a_crash_and_is_not_repaired(tmp_path: Path) -> None:
    first = 'import os, sys\nif LR == 0.04 and os.environ["AUTOEXP_SEED"] != "0":\n    sys.exit("unlucky")\n'
    from autoexp.testing import TRAINER

    state = looked(tmp_path / "work", TRAINER.replace('print(f"val', first + 'print(f"val'))
    trial = state.trials[1]
    assert (trial.decision, trial.status, trial.metric, trial.attempts) == ("crash", "crash", None, 2)
    assert trial.reason.startswith(f"with seed {seed_of(0, 2)}: ") and "unlucky" in trial.reason


def test_trainings_of_repeats_count_and_a_budget_ends_the_looks(tmp_path: Path) -> None:
    from autoexp.testing import TRAINER

    state = looked(tmp_path / "work", TRAINER, looks=50, loops=2, budget={"max_trials": 4})
    assert state.trainings == 4 == len(state.measurements)
    assert [trial.decision for trial in state.trials] == ["keep", "inconclusive"]


def test_a_rule_that_always_wants_more_is_not_given_it_for_ever(tmp_path: Path) -> None:
    from autoexp.stages.decide import MOST_LOOKS
    from autoexp.testing import TRAINER

    state = looked(tmp_path / "work", TRAINER, looks=1000)
    assert state.trials[1].attempts == MOST_LOOKS


def test_seeds_are_the_runs_own_then_drawn_from_it() -> None:
    assert seed_of(7, 1) == 7
    drawn = [seed_of(7, number) for number in range(2, 100)]
    assert len(set(drawn)) == len(drawn) and all(0 <= seed < 2**31 for seed in drawn)
    assert seed_of(8, 2) != seed_of(7, 2)


def test_noise_is_pooled_over_programs_and_not_over_machines() -> None:
    def measured(program: str, seed: int, value: float, machine: str = "m") -> Measurement:
        return Measurement(iteration=1, attempt=1, commit=program, source="", seed=seed, value=value, machine=machine)

    found = repeats(
        [
            *(measured("a", 1, 1.0), measured("a", 2, 3.0), measured("b", 1, 10.0), measured("b", 2, 14.0)),
            *(measured("c", 1, 5.0), measured("a", 2, 99.0), measured("a", 1, 50.0, "other")),
        ],
        Noise(squares=3.0, freedom=3),
    )
    assert (found.squares, found.freedom) == (3.0 + 2.0 + 8.0, 5)
    assert Noise().deviation is None and Noise().uncertainty is None


def test_a_program_that_diverges_with_some_seeds_does_not_hide_what_others_do() -> None:
    calm = [("base", 1.0), ("base", 1.001), ("base", 0.999), ("one", 0.998), ("one", 0.9985)]
    wild = [("wild", 1.0), ("wild", 7.0), ("wilder", 1.0), ("wilder", 1e200)]

    def noise(values: list[tuple[str, float]]) -> Noise:
        found = [
            Measurement(iteration=0, attempt=1, commit=program, source="", seed=seed, value=value)
            for seed, (program, value) in enumerate(values)
        ]
        assert noises(found)[""] == repeats(found)
        return repeats(found)

    usual, spoilt = noise(calm), noise(calm + wild)
    assert spoilt.freedom == usual.freedom + 2
    assert usual.deviation is not None and spoilt.deviation is not None
    assert usual.deviation < spoilt.deviation < 3 * usual.deviation
    learnt = noise([*calm, *((f"later {n // 2}", 0.002 * (n % 2)) for n in range(60))])
    assert learnt.deviation == pytest.approx(0.0014, rel=0.1), "where all are as noisy as that, it is believed"
