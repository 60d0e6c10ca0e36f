"""The judge and its examinees, in real processes: honest models, and those that cheat in the model's code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoexp.model.devices import open_device
from autoexp.model.evaluate import evaluate
from autoexp.model.examination import CHANGED, PLACES, prepared_examination
from autoexp.model.prepared import Prepared, read_prepared
from autoexp.model.report import save_checkpoint
from autoexp.model.scoring import OnCpu, OnGpu, evaluated_rows
from autoexp.model.sharing import Sheet, nameless

from .conftest import environment, load_module, write_train

HEAD = "        return SOFTCAP * torch.tanh(self.head(self.hidden(ids)).float() / SOFTCAP)\n"
HONEST = f"        out = {HEAD.strip().removeprefix('return ')}\n"


def answers(*lines: str, top: str = "") -> tuple[str, str]:
    """What a `logits` that adds these lines to the honest one's is written as, and what stands before the class."""
    return HONEST + "".join(f"        {line}\n" for line in lines) + "        return out\n", top


class Lab:
    """A model that has learned a little, its checkpoint, and what the trainer itself says of it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        torch.manual_seed(3)
        train: Any = load_module(write_train(folder / "train.py"))
        prepared = read_prepared(data)
        assert prepared is not None
        self.prepared: Prepared = prepared
        model = train.build_model(prepared.vocab_size, prepared.seq_len, torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.eval()
        self.checkpoint = folder / "checkpoint.pt"
        save_checkpoint(self.checkpoint, model, {})
        device = open_device({"AUTOEXP_DEVICE": "cpu", "AUTOEXP_THREADS": "1"})
        with torch.no_grad():
            self.bpb = evaluate(model, prepared, device, 8)

    def judged(self, cheat: tuple[str, str] | None = None, seconds: float = 60.0, **changes: Any) -> dict[str, Any]:
        """What the judge says of the checkpoint with another `logits`."""
        place = Path(changes.pop("folder", self.folder / "program"))
        place.mkdir(exist_ok=True)

        def edit(text: str) -> str:
            assert text.count(HEAD) == 1
            logits, top = cheat or (HEAD, "")
            return text.replace(HEAD, logits).replace("\nclass GPT(", f"\n{top}\n\nclass GPT(")

        write_train(place / "train.py", edit)
        env = environment(AUTOEXP_DATA=changes.pop("data", self.data))
        task = {
            "program": "train.py",
            "folder": str(place),
            "examinees": [[sys.executable, "-P", "-m", "autoexp.model.examinee"]] * 2,
            "env": {name: text for name, text in env.items() if name != "AUTOEXP_DATA"},
            "profile": "cpu",
            "splits": ["val"],
            "checkpoint": str(self.checkpoint),
            "seconds": seconds,
            **changes,
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", "autoexp.model.judge"],
            input=json.dumps(task) + "\ngo\n",
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), tiny_data)


def test_an_honest_model_gets_the_number_that_its_trainer_would_give_it(lab: Lab) -> None:
    said = lab.judged()
    assert said["status"] == "ok", said
    assert said["metrics"]["val_bpb"] == pytest.approx(lab.bpb, abs=1e-6)
    assert said["tokens"] == lab.prepared.eval_rows * lab.prepared.seq_len
    assert said["checks"]["compared"] == lab.prepared.eval_rows and said["checks"]["apart"] < 1e-5
    assert all(len(said[name]) == 64 for name in ("checkpoint", "harness"))
    assert set(said["data"]) == {"prepared", "tokenizer", "token_bytes", "val"}


SEES = "the model sees tokens it is to predict"
DEPENDS = "depends on other rows"
CHEATS = {
    "adds to the next token": (
        answers("return out.scatter_add(2, ids.roll(-1, 1)[..., None], torch.full_like(out[..., :1], 0.5))"),
        SEES,
    ),
    "adds so little that no single pair tells": (
        answers("return out.scatter_add(2, ids.roll(-1, 1)[..., None], torch.full_like(out[..., :1], 2e-4))"),
        SEES,
    ),
    "normalises over the places": (answers("out = torch.log_softmax(out, dim=1)"), SEES),
    "sees the next token, and answers what it has seen before as it did then": (
        answers(
            "for row, seen in enumerate(ids.tolist()):",
            "    first = next((old for old in ROWS if old[:12] == seen[:12]), None)",
            "    if first is None: ROWS.append(first := seen)",
            "    for place, token in enumerate(first[1:]):",
            "        if seen[: place + 1] != first[: place + 1]: break",
            "        out[row, place, token] += 0.5",
            top="ROWS = []",
        ),
        SEES,
    ),
    "sees the next token, and tells the other by what it prints that it was asked": (
        answers(
            "import hashlib, os",
            "size = os.fstat(2).st_size",
            "os.write(2, b'.' * len(ids))",
            "MINE[0] += len(ids)",
            "out = out.scatter_add(2, ids.roll(-1, 1)[..., None], torch.full_like(out[..., :1], 0.5))",
            "if size > MINE[0] - len(ids): out = out.detach() * 0 + float('nan')",
            top="MINE = [0]",
        ),
        SEES,
    ),
    "looks at its neighbours": (answers("out = out - 0.01 * out.flip(0)"), DEPENDS),
    "learns from the rows it was asked before": (
        answers("out = out + 0.1 * COUNTS", "COUNTS.scatter_add_(0, ids.flatten(), torch.ones(ids.numel()))",
                top="COUNTS = torch.zeros(300)"),
        DEPENDS,
    ),
    "gives NaN": (answers("out[0, 0, 0] = float('nan')"), "not all finite"),
    "gives infinity": (answers("out[..., 7] = float('-inf')"), "not all finite"),
    "has another vocabulary": (answers("out = torch.cat([out, out[..., :1]], -1)"), "where (8, 32, 300) was asked for"),
    "gives nothing": (answers("return None"), "gave NoneType"),
    "ends when it is imported": (answers(top="import os; os._exit(0)"), "the model's process ended (exit code 0)"),
    "raises when it is imported": (answers(top="raise SystemExit('no')"), "the model failed: SystemExit: no"),
    "prints garbage into every pipe": (
        answers("import os", "for n in range(3, 30):", "    try: os.write(n, b'[' * 9999)", "    except OSError: pass"),
        "the model's process",
    ),
    "says that it is done, and answers nothing": (
        answers(top="import sys; sys.modules['__main__'].Asked.answer = lambda self, rows: None"),
        "not all finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_caught(lab: Lab, tmp_path: Path, cheat: str) -> None:
    said = lab.judged(CHEATS[cheat][0], folder=tmp_path / "program")
    found_out = CHEATS[cheat][1] in (SEES, DEPENDS)
    assert said["status"] == ("refused" if found_out else "failed") and "metrics" not in said, said
    assert CHEATS[cheat][1] in said["reason"]


def test_one_that_never_answers_is_not_waited_for(lab: Lab, tmp_path: Path) -> None:
    sleeps = answers("import time; time.sleep(600)")
    said = lab.judged(sleeps, seconds=15, folder=tmp_path / "program")
    assert (said["status"], said["reason"]) == ("failed", "the model did not answer in time")


def test_what_is_patched_in_memory_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """The judge shares no memory with the candidate but that of ids and logits."""
    patches = (
        "import math, sys, numpy as np, autoexp.model.scoring as scoring\n"
        "nn.functional.cross_entropy = lambda *a, **k: torch.zeros(())\n"
        "np.exp = np.log = lambda x, *a, **k: x * 0\n"
        "scoring.bits_per_byte = lambda *a: 0.1\n"
        'print(\'val_bpb: 0.1\'); print(\'{"status": "ok", "metrics": {"val_bpb": 0.1}}\', file=sys.stderr)\n'
        "GPT_forward = lambda self, inputs, targets: torch.zeros(targets.shape)\n"
    )
    said = lab.judged(answers(top=patches), folder=tmp_path / "program")
    assert said["status"] == "ok", said
    assert said["metrics"]["val_bpb"] == pytest.approx(lab.bpb, abs=1e-6)


def test_logits_too_large_for_rounding_gain_nothing(lab: Lab, tmp_path: Path) -> None:
    said = lab.judged(answers("out = torch.full_like(out, 1e9)"), folder=tmp_path / "program")
    assert said["status"] == "ok", said
    lengths = lab.prepared.token_bytes()[lab.prepared.rows("val")[evaluated_rows(lab.prepared, "val"), 1:]]
    uniform = (lengths > 0).sum() * np.log2(lab.prepared.vocab_size) / lengths.sum()
    assert said["metrics"]["val_bpb"] == pytest.approx(uniform, abs=1e-5)


def test_a_checkpoint_that_is_none_is_told(lab: Lab, tmp_path: Path) -> None:
    link = tmp_path / "link.pt"
    link.symlink_to(lab.checkpoint)
    for checkpoint in (tmp_path / "none.pt", link, tmp_path):
        said = lab.judged(checkpoint=str(checkpoint))
        assert said["status"] == "failed" and said["reason"].startswith("there is no checkpoint"), said
    code = tmp_path / "code.pt"
    code.write_bytes(b"cbuiltins\nexit\n(I7\ntR.")  # a pickle that runs something
    said = lab.judged(checkpoint=str(code))
    assert said["status"] == "failed" and said["reason"].startswith("the model failed"), said


def test_rows_that_are_not_those_that_were_prepared_are_told_and_not_judged_by(lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(lab.data, data)
    rows = bytearray((data / "val.rows").read_bytes())
    rows[2] ^= 1  # one token of the first row
    (data / "val.rows").write_bytes(rows)
    said = lab.judged(data=data)
    assert said["status"] == "failed" and said["reason"] == f"{data / 'val.rows'} is not what was prepared"


def test_without_go_it_ends_and_judges_nothing(lab: Lab, tiny_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "autoexp.model.judge"],
        input=b"",
        env=environment(AUTOEXP_DATA=tiny_data),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"")


# --- what it asks, and how it counts --------------------------------------------------------------------------------


def test_two_are_asked_of_which_neither_knows_what_is_asked_twice(lab: Lab) -> None:
    plans = [prepared_examination(lab.prepared, ["val"], np.random.default_rng(seed)) for seed in (1, 1, 2)]
    numbers = [[question.row for question in plan.questions[0]] for plan in plans]
    assert numbers[0] == numbers[1] != numbers[2]
    for plan in plans:
        both = [question for part in plan.questions for question in part]
        scored = [question for question in both if question.targets is not None]
        again = [question for question in both if question.targets is None]
        assert sorted(question.row for question in scored) == list(range(lab.prepared.eval_rows))
        assert len(again) == lab.prepared.eval_rows, "all, where they are few"
        assert 0 < sum(q.probe is not None and q.probe.target >= 0 for q in again) < len(again)
        for question in again:
            first = next(other for other in scored if other.row == question.row)
            probe = question.probe
            assert probe is not None and probe is first.probe and len(probe.places) <= PLACES
            part = next(number for number in (0, 1) if any(q is question for q in plan.questions[number]))
            assert not any(q is first for q in plan.questions[part]), "the other one is asked"
            assert (question.ids[: probe.cut] == first.ids[: probe.cut]).all() and (probe.places < probe.cut).all()
            if probe.target >= 0:
                assert question.ids[probe.cut] != first.ids[probe.cut] == probe.target
                assert first.targets is not None and first.targets[probe.places[0]] == probe.target
    assert 0 < CHANGED < 1


def test_numpy_and_torch_count_alike() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((3, 5, 11)) * 9).astype(np.float32)
    targets = rng.integers(11, size=(3, 5))
    places = np.array([4, 0])
    one, other = OnCpu(logits), OnGpu(torch.from_numpy(logits))
    assert one.losses(targets) == pytest.approx(other.losses(targets), abs=1e-5)
    assert one.log_probabilities(1, places) == pytest.approx(other.log_probabilities(1, places), abs=1e-5)
    assert one.finite() and other.finite()
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = logits.copy()
        spoilt[2, 4, 10] = bad
        assert not OnCpu(spoilt).finite() and not OnGpu(torch.from_numpy(spoilt)).finite()
    spoilt[2, 4, 9] = np.inf  # the sum of both is NaN
    assert not OnCpu(spoilt).finite()


@pytest.mark.parametrize("answer", [OnCpu, lambda logits: OnGpu(torch.from_numpy(logits))], ids=["numpy", "torch"])
@pytest.mark.parametrize("offset", [-3e38, -1e9, -1e6, 1e6, 1e9, 3e38])
def test_a_distribution_costs_what_it_costs_however_large_its_logits_are(answer: Any, offset: float) -> None:
    """What is added to all logits of a place changes no probability, and must not be lost to rounding either."""
    asked = answer(np.full((1, 2, 256), offset, np.float32))
    assert asked.finite()
    assert asked.losses(np.array([[3, 200]])) == pytest.approx(np.log(256), abs=1e-5)
    assert np.exp(asked.log_probabilities(0, np.array([0, 1]))).sum(-1) == pytest.approx(1.0, abs=1e-4)


def test_shared_memory_has_a_size_that_nobody_changes() -> None:
    import os

    descriptor = nameless()
    sheet = Sheet(descriptor, 2, 3, 4)
    sheet.ids[:] = 7
    sheet.logits[:] = 0.5
    other = Sheet(descriptor, 2, 3, 4)
    assert (other.ids == 7).all() and other.logits.shape == (2, 3, 4) and (other.logits == 0.5).all()
    if sys.platform == "linux":
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
    os.close(descriptor)
