"""A night for one agent: three experiments with all that a night has, and what must be true in the morning."""

from __future__ import annotations

import json
import os
import time
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


NIGHT_SECONDS = 300.0
"""Until a night is taken to hang: an agent takes a second or five to start, and thirty on a busy machine."""


def idea(plan: str) -> str:
    """An answer to propose as a model gives it: some words, then the object."""
    fields = {"status": "ok", "description": plan, "change_plan": f"{plan} in train.py", "commit_description": plan}
    return f"I looked at the program.\n```json\n{json.dumps(fields)}\n```"


def done(summary: str = "as planned") -> str:
    return json.dumps({"status": "applied", "summary": summary})


FIX = json.dumps({"action": "fix_and_rerun", "reason": "WIDTH is given no value"})


PLANS = ("halve the rate", "make it deeper, and name the width", "score better")
HALVED = Change("train.py", "LR = 0.08", "LR = 0.04")
DEEPER = Change("train.py", "DEPTH = 4", "DEPTH = 6 if WIDTH else 4")
"""Nothing is called WIDTH."""
REPAIRED = Change("train.py", "6 if WIDTH else 4", "6")
CHEATING = Change("evaluate.py", "return 1.0", "return 0.0")
HALVED_AGAIN = Change("train.py", "LR = 0.04", "LR = 0.02")


def night() -> list[Scene]:
    """Keeps, crashes and is repaired, and reaches for the evaluator; the model is busy once."""
    look = Read("train.py")
    return [
        Scene("propose", Refuse(429, retry_after=1.0), look, idea(PLANS[0])),
        Scene("apply", look, HALVED, done()),
        Scene("propose", idea(PLANS[1])),
        Scene("apply", look, DEEPER, done()),
        Scene("triage", FIX),
        Scene("apply", look, REPAIRED, done("gave it a value")),
        Scene("propose", idea(PLANS[2])),
        Scene("apply", Read("evaluate.py"), CHEATING, look, HALVED_AGAIN, done("the evaluator is kinder now")),
    ]


def night_in_words() -> list[Scene]:
    """The same by a model that has no hands: its edits are in its answers."""
    return [
        Scene("propose", Refuse(429, retry_after=1.0), idea(PLANS[0])),
        Scene("apply", edits(HALVED)),
        Scene("propose", idea(PLANS[1])),
        Scene("apply", edits(DEEPER)),
        Scene("triage", FIX),
        Scene("apply", edits(REPAIRED)),
        Scene("propose", idea(PLANS[2])),
        Scene("apply", edits(CHEATING, HALVED_AGAIN), edits(HALVED_AGAIN)),
    ]


def edits(*changes: Change) -> str:
    made = [{"op": "replace", "path": each.path, "old": each.old, "new": each.new} for each in changes]
    return json.dumps({"status": "applied", "summary": "as planned", "edits": made})


def sleep_through(lab: Lab, server: ModelServer, agent: str) -> None:
    """Start the run as a person does in the evening, and wait for the morning."""
    lab.command("start", "--run-id", lab.run_id, "--loops", "3", "--proposer", agent)
    deadline = time.monotonic() + NIGHT_SECONDS
    while lab.live():
        assert time.monotonic() < deadline, f"the night does not end: {lab.paths.log.read_text()[-3000:]}"
        time.sleep(0.1)
    assert not server.wrong, server.wrong[0]
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
        ("success", "keep", 1),
    ]
    assert [trial.proposer for trial in state.trials[1:]] == [agent] * 3
    assert [(end.iteration, end.attempt, end.outcome.status) for end in lab.events(TrainingEnded)] == [
        (0, 1, "success"),
        (1, 1, "success"),
        (2, 1, "crash"),
        (2, 2, "success"),
        (3, 1, "success"),
    ]
    diffs(lab)
    table(lab)
    calls(lab, server, agent)
    frozen(lab)
    no_key(lab)
    trained_without_keys(lab, ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"))
    assert {turn.key for turn in server.turns} == {KEY}


def diffs(lab: Lab) -> None:
    """What was trained is what the agent edited, and that alone."""
    changed = []
    for trial in lab.state.trials[1:]:
        diff = git(lab.root, "diff", "--unified=0", trial.base, trial.commit)
        changed.append([line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")])
    assert changed == [
        ["-LR = 0.08  # [0.0001, 1.0] log; learning rate", "+LR = 0.04  # [0.0001, 1.0] log; learning rate"],
        ["-DEPTH = 4  # [1, 12]; layers", "+DEPTH = 6  # [1, 12]; layers"],
        ["-LR = 0.04  # [0.0001, 1.0] log; learning rate", "+LR = 0.02  # [0.0001, 1.0] log; learning rate"],
    ]
    (repair,) = (event for event in lab.events(Triaged) if event.action == "fix_and_rerun")
    assert (repair.iteration, repair.attempt, repair.reason) == (2, 1, "WIDTH is given no value")


def table(lab: Lab) -> None:
    rows = [line.split("\t") for line in (lab.root / "results.tsv").read_text().splitlines()[1:]]
    assert [(row[3], row[4]) for row in rows[1:]] == [("keep", plan) for plan in PLANS]


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
    for call in good:
        folder = lab.paths.folder / call.transcript
        kept = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
        asked = {"propose": "Propose the next", "apply": "Apply this experiment", "triage": "The training of a"}
        assert asked[call.stage] in kept
        assert {"propose": "change_plan", "apply": "applied", "triage": "fix_and_rerun"}[call.stage] in kept


def busy(lab: Lab, server: ModelServer, waits_itself: bool) -> None:
    """The model was busy once. Some agents wait and ask again themselves; for the others the run does."""
    assert server.refused == 1
    calls = [call for call in lab.events(AgentCalled) if call.busy]
    assert [(call.iteration, call.stage) for call in calls] == ([] if waits_itself else [(1, "propose")])


def took(lab: Lab, server: ModelServer) -> None:
    """The tokens that the server says were used are the tokens that the run counts."""
    spent = lab.state.spent
    assert (spent.input_tokens, spent.output_tokens) == (server.input_tokens, server.output_tokens)


def frozen(lab: Lab) -> None:
    """The evaluator is what it was, in the checkout and in all that was trained; who reached for it is named."""
    for trial in lab.state.trials:
        assert git(lab.root, "diff", "HEAD", trial.commit, "--", "evaluate.py") == ""
    assert git(lab.root, "status", "--porcelain") == ""


def named(lab: Lab) -> None:
    """What the agent edited and must not is undone, and said in the journal and where a person looks."""
    (applied,) = (event for event in lab.events(Applied) if event.refused)
    assert (applied.iteration, applied.status, applied.refused) == (3, "applied", ("evaluate.py",))
    assert applied.changed == ("train.py",)
    assert "evaluate.py" in lab.paths.log.read_text()


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
    assert len(logs) == 5
    for log in (each for each in logs if "NameError" not in each.read_text()):
        present = {line.split(" ")[0] for line in log.read_text().splitlines()}
        assert "AUTOEXP_JOB" in present  # it did print its environment
        assert not present & set(names)
