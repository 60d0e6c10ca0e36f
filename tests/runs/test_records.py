"""What a proposal, an outcome and a metric may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from autoexp.runs.records import Metric, Outcome, Patch, Plan, Proposal, Replace, SetConstant, Trial
from autoexp.testing import trial

GOOD = {"status": "ok", "description": "d", "change_plan": "p", "commit_description": "c"}
SET = {"op": "set", "name": "LR", "value": 0.5}


def parsed(**changes: Any) -> Proposal:
    return Proposal.model_validate_json(json.dumps({**GOOD, **changes}))


def test_a_proposal_without_edits_is_complete() -> None:
    assert parsed().edits == ()


def test_every_kind_of_edit_is_recognised_by_its_op() -> None:
    replace = {"op": "replace", "path": "train.py", "old": "a", "new": ""}
    patch = {"op": "patch", "diff": "--- a/x\n+++ b/x\n"}
    made = parsed(edits=[SET, replace, patch])
    assert [type(edit) for edit in made.edits] == [SetConstant, Replace, Patch]
    assert Proposal.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("value", [True, False, 3, 3.5, -1e-9, "SSSL", ""])
def test_a_constant_keeps_its_type_through_json(value: Any) -> None:
    made = parsed(edits=[{**SET, "value": value}])
    again = Proposal.model_validate_json(made.model_dump_json())
    edit = again.edits[0]
    assert isinstance(edit, SetConstant)
    assert (edit.value, type(edit.value)) == (value, type(value))


@pytest.mark.parametrize("field", ["description", "change_plan", "commit_description"])
@pytest.mark.parametrize(
    ("text", "said"),
    [("", "blank"), (" \n\t", "blank"), ("a\x00b", "NUL"), ("\ud800", "surrogate"), (None, "string"), (7, "string")],
)
def test_words_that_no_commit_or_table_can_carry_are_refused(field: str, text: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Proposal.model_validate({**GOOD, field: text})
    assert said in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize("field", list(GOOD))
def test_every_field_is_needed(field: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        Proposal.model_validate({name: text for name, text in GOOD.items() if name != field})


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"status": "maybe"},
        {"edits": [{**SET, "surprise": 1}]},
        {"edits": [{"name": "LR", "value": 1}]},
        {"edits": [{**SET, "op": "delete"}]},
        {"edits": [{**SET, "name": "lr"}]},
        {"edits": [{**SET, "name": "LR = 1; import os"}]},
        {"edits": [{**SET, "value": None}]},
        {"edits": [{**SET, "value": [1]}]},
        {"edits": [{"op": "replace", "path": "train.py", "old": "", "new": "x"}]},
        {"edits": [{"op": "replace", "path": "a\x00b", "old": "x", "new": "x"}]},
        {"edits": [{"op": "patch", "diff": " "}]},
        {"edits": "LR"},
    ],
)
def test_what_is_not_in_the_schema_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parsed(**changes)


def test_a_record_cannot_be_edited() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parsed().description = "another"  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_is_finite_or_not_there(value: float) -> None:
    """Law 5: only a real number counts."""
    with pytest.raises(ValidationError, match="finite"):
        Outcome(status="success", metric=value)
    with pytest.raises(ValidationError, match="finite"):
        Trial.model_validate({**trial(1, 1.0).model_dump(), "metric": value})


@pytest.mark.parametrize(
    ("direction", "a", "b", "better"),
    [("min", 1, 2, True), ("min", 2, 1, False), ("min", 1, 1, False), ("max", 2, 1, True), ("max", 1, 1, False)],
)
def test_better_is_strict_and_has_a_direction(direction: Any, a: float, b: float, better: bool) -> None:
    assert Metric(direction=direction).better(a, b) is better


def test_a_plan_from_an_older_release_gets_the_defaults() -> None:
    assert Plan.model_validate({"target": 3}) == Plan(target=3)
