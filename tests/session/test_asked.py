"""While an agent is asked: what status says, when a person's idea is used, what a question needs."""

from __future__ import annotations

import json
import os
import signal

from support import Lab, until

from autoexp.runs import events as ev
from autoexp.testing import proposal

WAITS = """\
import json, os, pathlib, time
lab = pathlib.Path(os.environ["LAB"])
(lab / "called").touch()
while not (lab / "answer").exists():
    time.sleep(0.01)
print((lab / "answer").read_text())
"""
QUESTION = json.dumps({"status": "need_input", "description": "which GPU?"})


def asking(lab: Lab, loops: int) -> None:
    """A live run whose agent thinks about iteration 1."""
    lab.agent(WAITS)
    lab.script(proposal(LR=0.04), proposal(LR=0.03), proposal(LR=0.02))
    lab.command("start", "--run-id", "lab", "--loops", str(loops), "--proposer", "fake")
    until(lambda: (lab.path / "called").exists(), "the call")


def answers(lab: Lab, text: str) -> None:
    (lab.path / "draft").write_text(text)
    (lab.path / "draft").rename(lab.path / "answer")


def test_status_tells_who_is_asked_and_that_a_stop_waits_for_it(lab: Lab) -> None:
    asking(lab, 2)
    report = lab.status()
    (call,) = report["asked"]
    assert (call["agent"], call["iteration"], call["stage"], call["number"], call["tries"]) == (
        "fake", 1, "propose", 1, 2,
    )  # fmt: skip
    assert call["ends"] - call["since"] == 600.0
    assert (report["waiting_on"], report["eta_seconds"], report["stop_asked"]) == ("a proposal", None, False)
    said = lab.command("status")
    assert "asked      fake, for an idea (iteration 1): 0:0" in said
    assert "try 1 of 2, ends at 10:00 at the latest" in said

    lab.command("stop")
    report = lab.status()
    assert report["stop_asked"]
    assert report["waiting_on"] == "a proposal; then it stops, as was asked (at once: autoexp stop --now)"
    answers(lab, "no idea")
    lab.finished()
    assert lab.status()["asked"] == []


def test_a_killed_session_asks_nobody_any_more(lab: Lab) -> None:
    asking(lab, 1)
    os.kill(lab.status()["pid"], signal.SIGKILL)
    until(lambda: not lab.live(), "the end of the session")
    assert lab.status()["asked"] == []
    answers(lab, json.dumps(proposal(LR=0.07).model_dump(mode="json")))  # for the one that was killed, and for the next
    lab.resume()
    assert (lab.state.completed, lab.state.asking) == (1, {})


def test_an_idea_that_comes_while_the_agent_thinks_is_used_after_its_own(lab: Lab) -> None:
    asking(lab, 2)
    said = lab.command("propose", "--set", "DEPTH=5")
    assert "as iteration 2, when those before it are under way (fake is being asked for 1: should it fail" in said
    answers(lab, json.dumps(proposal(LR=0.07).model_dump(mode="json")))
    state = lab.finished()
    assert [trial.proposer for trial in state.trials] == ["baseline", "fake", "queue"]


def test_one_that_would_come_too_late_says_so(lab: Lab) -> None:
    asking(lab, 1)
    said = lab.command("propose", "--set", "DEPTH=5")
    assert "when the run does more than the 1 it was asked for" in said
    assert "autoexp resume --run-id lab --loops 1" in said
    answers(lab, json.dumps(proposal(LR=0.07).model_dump(mode="json")))
    lab.finished()


def test_a_persons_idea_comes_before_the_fallbacks_when_the_agent_fails(lab: Lab) -> None:
    asking(lab, 2)
    lab.command("propose", "--set", "DEPTH=5")
    answers(lab, "I have no idea")
    state = lab.finished()
    assert [trial.proposer for trial in state.trials] == ["baseline", "queue", "scripted"]


def test_a_question_needs_no_more_than_its_words(lab: Lab) -> None:
    asking(lab, 1)
    answers(lab, QUESTION)
    lab.finished()
    assert [event.text for event in lab.events(ev.QuestionAsked)] == ["which GPU?"]
    problems = [event.problem for event in lab.events(ev.AgentCalled)]
    assert all("does not fit" not in problem for problem in problems)


def test_words_of_a_person_that_an_agent_does_nothing_about_are_not_lost(lab: Lab) -> None:
    """The row is no crash and has no commit; a note has the command that tries the words again."""
    lab.agent('print(\'{"status": "applied", "summary": "done"}\')')
    lab.script(proposal(LR=0.04), proposal(LR=0.03))
    lab.start(0)
    lab.command("propose", "make it better")
    lab.resume("--loops", "1")
    (event,) = (event for event in lab.events(ev.Applied) if event.iteration)
    assert event.status == "empty"
    row = lab.command("log").splitlines()[2].split()
    assert row[:3] == ["1", "-", "-"] and "untrained" in row and "crash" not in row
    report = lab.status()
    assert (report["counts"]["crash"], report["counts"]["untrained"]) == (0, 1)
    assert "1 not trained" in lab.command("status")
    (note,) = (note for note in report["notes"] if "was not tried" in note)
    command = note.rpartition("to try it again: autoexp ")[2].split()
    assert "make it better" in lab.command(*command)
    lab.agent("import pathlib\nf = pathlib.Path('train.py')\nf.write_text(f.read_text().replace('0.08', '0.02'))\n"
              'print(\'{"status": "applied", "summary": "done"}\')')  # fmt: skip
    lab.resume("--loops", "1")
    assert lab.state.trials[2].constants["LR"] == 0.02
