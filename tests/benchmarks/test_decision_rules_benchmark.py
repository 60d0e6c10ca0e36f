"""benchmarks/decision_rules.py: small simulations, and real but very short trainings."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from autoexp.model import prepare, profiles
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import decision_rules
from deciding.fit import fitted
from deciding.nights import PROGRESS, Result, World, confirm, simple
from deciding.real import asked, stopped
from deciding.trainings import Pool, Training, program

TINY = dataclasses.replace(profiles.CPU, vocab_size=300, seq_len=32, eval_tokens=2048)


def strict(world: World, nights: int) -> Result:
    return simple(world, nights, 1, lambda difference: difference < 0.0)


def test_strict_less_than_keeps_as_much_luck_as_is_known_of_it() -> None:
    night = strict(World(0.001), 300)
    assert night.gain.mean() == pytest.approx(0.0104, abs=0.0015)
    assert night.false.sum() / night.keeps.sum() == pytest.approx(0.41, abs=0.04)


def test_confirm_gains_as_much_with_half_the_false_keeps_in_equal_time() -> None:
    night, other = confirm(World(0.001), 60, 1), strict(World(0.001), 300)
    assert night.gain.mean() > 0.85 * other.gain.mean()  # of few nights: 0.0115 of many, and 0.0104
    assert night.false.sum() / night.keeps.sum() < 0.5 * other.false.sum() / other.keeps.sum()
    assert np.all(night.trainings <= 120.5)
    null = confirm(World(0.001, null=True, trainings=60.0), 40, 1)
    assert null.keeps.sum() / null.proposals.sum() < 0.05


def test_a_simulated_night_is_repeatable() -> None:
    one, two = (confirm(World(0.001, trainings=20.0), 5, 7) for _ in range(2))
    assert one.gain.tolist() == two.gain.tolist()


def made_up(seeds: int = 12) -> Pool:
    """Trainings without training: noise 0.002, the good edit better by 0.006, curves ten times as far apart."""
    rng = np.random.default_rng(5)
    found: Pool = {}

    def add(name: str, seed: int, effect: float) -> None:
        value = 1.0 + effect + rng.normal(0.0, 0.002)
        curve = tuple((n / 20, 3.0 + 1.0 / n + 10 * (value - 1.0) + rng.normal(0.0, 0.01)) for n in range(1, 21))
        found[name, seed] = Training(name, seed, value, curve)

    for seed in range(1, seeds + 1):
        add("base", seed, 0.0)
        add("good", seed, -0.006)
        for number in (1, 2, 3):
            add(f"same-{number}", seed, 0.0)
    for number in range(1, 31):
        add(f"edit-{number}", 1, 0.01 * math.sin(number) + 0.01)
    return found


def test_the_fit_finds_what_the_curves_were_made_with() -> None:
    rows = fitted(made_up())
    assert [row.progress for row in rows] == list(PROGRESS)
    for row in rows:
        assert row.slope == pytest.approx(0.1, rel=0.1)
        assert row.noise < 1.0 and row.share < 0.2


def test_the_products_rules_are_asked_about_real_cases() -> None:
    pool = made_up()
    from deciding.real import RULES

    rates = {name: [asked(pool, kind, rule, 60, 1).rate for kind in ("same", "good")] for name, rule in RULES.items()}
    assert rates["improvement"][0] > 0.2
    assert rates["confirm"][0] < rates["improvement"][0] / 2 < 0.6 < rates["confirm"][1]
    ended = stopped(pool)
    assert ended["good"][0] == 0 and ended["edit, worse"][0] > ended["edit, worse"][1] / 3


def test_the_programs_are_what_their_names_say() -> None:
    base = program("base")
    assert [line for line in program("same-3").splitlines() if line not in base.splitlines()] == [
        "        torch.rand(3)"
    ]
    for name in ("good", "edit-1", "edit-2"):
        changed = set(program(name).splitlines()) ^ set(base.splitlines())
        assert len(changed) == 2 and program(name) == program(name)


@pytest.mark.parametrize("jobs", [1])
def test_real_trainings_are_kept_and_not_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    file = tmp_path / "speeches.txt"
    file.write_text("\n\n".join(b for _, b in zip(range(16), (b for _, b in Bundled(500).addresses()), strict=False)))
    request = prepare.plan(str(file), TINY, cache=tmp_path / "cache")
    prepare.prepare(request, Progress())
    trainings = tmp_path / "trainings.jsonl"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "benchmarks"), prepend=":")
    options = [
        "--json",
        str(trainings),
        "--seeds",
        "3",
        "--same",
        "1",
        "--edits",
        "2",
        "--operations",
        "2e9",
        "--jobs",
        "1",
    ]
    assert decision_rules.main(["real", *options, "--cases", "5", "--data", str(request.folder)]) == 0
    lines = [json.loads(line) for line in trainings.read_text().splitlines()]
    assert len(lines) == 11 and all(line["value"] and line["curve"] for line in lines)
    said = capsys.readouterr().out
    assert "noise from seed to seed" in said and "confirm" in said
    assert decision_rules.main(["real", *options, "--cases", "5"]) == 0, "without data: all is there"
    assert len(trainings.read_text().splitlines()) == 11
    with pytest.raises(SystemExit, match="give --data"):
        decision_rules.main(["fit", *options, "--seeds", "4"])
