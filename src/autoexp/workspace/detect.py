"""What kind of program is here, when no settings file says so."""

from __future__ import annotations

from typing import Any

from autoexp.workspace.paths import Workspace


def detect(workspace: Workspace) -> dict[str, Any]:
    """The settings that the workspace's files imply.

    A checkout of karpathy/autoresearch is known by its two programs: prepare.py is fixed and fills
    ~/.cache/autoresearch, train.py is edited, and uv runs both.
    """
    if not (workspace.root / "train.py").exists() or not (workspace.root / "prepare.py").exists():
        return {}
    return {
        "train": {"command": ["uv", "run", "train.py"]},
        "files": {"editable": ["train.py"], "frozen": ["prepare.py"]},
        "prepare": {
            "command": ["uv", "run", "prepare.py"],
            "requires": ["~/.cache/autoresearch/data/*.parquet", "~/.cache/autoresearch/tokenizer/tokenizer.pkl"],
        },
    }
