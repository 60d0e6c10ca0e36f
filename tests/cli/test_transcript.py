"""`autoexp show N --transcript`, of a run with a program for an agent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support import Lab

from autoexp.runs.events import AgentCalled

AGENT = """\
import json, os, sys

asked = json.load(sys.stdin)
if asked["task"] == "propose" and not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    print("\\x1b[31mlet me think")
    print("hm\\n" * 900 + "x" * 9000 + "\\nthe last word")
elif asked["task"] == "propose":
    idea = {"status": "ok", "description": "an idea", "change_plan": "LR = 0.02", "commit_description": "LR"}
    print(json.dumps({**idea, "usage": {"input_tokens": 11, "output_tokens": 7, "cost_usd": 0.5}}))
else:
    edit = {"op": "set", "name": "LR", "value": 0.02}
    print(json.dumps({"status": "applied", "edits": [edit]}))
"""


def test_each_call_with_what_was_said_and_what_it_took(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "my-agent.py").write_text(AGENT)
    settings = lab.root / "autoexp.toml"
    args = json.dumps([sys.executable, str(tmp_path / "my-agent.py"), str(tmp_path / "asked")])
    settings.write_text(settings.read_text().replace('name = "fake"', f'name = "command"\nargs = {args}'))
    lab.command("start", "--run-id", "lab", "--loops", "1", "--proposer", "command", "--no-background-train")

    said = lab.command("show", "1", "--transcript")
    for part in (
        "call 1 of 3: propose, attempt 1, command",
        "tokens unknown, cost unknown",
        "problem: the answer holds no valid JSON object",
        "[agent]\nlet me think",
        "[autoexp]\nPropose the next experiment.",
        "[… 53 lines are left out; all of them: ",
        "[… 5000 more characters: ",
        "the last word",
        "call 2 of 3: propose, attempt 1, command",
        "11 tokens read, 7 written, $0.5000",
        "call 3 of 3: apply, attempt 1, command",
        "[autoexp]\nApply this experiment to the program.",
        "iterations/0001/attempt-1/apply/001",
    ):
        assert part in said, part
    assert "\x1b" not in said

    found: list[dict[str, Any]] = json.loads(lab.command("show", "1", "--transcript", "--json"))
    assert [call["stage"] for call in found] == ["propose", "propose", "apply"]
    assert [turn["by"] for turn in found[0]["turns"]] == ["autoexp", "agent"]
    assert [call.input_tokens for call in lab.events(AgentCalled)] == [None, 11, None]

    assert "asked no agent in iteration 0" in lab.command("show", "0", "--transcript", code=1)
