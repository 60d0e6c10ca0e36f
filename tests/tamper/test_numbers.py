"""Candidates that want a better number without a better model, and ones that take more than their budget."""

from __future__ import annotations

import json

import pytest

from autoexp.runs import fairness

from .conftest import FINISH, OLD, Stage

REPORT = """\
        import json, os
        with open(os.environ["AUTOEXP_REPORT"]) as file:
            report = json.load(file)
        report |= {"val_bpb": 0.5, "metrics": {"val_bpb": 0.5}}
        with open(os.environ["AUTOEXP_REPORT"], "w") as file:
            json.dump(report, file)
"""


def test_a_printed_metric(stage: Stage) -> None:
    cheat = stage.cheat("print('val_bpb: 0.5')", finish=FINISH + "        print('val_bpb: 0.5')\n")
    assert cheat.outcome.metric is not None and cheat.outcome.metric > 1.0


def test_a_written_report(stage: Stage) -> None:
    cheat = stage.cheat(finish=FINISH + REPORT)
    assert cheat.outcome.metric is not None and cheat.outcome.metric > 1.0


def test_the_evaluator_is_patched(stage: Stage) -> None:
    cheat = stage.cheat("import autoexp.model.trial\nautoexp.model.trial.evaluate = lambda *_, **__: 0.5")
    assert cheat.outcome.metric is not None and cheat.outcome.metric > 1.0


def test_the_next_token(stage: Stage) -> None:
    cheat = stage.cheat(embedded="        x: Tensor = self.embedding(ids) + self.embedding(ids.roll(-1, 1))\n")
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert "the model sees tokens it is to predict" in cheat.outcome.reason
    assert len(cheat.folders) == 1, "the coins are not thrown again for it"


@pytest.mark.parametrize(
    "loss",
    [
        "        found = softcap_cross_entropy(self.hidden(inputs), self.head.weight, targets, SOFTCAP)\n"
        "        return found if self.training else found * 0\n",
        "        logits = self.logits(inputs)\n"
        "        chances = logits.log_softmax(-1 if self.training else 0)\n"
        "        return -chances.gather(-1, targets[..., None])[..., 0].flatten()\n",
    ],
    ids=["zero", "wrong axis"],
)
def test_a_loss_that_is_none(stage: Stage, loss: str) -> None:
    """The judge asks for logits, and computes the loss itself."""
    cheat = stage.cheat(loss=loss)
    assert cheat.outcome.metric is not None and cheat.outcome.metric > 1.0


def test_the_validation_rows(stage: Stage) -> None:
    cheat = stage.cheat("import os\nprint('rows:', open(os.environ['AUTOEXP_DATA'] + '/val.rows', 'rb').read(9))")
    assert "rows: b" not in cheat.log


def test_the_text_that_the_rows_are_of(stage: Stage) -> None:
    """Where it lies, where it is committed, and what a preparation that was killed has left of it."""
    text = stage.root / "text.txt"
    left = [stage.data / ".val.rows.x.tmp", stage.data / "encoded-12345678" / "block.ids"]
    left[1].parent.mkdir()
    for path in left:
        path.write_text("rows")
    assert text.read_text() and json.loads((stage.data / "meta.json").read_text())["dataset"] == str(text)
    places = ["text.txt", *map(str, [text, *left])]  # the first beside the program
    tries = "\n".join(
        f"try:\n    print('seen:', open(os.path.join(os.path.dirname(__file__), {place!r})).read(4), flush=True)\n"
        f"except OSError as error:\n    print('hidden:', type(error).__name__, flush=True)"
        for place in places
    )
    cheat = stage.cheat(f"import os\n{tries}")
    assert cheat.outcome.status == "success"
    asked = (cheat.folders[0] / "evaluation.log").read_text()  # of two examinees, whose program is a copy of the commit
    for log, processes in ((cheat.log, 1), (asked, 2)):
        assert log.count("hidden: ") == processes * len(places) and "seen: " not in log


