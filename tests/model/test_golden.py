"""Twenty steps of the real train.py, loss by loss: what must not change unless it is meant to.

On the CPU a repetition gives the same bits. Another processor or another torch rounds differently, so the kept curve
is compared to a tolerance; and so is the one of a GPU, where sums are made in any order. A change of the recipe, the
data's order or the initial weights changes the curves: then `RECORD_GOLDEN=1 pytest tests/model/test_golden.py` writes
new ones, on a machine of each kind.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from autoexp.model import profiles
from autoexp.model.clock import TrainingClock
from autoexp.model.observer import Observer, Step
from autoexp.model.trial import Trial

from .conftest import load_module

STEPS = 20
GOLDEN = Path(__file__).with_name("golden")
# The h100 file on a small model, so that it trains on the tests' data.
SMALL = {"PROFILE": '"cpu"', "DEPTH": "4", "ASPECT_RATIO": "64", "TOTAL_BATCH_SIZE": "2**12", "DEVICE_BATCH_SIZE": "64"}


def curve(
    folder: Path, data: Path, text: str, device: str, monkeypatch: pytest.MonkeyPatch, seed: int = 5
) -> dict[str, Any]:
    """The losses of a training of STEPS steps, and what its evaluation gave. A second is a step to its clock."""
    folder.mkdir()
    (folder / "train.py").write_text(text)
    train: ModuleType = load_module(folder / "train.py")
    steps = [0]
    original = train.MuonAdamW.step

    def counted(optimizer: Any) -> None:
        original(optimizer)
        steps[0] += 1

    losses: list[float] = []
    told = Observer.step

    def heard(observer: Observer, phase: str, step: Step, loss: float, epoch: int) -> None:
        if phase == "train":
            losses.append(loss)
        told(observer, phase, step, loss, epoch)

    environ = {
        "AUTOEXP_DATA": str(data),
        "AUTOEXP_REPORT": str(folder / "report.json"),
        "AUTOEXP_SEED": str(seed),
        "AUTOEXP_DEVICE": device,
        "AUTOEXP_THREADS": "1",
        "AUTOEXP_CACHE": str(folder / "cache"),
    }
    clock = TrainingClock(STEPS, now=lambda: float(steps[0]))
    with monkeypatch.context() as patch:
        patch.setattr(train.MuonAdamW, "step", counted)
        patch.setattr(Observer, "step", heard)
        patch.setattr(train, "Trial", functools.partial(Trial, environ=environ, clock=clock))
        train.main()
    report = json.loads((folder / "report.json").read_text())
    assert len(losses) == STEPS == report["num_steps"]
    return {"losses": losses, "val_bpb": report["val_bpb"]}


def compare(name: str, got: dict[str, Any], tolerance: float) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("RECORD_GOLDEN"):
        path.write_text(json.dumps(got, indent=1) + "\n")
    assert path.exists(), f"there is no {path.name} yet: RECORD_GOLDEN=1 pytest {__file__}"
    kept = json.loads(path.read_text())
    assert got["losses"] == pytest.approx(kept["losses"], rel=tolerance)
    assert got["val_bpb"] == pytest.approx(kept["val_bpb"], rel=tolerance)


def test_on_the_cpu(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = profiles.render(profiles.CPU)
    first, second = (curve(tmp_path / name, tiny_data, text, "cpu", monkeypatch) for name in ("a", "b"))
    assert first == second  # to the last bit
    assert first["losses"][-1] < first["losses"][0] - 0.5
    other = curve(tmp_path / "c", tiny_data, text, "cpu", monkeypatch, seed=6)
    assert other != first
    compare("cpu", first, 2e-3)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_the_gpu(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = profiles.with_constants(profiles.render(profiles.H100), SMALL)
    # The cpu profile's data; its device is named, so it trains on the GPU.
    compare("cuda", curve(tmp_path / "a", tiny_data, text, "cuda", monkeypatch), 2e-2)
