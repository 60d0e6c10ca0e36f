"""report.json: its keys are those of its page, and the facts about what ran."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import autoexp
from autoexp.model import report
from autoexp.model.report import KEYS, save_checkpoint, source_hash, versions, whole
from autoexp.model.telemetry import REASONS, Telemetry

from .conftest import command, write_train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "report.md"


def keys(text: str) -> list[str]:
    """The keys that the tables of a text are about."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def section(title: str) -> str:
    return PAGE.read_text().partition(f"### {title}\n")[2].partition("\n### ")[0]


def test_the_page_has_every_key_once_and_in_order() -> None:
    assert keys(PAGE.read_text().partition("\n### ")[0]) == list(KEYS)


def test_the_page_has_every_key_of_the_telemetry() -> None:
    def none() -> None:
        raise RuntimeError("no GPU")

    telemetry = Telemetry(none)  # type: ignore[arg-type]
    telemetry.stop()
    assert keys(section("telemetry")) == list(telemetry.report())
    assert [name for name in REASONS.values() if f"`{name}`" not in section("telemetry")] == []


def test_the_page_has_every_version() -> None:
    assert keys(section("versions")) == list(versions())


def test_a_real_report_has_no_key_that_the_page_lacks(tiny_data: Path, tmp_path: Path) -> None:
    write_train(tmp_path / "train.py")
    run = command(
        *("train.py",),
        cwd=tmp_path,
        AUTOEXP_DATA=tiny_data,
        AUTOEXP_REPORT=tmp_path / "report.json",
        AUTOEXP_BUDGET_SECONDS="0.5",
    )
    assert run.returncode == 0, run.stderr
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["status"] == "ok" and set(written) <= set(KEYS)
    if "source_hash" in written:
        assert written["source_hash"] == hashlib.sha256((tmp_path / "train.py").read_bytes()).hexdigest()


# -- facts ------------------------------------------------------------------------------------------------------------


def test_the_versions_are_those_of_this_process() -> None:
    said = versions()

    assert (said["autoexp"], said["torch"], said["numpy"]) == (autoexp.__version__, torch.__version__, np.__version__)
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert said["cuda"] == torch.version.cuda and said["rocm"] == torch.version.hip
    assert report.installed("numpy") == np.__version__ and report.installed("no-such-package-as-this") is None
    assert json.loads(json.dumps(said)) == said


def test_libraries_that_do_not_fit_together_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("cuDNN version incompatibility")

    monkeypatch.setattr(torch.backends.cudnn, "version", fail)
    assert versions()["cudnn"] is None


def test_the_hash_of_the_source(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("from autoexp.model.report import source_hash\nprint(source_hash())\n")
    digest = hashlib.sha256(script.read_bytes()).hexdigest()

    assert source_hash(script) == digest
    assert source_hash(tmp_path / "gone") is None
    assert command("train.py", cwd=tmp_path).stdout == digest + "\n"
    assert command("-c", "from autoexp.model.report import source_hash; print(source_hash())").stdout == "None\n"


def test_a_whole_report_has_every_key_in_order_and_loses_none() -> None:
    said = whole({"extra": 1, "val_bpb": 0.9, "status": "ok"})

    assert list(said) == [*KEYS, "extra"]
    assert (said["status"], said["val_bpb"], said["reason"], said["extra"]) == ("ok", 0.9, None, 1)


def test_weights_that_find_no_space_say_so_and_leave_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(small_disk / "checkpoint.pt", torch.nn.Linear(400, 400), {})
    assert not list(small_disk.iterdir())
