"""A night for one agent: three experiments with all that a night has, and what must be true in the morning."""

from __future__ import annotations

import json
import os
from pathlib import Path

from model_server import Change, ModelServer, Read, Refuse, Scene
from support import TRAINER, Lab
from surroundings import KEY

from autoexp.runs.events import AgentCalled, Applied, TrainingEnded, Triaged
from autoexp.testing import git

TALKATIVE = TRAINER.replace(
    'tell("started")\n', 'tell("started")\nfor name in sorted(os.environ):\n    print(name, os.environ[name])\n'
)
"""A trainer that prints its whole environment, as some do, into a log that is kept and quoted to agents."""


def idea(plan: str) -> str:
    """An answer to propose as a model gives it: some words, then the object."""
    fields = {"status": "ok", "description": plan, "change_plan": f"{plan} in train.py", "commit_description": plan}
    return f"I looked at the program.\n```json\n{json.dumps(fields)}\n```"


def done(summary: str = "as planned") -> str:
    return json.dumps({"status": "applied", "summary": summary})


FIX = json.dumps({"action": "fix_and_rerun", "reason": "WIDTH is given no value"})


def night() -> list[Scene]:
    """Keeps, crashes and is repaired, and reaches for the evaluator; the model is busy once."""
    return [
        Scene("propose", Refuse(429, retry_after=1.0), Read("train.py"), idea("halve the rate")),
        Scene("apply", Read("train.py"), Change("train.py", "LR = 0.08", "LR = 0.04"), done()),
        Scene("propose", idea("make it deeper, and name the width")),
        Scene("apply", Read("train.py"), Change("train.py", "DEPTH = 4", "DEPTH = 6 if WIDTH else 4"), done()),
        Scene("triage", FIX),
        Scene("apply", Read("train.py"), Change("train.py", "6 if WIDTH else 4", "6"), done("gave it a value")),
        Scene("propose", idea("score better")),
        Scene(
            "apply",
            Read("evaluate.py"),
            Change("evaluate.py", "return 1.0", "return 0.0"),
            Read("train.py"),
            Change("train.py", "LR = 0.04", "LR = 0.02"),
            done("the evaluator is kinder now"),
        ),
    ]


def sleep_through(lab: Lab, server: ModelServer, agent: str) -> None:
    """Start the run as a person does in the evening, and wait for the morning."""
    lab.command("start", "--run-id", lab.run_id, "--loops", "3", "--proposer", agent)
    lab.finished()
    assert not server.wrong
    assert not server.unused()


def look_at(lab: Lab, server: ModelServer, agent: str) -> None:
    """All that must be true of the run, whichever agent it was."""
    state = lab.state
    status = lab.status()
    assert status["ended"] == "done: 3 iterations", status
    assert [(trial.status, trial.decision, trial.attempts) for trial in state.trials] == [
        ("success", "keep", 1),
        ("success", "keep", 1),
        ("success", "keep", 2),
        ("untrained", "crash", 1),
    ]
    assert [trial.proposer for trial in state.trials[1:]] == [agent] * 3
    assert [(end.iteration, end.attempt, end.outcome.status) for end in lab.events(TrainingEnded)] == [
        (0, 1, "success"),
        (1, 1, "success"),
        (2, 1, "crash"),
        (2, 2, "success"),
    ]
    diffs(lab)
    table(lab)
    calls(lab, server, agent)
    frozen(lab)
    no_key(lab)


def diffs(lab: Lab) -> None:
    """What was trained is what the agent edited, and that alone."""
    changed = []
    for trial in lab.state.trials[1:3]:
        diff = git(lab.root, "diff", "--unified=0", trial.base, trial.commit)
        changed.append([line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")])
    assert changed == [
        ["-LR = 0.08  # [0.0001, 1.0] log; learning rate", "+LR = 0.04  # [0.0001, 1.0] log; learning rate"],
        ["-DEPTH = 4  # [1, 12]; layers", "+DEPTH = 6  # [1, 12]; layers"],
    ]
    (repair,) = (event for event in lab.events(Triaged) if event.action == "fix_and_rerun")
    assert (repair.iteration, repair.attempt, repair.reason) == (2, 1, "WIDTH is given no value")


def table(lab: Lab) -> None:
    rows = [line.split("\t") for line in (lab.root / "results.tsv").read_text().splitlines()[1:]]
    assert [(row[3], row[4]) for row in rows[1:]] == [
        ("keep", "halve the rate"),
        ("keep", "make it deeper, and name the width"),
        ("crash", "score better"),
    ]
    assert float(rows[3][1]) == 0.0 or not rows[3][1].strip()  # as the ancestor writes a crash


def calls(lab: Lab, server: ModelServer, agent: str) -> None:
    """Each call is in the journal with what it took, and its transcript has both sides of it."""
    found = lab.events(AgentCalled)
    good = [call for call in found if not call.problem]
    assert [(call.iteration, call.attempt, call.stage, call.agent) for call in good] == [
        (1, 1, "propose", agent),
        (1, 1, "apply", agent),
        (2, 1, "propose", agent),
        (2, 1, "apply", agent),
        (2, 1, "triage", agent),
        (2, 2, "apply", agent),
        (3, 1, "propose", agent),
        (3, 1, "apply", agent),
    ]
    assert server.refused == 1
    assert all(call.busy for call in found if call.problem), [call.problem for call in found]
    for call in good:
        folder = lab.paths.folder / call.transcript
        kept = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
        asked = {"propose": "Propose the next", "apply": "Apply this experiment", "triage": "The training of a"}
        assert asked[call.stage] in kept
        assert {"propose": "change_plan", "apply": "applied", "triage": "fix_and_rerun"}[call.stage] in kept


def took(lab: Lab, server: ModelServer) -> None:
    """The tokens that the server says were used are the tokens that the run counts."""
    spent = lab.state.spent
    assert spent.uncounted == 0
    assert (spent.input_tokens, spent.output_tokens) == (server.input_tokens, server.output_tokens)


def frozen(lab: Lab) -> None:
    """The evaluator is what it was, in the checkout and in all that was trained; who reached for it is named."""
    (refused,) = (event for event in lab.events(Applied) if event.refused)
    assert (refused.iteration, refused.status, refused.refused) == (3, "refused", ("evaluate.py",))
    for trial in lab.state.trials:
        assert git(lab.root, "diff", "HEAD", trial.commit, "--", "evaluate.py") == ""
    assert git(lab.root, "status", "--porcelain") == ""
    assert "evaluate.py" in lab.command("log", "--run-id", lab.run_id)


def no_key(lab: Lab) -> None:
    """The person's key is in no file of the workspace: transcripts, journal, logs of the trainer, worktrees, git."""
    assert KEY in os.environ.values()
    searched = [path for path in lab.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "train.log" for path in searched)
    holding = [str(path.relative_to(lab.root)) for path in searched if KEY.encode() in path.read_bytes()]
    assert not holding
    assert all(KEY not in json.dumps(event.model_dump(mode="json")) for event in lab.events())


def trained_without_keys(lab: Lab, names: tuple[str, ...]) -> None:
    """No key is in the environment of a training at all."""
    logs = list(Path(lab.paths.folder).glob("iterations/*/attempt-*/train.log"))
    assert logs
    for log in logs:
        present = {line.split(" ")[0] for line in log.read_text().splitlines()}
        assert "AUTOEXP_JOB" in present  # it did print its environment
        assert not present & set(names)
