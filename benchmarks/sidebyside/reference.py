"""The other side: karpathy/autoresearch from a checkout, on our text and tokenizer, with its own code.

Its train.py and prepare.py are copied as they are (but for the line TIME_BUDGET, where another budget is asked for) and
run in a home folder of their own, whose cache holds links to the shards and the tokenizer that our side trained.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexp.model.prepared import TOKENIZER, Prepared
from autoexp.model.tokenizer import Tokenizer

from .jobs import Done, JobFailed

REVISIONS = {"reference": ("master", "origin/master", "HEAD"), "mar8": ("origin/exp/H100/mar8", "exp/H100/mar8")}
FILES = ("train.py", "prepare.py")
BUDGET = 300  # seconds, of its prepare.py
UNTIMED_STEPS = 11  # its first ones do not count in its training time
WINDOWS = "2048,1024,256"  # of the two recipes; the shim prepares them before anything is compiled
IMPORTED = ("requests", "rustbpe")  # by its prepare.py, for the download and the training of a tokenizer only
FLASH3 = """
import torch
from kernels import get_kernel
hopper = torch.cuda.get_device_capability() == (9, 0)
repository = "varunneal/flash-attention-3" if hopper else "kernels-community/flash-attn3"
get_kernel(repository).flash_attn_interface.flash_attn_func
"""


class NoReference(Exception):
    """The path is no checkout of the reference."""


def source_of(path: Path, name: str) -> dict[str, bytes] | None:
    """train.py and prepare.py of the recipe `name`, from the git objects of `path`, bare or not; else from its files.

    None if the checkout does not have that recipe (a branch). Raises NoReference if it is none at all.
    """
    for git_dir in (path / ".git", path):
        for revision in REVISIONS[name]:
            found = {file: show(git_dir, revision, file) for file in FILES}
            whole = {file: text for file, text in found.items() if text is not None}
            if len(whole) == len(FILES):
                return whole
    if name != "reference":
        return None
    try:
        return {file: (path / file).read_bytes() for file in FILES}
    except OSError as error:
        raise NoReference(f"{path} has no {error.filename}, in git or as a file") from None


def show(git_dir: Path, revision: str, file: str) -> bytes | None:
    command = ["git", "-c", "safe.directory=*", "--git-dir", str(git_dir), "show", f"{revision}:{file}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout if done.returncode == 0 else None


def with_budget(prepare: bytes, seconds: float) -> bytes:
    """prepare.py with its one line about time changed, if that is needed."""
    if seconds == BUDGET:
        return prepare
    changed, count = re.subn(rb"(?m)^TIME_BUDGET = \d+", b"TIME_BUDGET = %g" % seconds, prepare)
    if count != 1:
        raise NoReference("its prepare.py has no line TIME_BUDGET")
    return changed


@dataclass(frozen=True)
class Copy:
    """One recipe, ready to run: the folder of its files, and the environment that it needs."""

    folder: Path
    env: dict[str, str]
    attention: str

    def command(self) -> list[str]:
        return [sys.executable, "train.py"]


def home_for(root: Path, shards: list[Path], data: Prepared) -> Path:
    """A home folder whose cache is what its prepare.py would have made of `shards`, with our tokenizer."""
    import torch

    home = root / "home"
    cache = home / ".cache" / "autoresearch"
    shutil.rmtree(cache, ignore_errors=True)
    (cache / "data").mkdir(parents=True)
    (cache / "tokenizer").mkdir()
    for shard in shards:
        (cache / "data" / shard.name).symlink_to(shard)
    tokenizer = Tokenizer.load(data.folder / TOKENIZER)
    with (cache / "tokenizer" / "tokenizer.pkl").open("wb") as file:
        pickle.dump(tokenizer.encoding, file)
    torch.save(torch.from_numpy(tokenizer.token_bytes(reference=True)), cache / "tokenizer" / "token_bytes.pt")
    return home


def flash3_is_there() -> bool:
    """Whether the real package serves its kernel here; on its first call it may download it."""
    if importlib.util.find_spec("kernels") is None:
        return False
    try:
        return subprocess.run([sys.executable, "-c", FLASH3], capture_output=True, timeout=180).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def shim_folder(root: Path, flash3: bool) -> Path:
    """A folder of the modules that its files import and that are not here."""
    shim = root / "shim"
    shutil.rmtree(shim, ignore_errors=True)
    shim.mkdir(parents=True)
    for name in IMPORTED:
        if importlib.util.find_spec(name) is None:
            (shim / f"{name}.py").write_text('"""Not installed, and not needed to train."""\n')
    if not flash3:
        shutil.copy(Path(__file__).with_name("kernels_shim.py"), shim / "kernels.py")
    return shim


def copy(
    root: Path, name: str, source: dict[str, bytes], home: Path, shim: Path, caches: Path, budget: float, seq_len: int
) -> Copy:
    """Lay out one recipe below `root` and say how to run it."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_bytes(source["train.py"])
    (folder / "prepare.py").write_bytes(with_budget(source["prepare.py"], budget))
    autoexp = Path(sys.modules["autoexp"].__path__[0]).parent
    env = {
        **clean_environment(),
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(shim), str(autoexp)]),
        "AUTOEXP_SHIM_TOKENS": str(seq_len),
        "AUTOEXP_SHIM_WINDOWS": WINDOWS,
        **cache_places(caches),
    }
    served = "a back end of autoexp" if (shim / "kernels.py").exists() else "FlashAttention 3 (kernels)"
    return Copy(folder, env, served)


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of ours, but for those that choose kernels, on both sides."""
    keep = {"AUTOEXP_ATTENTION", "AUTOEXP_KERNELS"}
    return {key: value for key, value in os.environ.items() if not key.startswith("AUTOEXP_") or key in keep}


def cache_places(folder: Path) -> dict[str, str]:
    """Where torch and its compilers keep what they made, so that it can be cold or warm as we like.

    What was downloaded stays where it is: kernels of the hub are no work of the compiler's.
    """
    downloads = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    names = {
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "CUDA_CACHE_PATH": "cuda",
        "CUTE_DSL_CACHE_DIR": "cute",
        "XDG_CACHE_HOME": "xdg",
    }
    places = {variable: str(folder / name) for variable, name in names.items()}
    return {"HF_HOME": os.environ.get("HF_HOME") or str(downloads), **places}


STEP = re.compile(r"step (?P<step>\d+) .*tok/sec: (?P<speed>[\d,]+)")
SUMMARY = re.compile(r"^(?P<key>[a-zA-Z_]+):\s+(?P<value>-?\d+(?:\.\d+)?)\s*$")


def collect(done: Done, budget: float, served: str) -> dict[str, Any]:
    """The figures of one training from what it printed, and from the times at which it did."""
    steps = [(at, match) for at, line in done.lines if (match := STEP.search(line))]
    values = {m["key"]: float(m["value"]) for _, line in done.lines if (m := SUMMARY.match(line))}
    ended = next((at for at, line in done.lines if line.strip() == "---"), None)
    if not steps or ended is None or "val_bpb" not in values:
        raise JobFailed("it printed no steps, or no summary")
    attention = next((line for _, line in done.lines if line.startswith("attention: ")), f"attention: {served}")
    # Its clock starts after the untimed steps; a run as short as a test's may have no others.
    timed = max(1, values["num_steps"] - UNTIMED_STEPS) if values["num_steps"] > UNTIMED_STEPS else values["num_steps"]
    evaluation = ended - steps[-1][0]
    training = values["training_seconds"]
    tokens = values["total_tokens_M"] * 1e6
    return {
        "val_bpb": values["val_bpb"],
        "tokens_per_second": tokens / values["num_steps"] * timed / training if training else None,
        "median_tokens_per_second": statistics.median(int(m["speed"].replace(",", "")) for _, m in steps),
        "num_steps": values["num_steps"],
        "total_tokens": tokens,
        "training_seconds": training,
        "eval_seconds": evaluation,
        "startup_seconds": done.wall_seconds - training - evaluation,
        "wall_seconds": done.wall_seconds,
        "beyond_budget_seconds": done.wall_seconds - budget,
        "mfu_percent": values.get("mfu_percent"),
        "peak_memory_mb": values.get("peak_vram_mb"),
        "num_params": values.get("num_params_M", 0.0) * 1e6,
        "attention": attention.removeprefix("attention: "),
    }
