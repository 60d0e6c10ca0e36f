"""What can go wrong in preparing data and training.

    TrainerError            exit 1
    ├── BadInput            exit 1: what was given cannot be used
    ├── Missing             exit 3: something needed is not there (prepared data, a shard, the network)
    └── TrainingFailed      exit 1: the training ran and its numbers are not real (NaN, divergence)
        ├── OutOfMemory     of another process of the same training, which ends with OUT_OF_MEMORY
        └── Refused         the model's answers are not those of a language model: another evaluation changes nothing

Every error carries what is wrong and the next command to type; `tell` prints both, two lines, on stderr.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import ClassVar, NoReturn


class TrainerError(Exception):
    """An expected failure: `str(error)` says what is wrong, `hint` what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class BadInput(TrainerError):
    """An argument, a setting or a file that cannot be used."""


class Missing(TrainerError):
    """A precondition that is not there; doing what the hint says makes it so."""

    exit_code = 3


class TrainingFailed(TrainerError):
    """A loss or a metric that is no real number, or a run that diverged."""


class Refused(TrainingFailed):
    """A model that was found to look at what it is to predict, or at other rows."""


class OutOfMemory(TrainingFailed):
    """Another process of the training had too little memory."""


OUT_OF_MEMORY = 75  # the exit code of such a process: a failure that may pass, in sysexits.h


def tell(error: TrainerError) -> int:
    """Print `error` on stderr and return the exit code that goes with it."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)
    return error.exit_code


class Arguments(argparse.ArgumentParser):
    """A command line whose complaints are two lines too; exit code 2."""

    def error(self, message: str) -> NoReturn:
        error = BadInput(message, f"{self.prog} --help")
        if found := re.fullmatch(r"argument (\S+): invalid choice: (\S+) \(choose from (.*)\)", message):
            flag, value, choices = found.groups()
            names = choices.replace("'", "").split(", ")
            error = BadInput(f"{flag} {value}: it is one of {', '.join(names)}", f"{flag} {names[0]}")
        tell(error)
        sys.exit(2)
