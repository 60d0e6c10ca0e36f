"""Candidates that want a better number without a better model, and ones that take more than their budget."""

from __future__ import annotations

import pytest

from autoexp.runs import fairness

from .conftest import FINISH, Stage

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
