"""Every error that a person is meant to read, each with the next command to type.

    AutoexpError                exit 1   something went wrong that was expected to be able to
    ├── UsageError              exit 2   the command line or a settings file is wrong
    ├── PreconditionError       exit 3   something must be there first: data, git, a commit, a GPU, an agent
    │   ├── NothingToProposeError        the proposer and the fallback have no idea left
    │   └── SurroundingsError            data is gone, or the best so far does not train any more
    ├── RunError                exit 1   no such run, a run that exists already, a run that is live
    ├── JournalError            exit 1   the journal cannot be read: newer release, damaged line
    ├── ProposalError           exit 1   a proposal does not fit the schema, or cannot be applied
    ├── RepositoryError         exit 1   git refused; carries git's own words
    ├── AgentError              exit 1   an agent gave no usable answer, or none in time
    │   └── UnreachableError             its service limits us or is down, or it has failed too often to be asked now
    ├── DiskFullError           exit 1   no space left; nothing is lost, free some and resume
    └── Interrupted             exit 130 Ctrl-C, SIGTERM, SIGHUP: stopped at a safe point

They are caught once, in `autoexp.cli.app.main`, which prints two lines on stderr: what, and the hint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


class AutoexpError(Exception):
    """What went wrong (`str(error)`), and `hint`: the next command to type."""

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class UsageError(AutoexpError):
    exit_code = 2


class PreconditionError(AutoexpError):
    exit_code = 3


class NothingToProposeError(PreconditionError):
    pass


class SurroundingsError(PreconditionError):
    pass


class RunError(AutoexpError):
    pass


class JournalError(AutoexpError):
    pass


class ProposalError(AutoexpError):
    pass


class RepositoryError(AutoexpError):
    pass


class AgentError(AutoexpError):
    pass


class UnreachableError(AgentError):
    pass


class DiskFullError(AutoexpError):
    pass


class Interrupted(AutoexpError):
    exit_code = 130


def complaint(found: Mapping[str, Any]) -> str:
    """What pydantic found wrong with a value, to be put after its name: ' must be greater than 0, and is -1'."""
    words = must(str(found["msg"]))
    if not words.startswith("must be"):
        return f": {words}"
    value = found.get("input")
    return f" {words}" + (f", and is {json.dumps(value)}" if isinstance(value, str | int | float) else "")


def must(words: str) -> str:
    """Pydantic's words without its point of view."""
    return re.sub(r", unable to parse string as an? \w+", "", words.replace("Input should be", "must be"))
