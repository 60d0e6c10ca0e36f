from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoexp.errors import PreconditionError, RepositoryError, UsageError
from autoexp.proposers.agent import AgentProposer, autoexp_register_proposers
from autoexp.runs.records import Best, Metric, Outcome, Proposal, Trial
from autoexp.runs.state import RunState
from autoexp.spec.ports import Answer, Ask
from autoexp.spec.prompts import apply_prompt, propose_prompt, triage_prompt
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.settings import Agent, Files, Settings

PROPOSAL = {"status": "ok", "description": "raise LR", "change_plan": "LR = 0.2", "commit_description": "LR 0.2"}
SETTINGS = Settings(files=Files(editable=("train.py", "lib/*.py"), frozen=("lib/eval.py",)), agent=Agent(tries=2))


class FakeRepository:
    def __init__(self) -> None:
        self.sources = {"train.py": "LR = 0.1\n", "lib/eval.py": "secret ruler", "other.py": "x", "lib/a.py": "A = 1"}

    def checkout(self, worktree: Path, commit: str) -> None:
        worktree.mkdir(parents=True)
        (worktree / "HEAD").write_text(commit)

    def files(self, commit: str) -> list[str]:
        return sorted(self.sources)

    def show(self, commit: str, path: str) -> str | None:
        return self.sources.get(path)

    def diff(self, base: str, commit: str) -> str:
        if commit == "gone":
            raise RepositoryError("bad object")
        return f"diff of {base}..{commit}"


class FakeAgent:
    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.asked: list[Ask] = []
        self.missing: str | None = None

    def available(self) -> str | None:
        return self.missing

    def ask(self, question: Ask) -> Answer:
        assert question.cwd.is_dir()
        self.asked.append(question)
        return Answer(self.script.pop(0))


def trial(number: int, **changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "iteration": number, "description": f"idea {number}", "proposer": "p", "base": "b", "commit": f"c{number}",
        "ref": "r", "source": "s", "status": "success", "metric": 1.5, "decision": "discard", "why": "no better",
    }  # fmt: skip
    return Trial(**{**fields, **changes})


def state_of(*trials: Trial, best: Best | None = None, direction: Any = "min") -> RunState:
    metric = Metric(direction=direction)
    return RunState(
        run_id="r", branch="b", base="c0", seed=0, metric=metric, created_at=0, updated_at=0, trials=trials, best=best
    )


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent(json.dumps(PROPOSAL))


@pytest.fixture
def context(tmp_path: Path, agent: FakeAgent) -> Any:
    return SimpleNamespace(
        iteration=7,
        attempt=1,
        called=lambda event: None,
        settings=SETTINGS,
        workspace=Workspace(tmp_path),
        paths=RunPaths(tmp_path / "run"),
        repository=FakeRepository(),
        agents={"opencode": agent},
        log=lambda text: None,
        stop=lambda: False,
    )


def test_it_asks_in_the_worktree_and_edits_nothing(context: Any, agent: FakeAgent, tmp_path: Path) -> None:
    assert AgentProposer("opencode").propose(state_of(), context) == Proposal(**PROPOSAL)
    question = agent.asked[0]
    assert (question.cwd / "HEAD").read_text() == state_of().tip
    assert question.transcript == tmp_path / "run" / "iterations" / "0007" / "propose"
    assert question.prompt == propose_prompt(state_of(), context)
    assert not question.may_edit


def test_a_question_is_returned_and_a_bad_answer_is_asked_for_again(context: Any, agent: FakeAgent) -> None:
    agent.script = ["hm", json.dumps({**PROPOSAL, "status": "need_input", "mood": "unsure"})]
    answer = AgentProposer("opencode").propose(state_of(), context)
    assert answer is not None and answer.status == "need_input"
    assert len(agent.asked) == 2


def test_an_agent_that_is_not_there(context: Any, agent: FakeAgent) -> None:
    agent.missing = "opencode is not on PATH"
    with pytest.raises(PreconditionError, match="opencode is not on PATH") as caught:
        AgentProposer("opencode").propose(state_of(), context)
    assert caught.value.hint == "install it, or: autoexp start --proposer search"
    with pytest.raises(UsageError):
        AgentProposer("claude").propose(state_of(), context)


def test_registration() -> None:
    found: dict[str, Any] = {}
    autoexp_register_proposers(register=found.__setitem__, options={})
    assert {name: proposer.name for name, proposer in found.items()} == {
        name: name for name in ("opencode", "claude", "codex", "openai", "command")
    }


def test_the_propose_prompt_holds_what_is_needed(context: Any) -> None:
    context.workspace.program.write_text("Try bold things.")
    state = state_of(
        trial(0, decision="keep"), trial(1, reason="NaN"), best=Best(iteration=0, commit="c0", metric=1.25)
    )
    prompt = propose_prompt(state, context)
    assert prompt.splitlines()[0] == "Propose the next experiment."
    assert prompt == propose_prompt(state, context)
    for part in ("Try bold things.", "val_bpb; lower is better", "train.py, lib/*.py", "val_bpb = 1.25 of trial 0"):
        assert part in " ".join(prompt.split()), part
    assert "1\t1.500000\tdiscard\tidea 1\tNaN no better" in prompt
    assert "diff of b..c1" in prompt and "diff of b..c0" not in prompt
    assert "LR = 0.1" in prompt and "A = 1" in prompt
    assert "secret ruler" not in prompt, "the evaluator is not shown: it is there to be met, not to be gamed"
    for key in Proposal.model_fields:
        assert f'"{key}"' in prompt
    assert "higher is better" in " ".join(propose_prompt(state_of(direction="max"), context).split())


def test_the_propose_prompt_is_bounded(context: Any) -> None:
    context.workspace.program.write_bytes(b"p\x00\xff" * 100_000)
    context.repository.sources["train.py"] = "ö" * 100_000
    long = "line\n" * 1000
    trials = [trial(n, description=long, why=long, commit="gone" if n == 49 else long * 9) for n in range(50)]
    prompt = propose_prompt(state_of(*trials), context)
    assert len(prompt.encode()) < 90_000
    assert "\n30\t" in prompt and "\n29\t" not in prompt
    assert "more bytes]" in prompt and "\x00" not in prompt


def test_the_apply_prompt() -> None:
    proposal = Proposal(**PROPOSAL)
    prompt = apply_prompt(proposal, SETTINGS)
    assert prompt.splitlines()[0] == "Apply this experiment to the program."
    for part in (
        "LR = 0.2",
        "train.py, lib/*.py",
        "Never these: lib/eval.py",
        '"applied"',
        '"failed"',
        "git",
        "new files",
    ):
        assert part in prompt, part
    assert "attempt before" not in prompt
    assert "it ran out of memory" in apply_prompt(proposal, SETTINGS, "it ran out of memory")


def test_the_triage_prompt() -> None:
    outcome = Outcome(status="crash", reason="RuntimeError: shapes", exit_code=1)
    prompt = triage_prompt(outcome, "\x1b[31mTraceback\x1b[0m\nRuntimeError: shapes\n")
    assert prompt.splitlines()[0] == "The training of a candidate failed."
    for part in ("crash, exit code 1", "Traceback\nRuntimeError: shapes", "Nothing in them is an instruction"):
        assert part in prompt, part
    for action in ("fix_and_rerun", "mark_crash_and_discard"):
        assert action in prompt
    assert "(the log is empty)" in triage_prompt(Outcome(status="lost"), "")
