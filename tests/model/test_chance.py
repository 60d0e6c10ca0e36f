"""A seed written in the program has no effect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """\
import random
import numpy as np
import torch
from autoexp.model import Trial

SEEDS = {seeds}

trial = Trial("cpu")
if SEEDS:
    torch.manual_seed(3)
    torch.random.manual_seed(3)
    torch.cuda.manual_seed_all(3)
    random.seed(3)
    np.random.seed(3)
print("drawn", torch.rand(1).item(), random.random(), np.random.rand())
print("forked", torch.rand(1, generator=torch.Generator().manual_seed(5)).item())
"""


def drawn(folder: Path, data: Path, seeds: bool, seed: int) -> tuple[list[str], str]:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(PROGRAM.format(seeds=seeds))
    env = {
        **os.environ,
        "AUTOEXP_DATA": str(data),
        "AUTOEXP_REPORT": str(folder / "report.json"),
        "AUTOEXP_SEED": str(seed),
    }
    done = subprocess.run([sys.executable, "train.py"], cwd=folder, env=env, capture_output=True, text=True, check=True)
    return [
        line for line in done.stdout.splitlines() if line.startswith(("drawn", "forked"))
    ], done.stdout + done.stderr


def test_a_seed_written_in_the_program_has_no_effect_and_is_told(tiny_data: Path, tmp_path: Path) -> None:
    plain, said = drawn(tmp_path / "a", tiny_data, False, 7)
    seeded, warned = drawn(tmp_path / "b", tiny_data, True, 7)
    other, _ = drawn(tmp_path / "c", tiny_data, True, 8)

    assert plain == seeded
    assert plain[0] != other[0] and plain[1] == other[1]
    assert "passed over: seeds are the run's (AUTOEXP_SEED)" in warned and "passed over" not in said
    assert warned.count("passed over") == 1
