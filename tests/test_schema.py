"""The published schema of a proposal, and what it lets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoexp.errors import ProposalError
from autoexp.session.steering import schema
from autoexp.workspace.inbox import parse

PUBLISHED = Path(__file__).parents[1] / "schemas" / "proposal.schema.json"
EXAMPLE = {
    "status": "ok",
    "description": "Try slightly higher learning rate with warmup unchanged.",
    "change_plan": "In train.py, increase base LR by ~10% and keep all other settings unchanged.",
    "commit_description": "experiment: bump LR by 10%",
}
"""The example of karpathy/autoresearch pull request 193."""


def test_the_published_schema_is_the_one_in_force() -> None:
    assert PUBLISHED.read_text() == schema(), "make schema"


def test_it_says_what_the_ancestors_schema_says() -> None:
    published = json.loads(PUBLISHED.read_text())

    assert published["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert published["required"] == list(EXAMPLE)
    assert published["additionalProperties"] is False
    assert published["properties"]["status"]["enum"] == ["ok", "need_input"]
    assert set(published["properties"]) == {*EXAMPLE, "edits"}


def test_the_ancestors_example_is_valid() -> None:
    assert parse(json.dumps(EXAMPLE).encode(), "example").edits == ()


@pytest.mark.parametrize(
    "edit",
    [
        {"op": "set", "name": "RATE", "value": 0.1},
        {"op": "replace", "path": "train.py", "old": "a", "new": ""},
        {"op": "patch", "diff": "--- a/train.py\n"},
    ],
)
def test_each_kind_of_edit_is_valid(edit: dict[str, object]) -> None:
    assert len(parse(json.dumps({**EXAMPLE, "edits": [edit]}).encode(), "example").edits) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"priority": 1}, "priority: unknown key"),
        ({"edits": [{"op": "set", "name": "RATE", "value": 1, "unit": "s"}]}, "unit: unknown key"),
        ({"edits": [{"op": "delete", "path": "train.py"}]}, "edits.0"),
        ({"status": "done"}, "status"),
        ({"description": "  "}, "description: .*blank"),
    ],
)
def test_anything_else_is_refused_and_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ProposalError, match=said):
        parse(json.dumps({**EXAMPLE, **change}).encode(), "example")
