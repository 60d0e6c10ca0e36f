"""benchmarks/proposers.py, with real but very short trainings."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoexp.model import prepare, profiles
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import proposers
from proposing import night
from proposing.night import Night, Values

ROOT = Path(__file__).parents[2]
TINY = dataclasses.replace(profiles.CPU, vocab_size=300, seq_len=32, eval_tokens=2048)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred kilobytes of text, prepared."""
    file = tmp_path_factory.mktemp("text") / "speeches.txt"
    file.write_text(
        "\n\n".join(body for _, body in zip(range(16), (b for _, b in Bundled(500).addresses()), strict=False))
    )
    request = prepare.plan(str(file), TINY, cache=tmp_path_factory.mktemp("cache"))
    prepare.prepare(request, Progress())
    return request.folder


def by_rates(values: Values) -> float:
    """A metric that hangs on a few constants."""
    wanted = {"MATRIX_LR": 0.1, "EMBEDDING_LR": 0.2, "UNEMBEDDING_LR": 0.01, "SCALAR_LR": 1.0, "ADAM_BETA1": 0.6}
    return sum(abs(float(values[name]) - value) for name, value in wanted.items())


@pytest.mark.parametrize("method", ["search", "random edits", "Optuna TPE"])
def test_a_night_gets_better_is_repeatable_and_never_forgets_its_best(method: str) -> None:
    text = profiles.render(profiles.CPU)
    count = 12 if method == "Optuna TPE" else 30  # which takes its time
    best = list(night.run(method, text, 3, count, by_rates))
    assert best == list(night.run(method, text, 3, count, by_rates))
    assert best == sorted(best, reverse=True)
    assert len(best) == count and best[-1] < best[0]


def test_what_fails_is_a_crash_and_nothing_is_built_on_it() -> None:
    text = profiles.render(profiles.CPU)
    made = Night(text, 1, lambda values: None if values["DEPTH"] == 3 else 1.0)
    assert made.train({**made.defaults, "DEPTH": 3}) is None
    assert [trial.decision for trial in made.state.trials] == ["keep", "crash"]
    assert made.here == made.defaults


def test_efficiency_is_counted_to_where_random_edits_ended() -> None:
    nights = {("a", 1): [3.0, 1.0, 1.0, 1.0], (proposers.RANDOM, 1): [3.0, 2.0, 2.0, 1.5]}
    assert proposers.efficiency(nights, "a", [1]) == ("2", "2.00 x")
    nights["a", 1] = [3.0, 3.0, 3.0, 3.0]
    assert proposers.efficiency(nights, "a", [1]) == ("never", "-")


def test_real_trainings_and_going_on_where_it_stopped(tmp_path: Path, data: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "proposers.py"), "--json", "nights.jsonl", "--seeds", "1"]
    command += ["--trainings", "3", "--operations", "2e8", "--jobs", "2", "--methods", "search,random edits"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    first = subprocess.run([*command, "--data", data], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    lines = [json.loads(line) for line in (tmp_path / "nights.jsonl").read_text().splitlines()]
    assert {line["method"] for line in lines} == {"search", "random edits"}
    assert lines[0]["best"][0] == lines[1]["best"][0] >= lines[0]["best"][-1]  # the same program first
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout == first.stdout and "of 2 nights" not in again.stderr
