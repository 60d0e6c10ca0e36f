"""The real agents against a model server on this machine: what each adapter promises of each of them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dialects import INPUT_TOKENS, OUTPUT_TOKENS
from model_server import Change, ModelServer, Read, Refuse, Scene, Shell
from real import AGENTS, EDITING, everything_in, set_up
from support import gone
from surroundings import KEY

from autoexp.errors import Interrupted
from autoexp.spec.ports import Agent, Ask, edits_files
from autoexp.spec.transcripts import read_turns

PROPOSE = "Propose the next experiment.\nThe number of this question is {}.\n"
ANSWER = '{"status": "ok"}'


@pytest.fixture
def server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A worktree beside a checkout, as the run's are."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "train.py").write_text("LR = 0.1\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(checkout)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["worktree", "add", "-q", "runs/tree"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return checkout / "runs" / "tree"


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests of an agent: some make a database in a new home, which takes seconds."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(params=AGENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def agent(name: str, server: ModelServer, homes: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    return set_up(name, server.url, homes / name, monkeypatch)


def question(tree: Path, tmp_path: Path, number: int = 1, **changes: Any) -> Ask:
    fields = {"may_edit": False, "timeout_seconds": 60.0, **changes}
    return Ask(PROPOSE.format(number), tree, tmp_path / "iterations" / "0001" / "propose", **fields)


def seen(server: ModelServer) -> str:
    """What the model was sent last."""
    return json.dumps(server.turns[-1].body)


def test_it_goes_on_with_its_conversation_and_says_what_each_call_took(
    agent: Agent, name: str, server: ModelServer, tree: Path, tmp_path: Path
) -> None:
    server.script = [Scene("propose", ANSWER), Scene("propose", "second " + ANSWER), Scene("propose", ANSWER)]
    first = agent.ask(question(tree, tmp_path))
    assert (first.problem, first.text.strip()) == ("", ANSWER)
    assert (first.usage.input_tokens, first.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert first.conversation
    second = agent.ask(question(tree, tmp_path, 2, conversation=first.conversation))
    assert (second.problem, second.text.strip()) == ("", "second " + ANSWER)
    assert (second.usage.input_tokens, second.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert "question is 1" in seen(server) and "question is 2" in seen(server)
    agent.ask(question(tree, tmp_path, 3, conversation=second.conversation))
    assert all(f"question is {number}" in seen(server) for number in (1, 2, 3))
    assert first.usage.cost_usd is None or name == "claude", "a cost is what the agent says, and no guess"


def test_a_conversation_that_is_gone_is_begun_anew(
    agent: Agent, name: str, server: ModelServer, tree: Path, tmp_path: Path
) -> None:
    server.script = [Scene("propose", ANSWER)]
    lost = {
        "opencode": "ses_df9f8c5a3ffeX9Ra3NDtCXtLjZ",
        "claude": "067cf0ce-bf2c-4665-8671-e7baa178e10f",
        "codex": "01a2060c-c823-7a60-90b7-86995de33231#300+60",
        "openai": "propose/999",
    }
    answer = agent.ask(question(tree, tmp_path, conversation=lost[name], anew=PROPOSE.format("anew")))
    assert (answer.problem, answer.text.strip()) == ("", ANSWER)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert answer.conversation not in (None, lost[name])
    assert "question is anew" in seen(server) and "question is 1" not in seen(server), "all that was left out is told"


def test_a_rate_limit_is_told_as_one(agent: Agent, server: ModelServer, tree: Path, tmp_path: Path) -> None:
    server.script = lambda turn: Refuse(429, "slow down", retry_after=0.2)
    answer = agent.ask(question(tree, tmp_path))
    assert answer.problem and answer.busy, answer


def test_an_overloaded_server_is_told_as_one(agent: Agent, server: ModelServer, tree: Path, tmp_path: Path) -> None:
    server.script = lambda turn: Refuse(529, "overloaded", retry_after=0.2)
    answer = agent.ask(question(tree, tmp_path))
    assert answer.problem and answer.busy, answer


def test_a_refusal_that_no_waiting_helps(agent: Agent, server: ModelServer, tree: Path, tmp_path: Path) -> None:
    server.script = lambda turn: Refuse(401, "who are you")
    answer = agent.ask(question(tree, tmp_path))
    assert answer.problem and not answer.busy, answer


def test_a_server_that_is_not_there(
    name: str, homes: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        agent = set_up(name, f"http://127.0.0.1:{free.getsockname()[1]}", homes / name, monkeypatch)
        answer = agent.ask(question(tree, tmp_path))
    assert answer.problem and answer.busy, answer


def test_the_key_is_used_and_kept_out_of_the_transcript(
    agent: Agent, server: ModelServer, tree: Path, tmp_path: Path
) -> None:
    server.script = [Scene("propose", f"{ANSWER} my key is {KEY}")]
    agent.ask(question(tree, tmp_path))
    assert server.turns[-1].key == KEY
    kept = everything_in(tmp_path / "iterations")
    assert "my key is [redacted]" in kept
    assert KEY not in kept


@pytest.mark.parametrize("name", EDITING, indirect=True)
def test_it_edits_the_worktree_where_it_may(agent: Agent, server: ModelServer, tree: Path, tmp_path: Path) -> None:
    server.script = [Scene("propose", Read("train.py"), Change("train.py", "LR = 0.1", "LR = 0.3"), "Done. " + ANSWER)]
    answer = agent.ask(question(tree, tmp_path, may_edit=True))
    assert (tree / "train.py").read_text() == "LR = 0.3\n"
    assert (tree.parents[1] / "train.py").read_text() == "LR = 0.1\n"
    assert answer.text.strip().endswith(ANSWER) and not answer.problem
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3 * INPUT_TOKENS, 3 * OUTPUT_TOKENS)
    assert answer.transcript is not None
    turns = read_turns(answer.transcript)
    assert [turn.by for turn in turns if turn.by not in ("error", "thought")] == ["autoexp", "tool", "tool", "agent"]
    assert "LR = 0.3" in turns[-2].input
    assert "LR = 0.1" in next(turn for turn in turns if turn.by == "tool").text
    assert "[agent]\nDone." in (answer.transcript / "transcript.md").read_text()


@pytest.mark.parametrize("name", EDITING, indirect=True)
def test_it_edits_nothing_where_it_may_not(agent: Agent, server: ModelServer, tree: Path, tmp_path: Path) -> None:
    checkout = tree.parents[1]
    server.script = [
        Scene(
            "propose",
            Read("train.py"),
            Change("train.py", "LR = 0.1", "LR = 0.3"),
            Shell(f"echo broken > train.py; echo broken > {checkout}/train.py"),
            ANSWER,
        )
    ]
    answer = agent.ask(question(tree, tmp_path))
    assert answer.text.strip() == ANSWER
    assert (tree / "train.py").read_text() == (checkout / "train.py").read_text() == "LR = 0.1\n"


@pytest.mark.parametrize("name", ["opencode"], indirect=True)
def test_opencode_edits_nothing_around_a_folder_that_is_no_worktree(
    agent: Agent, server: ModelServer, tree: Path, tmp_path: Path
) -> None:
    """It takes the checkout around it for what it is to work on."""
    checkout = tree.parents[1]
    folder = checkout / "runs" / "0001"
    folder.mkdir()
    broken = Shell(f"echo broken > {checkout}/train.py")
    server.script = [Scene("propose", Read("train.py"), Change("train.py", "LR = 0.1", "LR = 0.3"), broken, ANSWER)]
    assert agent.ask(question(folder, tmp_path)).text.strip() == ANSWER
    assert (checkout / "train.py").read_text() == "LR = 0.1\n"
    offered = server.turns[0].request.tools
    assert "read" in offered and not {"edit", "write", "bash"} & offered


@pytest.mark.parametrize("name", ["opencode"], indirect=True)
def test_opencode_leaves_no_tool_running(agent: Agent, server: ModelServer, tree: Path, tmp_path: Path) -> None:
    """It runs tools in sessions of their own, so a signal to its group would miss this one."""
    began = tmp_path / "began"
    server.script = [Scene("propose", Shell(f"echo $$ > {began}; exec sleep 600"))]
    with pytest.raises(Interrupted):
        stop = lambda: began.exists() and began.read_text() != ""  # noqa: E731
        agent.ask(question(tree, tmp_path, may_edit=True, stop=stop))
    assert gone(int(began.read_text()))


def test_openai_says_how_long_the_server_asked_to_wait_and_passes_its_options_on(
    server: ModelServer, homes: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = set_up("openai", server.url, homes / "openai", monkeypatch)
    assert not edits_files(agent)
    server.script = lambda turn: Refuse(429, "slow down", retry_after=7.0)
    assert agent.ask(question(tree, tmp_path)).retry_after_seconds == 7.0
    assert server.turns[-1].body["temperature"] == 0.5
