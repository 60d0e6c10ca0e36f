"""Our side: the prepared text, train.py as it is or with the reference's constants, and what its report says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexp.model import profiles
from autoexp.model.climbmix import VAL_SHARD, shard_name
from autoexp.model.prepared import Prepared, read_prepared
from autoexp.model.profiles import Profile

from .jobs import Done, JobFailed
from .reference import cache_places, clean_environment

SOURCE = Path(profiles.__file__).parents[2]
MODEL = Path(profiles.__file__).parent

# The reference's recipe in the words of our train.py. The first ones make the architecture and the work of a step.
ARCHITECTURE = {
    "DEPTH": "8",
    "ASPECT_RATIO": "64",
    "HEAD_DIM": "128",
    "MLP_RATIO": "4",
    "WINDOW_PATTERN": '"SSSL"',
    "SHORT_WINDOW_DIVISOR": "2",
    "SOFTCAP": "15.0",
    "TOTAL_BATCH_SIZE": "2**19",
    "DEVICE_BATCH_SIZE": "128",
}
# The rest is set where train.py has it: a later one may have more knobs or fewer.
RECIPE = {
    "ROPE_BASE": "10_000.0",
    "QK_SCALE": "1.0",
    "INIT_SCALE": "1.0",
    "X0_LAMBDA_INIT": "0.1",
    "VALUE_EVERY": "2",
    "VALUE_GATE": "2.0",
    "GATE_CHANNELS": "32",
    "NGRAMS": "1",
    "EMBEDDING_DROPOUT": "0.0",
    "START_BATCH": "1.0",
    "MATRIX_LR": "0.04",
    "EMBEDDING_LR": "0.6",
    "UNEMBEDDING_LR": "0.004",
    "SCALAR_LR": "0.5",
    "WEIGHT_DECAY": "0.2",
    "EMBEDDING_WEIGHT_DECAY": "0.0",
    "VALUE_WEIGHT_DECAY": "0.0",
    "HEAD_WEIGHT_DECAY": "0.0",
    "ADAM_BETA1": "0.8",
    "ADAM_BETA2": "0.95",
    "MUON_MOMENTUM": "0.95",
    "FINAL_MOMENTUM": "0.95",
    "ATTENTION_GATE": "False",
    "SKIPS": "False",
    "MUON_BETA2": "0.95",
    "GRAD_CLIP": "0.0",
    "WARMUP_RATIO": "0.0",
    "WARMDOWN_RATIO": "0.5",
    "FINAL_LR_FRAC": "0.0",
    "MOMENTUM_RAMP_STEPS": "300",
}
# What these make meaningless.
SILENT = {"PROFILE", "NGRAM_ROWS", "NGRAM_LR", "NGRAM_DROPOUT", "START_UNTIL"}


class NoData(Exception):
    """Our side could not be prepared."""


def find_shards(folder: Path) -> list[Path]:
    """The shards of `folder`, training ones first and numbered from 0 without a gap, then the validation one."""
    training: list[Path] = []
    while (path := folder / shard_name(len(training))).is_file():
        training.append(path.absolute())
    validation = folder / shard_name(VAL_SHARD)
    if not training or not validation.is_file():
        raise NoData(f"{folder} has no {shard_name(0)} or no {validation.name}")
    return [*training, validation.absolute()]


def prepare(shards: list[Path], out: Path, profile: Profile) -> Prepared:
    """Our folder of packed rows made from `shards`, bytes counted as the reference does. Quick if it is there."""
    cache = out / "cache"
    links = cache / "climbmix"
    links.mkdir(parents=True, exist_ok=True)
    for path in links.iterdir():
        path.unlink()
    for shard in shards:
        (links / shard.name).symlink_to(shard)
    command = [sys.executable, "-m", "autoexp.model.prepare", "--dataset", "climbmix", "--profile", profile.name]
    command += ["--shards", str(len(shards) - 1), "--cache", str(cache), "--reference-token-bytes", "--json"]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise NoData(f"the preparation ended with code {done.returncode}")
    data = read_prepared(Path(json.loads(done.stdout.splitlines()[-1])["data_dir"]))
    assert data is not None
    return data


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command of our side: nothing of ours but what is given and what is kept on purpose."""
    return {**clean_environment(), "PYTHONPATH": str(SOURCE), **changes}


@dataclass(frozen=True)
class Recipe:
    """A train.py laid out to be run again and again."""

    name: str
    folder: Path
    text: str

    def source_hash(self) -> str:
        """A digest of all that may change a result of ours: this train.py and the package's model."""
        digest = hashlib.sha256(self.text.encode())
        for path in sorted(MODEL.rglob("*.py")):
            if path.name != "train.py":
                digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def unknown_constants(text: str) -> list[str]:
    """Constants of a train.py that this file does not know: they might make another model than the reference's."""
    return sorted(profiles.constants_of(text).keys() - ARCHITECTURE.keys() - RECIPE.keys() - SILENT)


def recipe(name: str, root: Path, profile: Profile, like_reference: bool) -> Recipe:
    """The default train.py of `profile`, or the same with the reference's constants."""
    text = profiles.render(profile)
    if like_reference:
        there = profiles.constants_of(text)
        values = {**ARCHITECTURE, **{key: value for key, value in RECIPE.items() if key in there}}
        text = profiles.with_constants(text, values)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(text, encoding="utf-8")
    return Recipe(name, folder, text)


def training_environment(
    data: Prepared, report: Path, caches: Path, budget: float, seed: int, cpu: bool, more: Mapping[str, str]
) -> dict[str, str]:
    """What a training of ours is started with."""
    settings = {
        "AUTOEXP_DATA": str(data.folder),
        "AUTOEXP_REPORT": str(report),
        "AUTOEXP_CACHE": str(caches / "autoexp"),
        "AUTOEXP_BUDGET_SECONDS": f"{budget:g}",
        "AUTOEXP_SEED": str(seed),
        **cache_places(caches),
        **more,
    }
    if cpu:
        settings |= {"AUTOEXP_DEVICE": "cpu", "AUTOEXP_THREADS": "1"}
    return environment(**settings)


KEYS = (
    "val_bpb",
    "tokens_per_second",
    "num_steps",
    "total_tokens",
    "training_seconds",
    "startup_seconds",
    "eval_seconds",
    "mfu_percent",
    "peak_memory_mb",
    "num_params",
    "attention",
    "seed",
)


def collect(done: Done, report: Path, budget: float) -> dict[str, Any]:
    """The figures of one training from its report, and its wall time from outside."""
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobFailed(f"no report: {error}") from None
    if found.get("status") != "ok":
        raise JobFailed(f"it failed: {found.get('reason')}")
    wall = {"wall_seconds": done.wall_seconds, "beyond_budget_seconds": done.wall_seconds - budget}
    return {**{key: found.get(key) for key in KEYS}, **wall}


def collect_profile(folder: Path) -> dict[str, Any]:
    """profile.json of a training that was asked for one."""
    try:
        found: dict[str, Any] = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobFailed(f"the training wrote no profile: {error}") from None
    return found
