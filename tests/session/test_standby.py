"""Our own trainer, with `standby`: a whole run whose second training stood by."""

from __future__ import annotations

import json
import random
from pathlib import Path

from person import Person
from support import leftovers


def test_a_whole_run_of_the_real_trainer(tmp_path: Path) -> None:
    person = Person(tmp_path)
    words = ["a", "brown", "dog", "far", "fox", "here", "jumps", "lazy", "over", "quick", "runs", "the"]
    rng = random.Random(0)
    (person.at / "text.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=60)) for _ in range(1000)))
    person.types("init", "lm", "--profile", "cpu", "--dataset", "text.txt")
    person.at /= "lm"
    settings = person.at / "autoexp.toml"
    text = settings.read_text()
    assert "standby = false" in text  # on a CPU it would take cores from the training that runs
    settings.write_text(text.replace("standby = false", "standby = true").replace("= 20 ", "= 1 "))
    person.types("prepare")
    person.types("start", "--run-id", "r", "--loops", "1", "--no-background-train", AUTOEXP_THREADS="1")

    for number in range(2):
        attempt = person.run_folder() / "iterations" / f"{number:04d}" / "attempt-1"
        ending, report = (json.loads((attempt / f"{name}.json").read_text()) for name in ("exit", "report"))
        assert (ending["status"], ending["code"], report["status"]) == ("exited", 0, "trained")
        assert ("stood_by_seconds" in ending) == (number > 0)
        assert report["budget_seconds"] == 1 and report["source_hash"]
        assert 0 < report["startup_seconds"] < report["total_seconds"] <= ending["wall_seconds"] + 1
    assert not leftovers(tmp_path)