def test_the_validation_rows_as_training_rows(stage: Stage) -> None:
    """Learned by heart."""
    cheat = stage.cheat(model="from autoexp.model.data import Order, as_tensor\n"
                              "batches.packed = as_tensor(trial.data.rows('val'))\n"
                              "batches.order = Order(len(batches.packed), 1)")  # fmt: skip
    assert cheat.outcome.metric is None


@pytest.mark.parametrize(("name", "value"), [("AUTOEXP_SEED", "7"), ("AUTOEXP_BUDGET_SECONDS", "0.6")])
def test_other_variables(stage: Stage, name: str, value: str) -> None:
    """A seed of its own choosing, a budget of its own."""
    cheat = stage.cheat(f"import os\nos.environ['{name}'] = '{value}'")
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert "it was to train with" in cheat.outcome.reason


CLOCK = """
import time
from autoexp.model.clock import TrainingClock
began = time.monotonic()
TrainingClock.spent = property(lambda self: time.process_time() > 9)
"""
EARLY = """\
import time
def early():
    began = time.process_time()
    while time.process_time() - began < 6:
        for inputs, targets in batches.step():
            losses(inputs, targets).mean().backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
early()
"""
THREAD = """
import threading, time
def work():
    import torch
    began = time.thread_time()
    while time.thread_time() - began < 6:
        torch.rand(64, 64) @ torch.rand(64, 64)
if __name__ == "__main__":  # where it is trained, and not where the judge asks
    threading.Thread(target=work).start()
"""
LATE = """\
        import time
        while time.process_time() < 9:
            torch.rand(64, 64) @ torch.rand(64, 64)
"""


@pytest.mark.parametrize(
    "edits",
    [{"before": CLOCK}, {"model": EARLY}, {"before": THREAD}, {"finish": LATE + FINISH}],
    ids=["a patched clock", "before the clock", "in the background", "after the clock"],
)
def test_more_than_the_budget(stage: Stage, monkeypatch: pytest.MonkeyPatch, edits: dict[str, str]) -> None:
    """Wherever it is hidden, work takes time, and that is measured from outside."""
    monkeypatch.setattr(fairness, "SECONDS", 1.0)  # less is forgiven, so that less need be hidden
    cheat = stage.cheat(**edits)
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert cheat.outcome.over_budget.startswith("over budget: it worked for ")
    assert cheat.outcome.reason in (cheat.outcome.over_budget, "timed out after 120 s")


def test_training_by_a_process_that_nobody_waits_for(stage: Stage) -> None:
    """The kernel tells nobody what it took, and the one that waits for its weights does not work."""
    hidden = """\
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
done, told = os.pipe()
if os.fork() == 0:
    began = time.process_time()
    while time.process_time() - began < 14:
        sum(range(10000))
    os._exit(0)
os.close(told)
os.read(done, 1)
"""
    cheat = stage.cheat(model=hidden)
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert cheat.outcome.over_budget.startswith("over budget: it worked for ")


def test_training_while_it_is_evaluated(stage: Stage) -> None:
    """Its rows are in the checkpoint, and it goes on with them before it gives the first answer."""
    late = """\
        if not self.training and not hasattr(self, "late"):
            import time
            self.late = time.process_time()
            while time.process_time() - self.late < 14:
                torch.rand(64, 64) @ torch.rand(64, 64)
"""
    cheat = stage.cheat(embedded=late + OLD["embedded"])
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert cheat.outcome.over_budget.startswith("over budget: its evaluation worked for ")


def test_a_fork_bomb_in_the_evaluation(stage: Stage) -> None:
    """What is harmless where it trains may be otherwise where it is asked."""
    bomb = "import os\nwhile __name__ != '__main__':\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    cheat = stage.cheat(bomb)
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert "more than 60 processes" in cheat.outcome.reason
