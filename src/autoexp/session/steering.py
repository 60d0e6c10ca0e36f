"""A person's proposals: from a file, a sentence, constants to set, a patch, or the edits in the checkout."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from autoexp.errors import ProposalError, RepositoryError
from autoexp.runs.records import Edit, Patch, Proposal, SetConstant
from autoexp.workspace.candidate import editable_files
from autoexp.workspace.constants import declared, literal
from autoexp.workspace.inbox import parse
from autoexp.workspace.paths import Workspace
from autoexp.workspace.repository import Repository, matches
from autoexp.workspace.settings import Settings


def from_file(file: Path) -> Proposal:
    """The proposal in a JSON file. Raises ProposalError when it is missing, unreadable or invalid."""
    try:
        return parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ProposalError(f"cannot read {file}: {error.strerror}", "autoexp propose --schema") from error
