"""What a machine is given: sizes of the data, the time budget, and the constants of its train.py.

`python -m autoexp.model.profiles --profile auto|cpu|h100 --out PATH/train.py` writes the file that proposals edit
and prints one JSON line about it. The package's own train.py is the h100 one; another profile replaces values and
ranges, line by line, and leaves the rest of the text as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoexp.model.errors import Arguments, BadInput, TrainerError, tell


@dataclass(frozen=True)
class Profile:
    """One kind of machine. `constants` maps a name of train.py to its (value, range) as they are written there."""

    name: str
    device: str
    budget_seconds: float
    dataset: str  # what `auto` prepares
    vocab_size: int  # tokens, the special ones included
    seq_len: int  # tokens of context
    eval_tokens: int  # at most this many tokens are evaluated
    shards: int  # of a sharded dataset, by default
    constants: Mapping[str, tuple[str, str]] = field(default_factory=dict)


H100 = Profile(
    name="h100",
    device="cuda",
    budget_seconds=300,
    dataset="climbmix",
    vocab_size=8192,
    seq_len=2048,
    eval_tokens=40 * 524_288,
    shards=10,
)

CPU = Profile(
    name="cpu",
    device="cpu",
    budget_seconds=20,
    dataset="bundled",
    vocab_size=512,
    seq_len=128,
    eval_tokens=2**16,
    shards=1,
    constants={
        "PROFILE": ('"cpu"', ""),
        "DEPTH": ("2", "[1, 6]"),
        "ASPECT_RATIO": ("32", "[16, 96]"),
        "HEAD_DIM": ("32", "{16, 32, 64}"),
        "WINDOW_PATTERN": ('"SL"', '{"L", "SL"}'),
        "SHORT_WINDOW_DIVISOR": ("2", "{2, 4, 8}"),
        "ROPE_BASE": ("10_000.0", "[1000.0, 1000000.0] log"),
        "INIT_SCALE": ("1.0", "[0.3, 2.0] log"),
        "X0_LAMBDA_INIT": ("0.1", "[0.0, 0.5]"),
        "ATTENTION_GATE": ("False", "{False, True}"),  # neither helps two layers
        "SKIPS": ("False", "{False, True}"),
        "NGRAMS": ("3", "{1, 2, 3, 4}"),
        "NGRAM_ROWS": ("2**14", "{2**12, 2**14, 2**16}"),
        "NGRAM_DROPOUT": ("0.0", "[0.0, 0.9]"),  # its 20 seconds see no text twice
        "EMBEDDING_DROPOUT": ("0.0", "[0.0, 0.5]"),
        "NGRAM_LR": ("0.3", "[0.02, 3.0] log"),
        "TOTAL_BATCH_SIZE": ("2**11", "{2**9, 2**10, 2**11, 2**12, 2**13}"),
        "START_BATCH": ("1.0", "{0.25, 0.5, 1.0}"),
        "EMBEDDING_LR": ("0.6", "[0.05, 3.0] log"),
        "UNEMBEDDING_LR": ("0.004", "[0.0005, 0.05] log"),
        "EMBEDDING_WEIGHT_DECAY": ("0.0", "[0.0, 0.02]"),
        "VALUE_WEIGHT_DECAY": ("0.0", "[0.0, 0.02]"),
        "HEAD_WEIGHT_DECAY": ("0.0", "[0.0, 0.1]"),
        "WARMDOWN_RATIO": ("0.5", "[0.1, 1.0]"),
        "FINAL_LR_FRAC": ("0.0", "[0.0, 0.2]"),
        "DEVICE_BATCH_SIZE": ("64", ""),
        "MOMENTUM_RAMP_STEPS": ("100", ""),
    },
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (CPU, H100)}

CONSTANT = re.compile(
    r"^(?P<name>[A-Z][A-Z0-9_]*) = (?P<value>.+?)  # (?P<range>\[[^\]]*\](?: log)?|\{[^}]*\})?(?P<text>.*)$"
)


def pick(name: str) -> Profile:
    """The profile called `name`; `auto` is h100 where a CUDA device is there, else cpu. Raises BadInput."""
    if name == "auto":
        return H100 if cuda_is_there() else CPU
    if name not in PROFILES:
        raise BadInput(f"no profile is called {name!r}", f"one of: auto, {', '.join(PROFILES)}")
    return PROFILES[name]


def cuda_is_there() -> bool:
    """Whether torch can use a CUDA device. Where no driver is in sight torch, slow to import, is not asked."""
    if not driver_in_sight():
        return False
    import torch

    return torch.cuda.is_available()


def driver_in_sight() -> bool:
    """Whether there is a sign of a GPU's driver. The driver itself is not asked."""
    signs = ("nvidiactl", "dxg", "kfd")  # of NVIDIA's driver, of Windows' for Linux, of AMD's
    return any((Path("/dev") / sign).exists() for sign in signs) or shutil.which("nvidia-smi") is not None


def render(profile: Profile) -> str:
    """The text of train.py for `profile`."""
    lines = Path(__file__).with_name("train.py").read_text(encoding="utf-8").splitlines(keepends=True)
    left = dict(profile.constants)
    for index, line in enumerate(lines):
        match = CONSTANT.match(line.rstrip("\n"))
        if match and match["name"] in left:
            value, limits = left.pop(match["name"])
            lines[index] = f"{match['name']} = {value}  # {limits}{match['text']}\n"
    if left:
        raise BadInput(f"train.py has no line for {', '.join(left)}", "reinstall autoexp")
    return "".join(lines)


def constants_of(text: str) -> dict[str, str]:
    """The constants of a train.py, name -> value as it is written there."""
    return {match["name"]: match["value"] for line in text.splitlines() if (match := CONSTANT.match(line))}


def with_constants(text: str, values: Mapping[str, str]) -> str:
    """`text` of a train.py with other values of some constants, the rest as it is. BadInput if one has no line."""
    lines = text.splitlines(keepends=True)
    left = dict(values)
    for index, line in enumerate(lines):
        match = CONSTANT.match(line.rstrip("\n"))
        if match and match["name"] in left:
            start, end = match.span("value")
            lines[index] = line[:start] + left.pop(match["name"]) + line[end:]
    if left:
        raise BadInput(f"train.py has no line for {', '.join(left)}", "name a constant that it has")
    return "".join(lines)


def write(profile: Profile, path: Path) -> None:
    """Write the train.py of `profile` to `path`. Raises BadInput if something is there already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(render(profile))
    except FileExistsError:
        raise BadInput(f"{path} exists and is left as it is", "name another --out, or move the file away") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "name another --out") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = Arguments(prog="python -m autoexp.model.profiles", description="Write train.py for a machine.")
    parser.add_argument("--profile", default="auto", choices=["auto", *PROFILES])
    parser.add_argument("--out", type=Path, required=True, help="the train.py to write; must not exist")
    arguments = parser.parse_args(argv)
    from autoexp.model.prepare import where

    try:
        profile = pick(arguments.profile)
        write(profile, arguments.out)
        facts = {
            "profile": profile.name,
            "device": profile.device,
            "budget_seconds": profile.budget_seconds,
            "dataset": profile.dataset,
            "data_dir": str(where(profile.dataset, profile)),
        }
    except TrainerError as error:
        return tell(error)
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
