"""steer, answer, ideas, brief: on live runs and on dead ones, through the real command."""

from __future__ import annotations

import json
import subprocess

import pytest
from support import Lab, until

from autoexp.runs import events as ev
from autoexp.testing import proposal

AGENT = '''\
"""Keeps each prompt in $LAB/prompts and answers with the next line of $LAB/answers."""

import json, os, pathlib, sys

lab = pathlib.Path(os.environ["LAB"])
(lab / "prompts").mkdir(exist_ok=True)
number = len(list((lab / "prompts").iterdir())) + 1
(lab / "prompts" / f"{number:02d}").write_text(sys.stdin.read())
print((lab / "answers").read_text().splitlines()[number - 1])
'''


def idea(lr: float, **more: object) -> dict[str, object]:
    words = f"LR = {lr}"
    edits = [{"op": "set", "name": "LR", "value": lr}]
    return {"status": "ok", "description": words, "change_plan": words, "commit_description": words, "edits": edits} | {
        **more
    }


QUESTION = {**idea(0.5), "status": "need_input", "description": "which GPU?"}


def answers(lab: Lab, *found: dict[str, object]) -> None:
    lab.agent(AGENT)
    (lab.path / "answers").write_text("".join(json.dumps(each) + "\n" for each in found))


def prompts(lab: Lab) -> list[str]:
    folder = lab.path / "prompts"
    return [path.read_text() for path in sorted(folder.iterdir())] if folder.exists() else []


def begin(lab: Lab, loops: int, *args: str, background: bool = False) -> None:
    flags = ["--run-id", lab.run_id, "--loops", str(loops), "--proposer", "fake"]
    lab.command("start", *flags, *args, *([] if background else ["--no-background-train"]))


def test_brief_prints_what_the_next_call_sends_byte_for_byte(lab: Lab) -> None:
    lab.workspace.program.write_text("Be bold; é and 日本 too.\n")
    answers(lab, idea(0.04), idea(0.5), idea(0.03, lesson="higher is worse"), idea(0.02))
    begin(lab, 3)
    with lab.popen("brief") as process:
        out, err = process.communicate()
    assert process.returncode == 0
    whole = json.loads(lab.command("brief", "--json").rpartition("}")[0] + "}")
    lab.resume("--loops", "1")
    assert out == prompts(lab)[3]
    assert "Be bold; é and 日本 too." in out and "higher is worse" in out
    assert err == f"{whole['tokens']} of 30000 tokens, counted by autoexp-8k\n"
    assert whole["ask"] == "propose" and whole["iteration"] == 4
    kept = lab.paths.iteration(4) / "propose"
    assert not kept.exists() or all("Be bold" in path.read_text() for path in kept.rglob("prompt.txt"))


def test_steering_a_live_run_reaches_the_next_brief_and_stays_until_it_is_withdrawn(lab: Lab) -> None:
    answers(lab, idea(0.04), idea(0.03), idea(0.02))
    lab.hold()
    begin(lab, 2, background=True)
    until(lambda: "0-1" in lab.trainings(), "the first training")
    said = lab.command("steer", "leave the optimizer alone tonight")
    assert "  1  leave the optimizer alone tonight" in said
    assert lab.live()
    assert lab.status()["guidance"] == [{"number": 1, "text": "leave the optimizer alone tonight", "withdrawn": False}]
    lab.release()
    lab.finished()
    assert all("1. leave the optimizer alone tonight" in prompt for prompt in prompts(lab)) and len(prompts(lab)) == 2
    assert "leave the optimizer alone" in lab.command("steer", "--list")
    said = lab.command("steer", "--withdraw", "1")
    assert said == "withdrawn: leave the optimizer alone tonight\nno guidance is in force\n"
    lab.resume("--loops", "1")
    assert "leave the optimizer" not in prompts(lab)[2]
    assert lab.status()["guidance"] == []
    assert len(lab.events(ev.GuidanceGiven)) == len(lab.events(ev.GuidanceWithdrawn)) == 1


def test_words_to_a_dead_run_are_in_its_journal_at_once_and_once(lab: Lab) -> None:
    answers(lab, idea(0.04))
    lab.script()
    lab.start(0)
    lab.command("steer", "first")
    again = json.loads(lab.command("steer", "second\nline", "--json"))
    assert [each["text"] for each in again["guidance"]] == ["first", "second\nline"]
    assert not list(lab.paths.requests.glob("*.json")) and not lab.live()
    (event, _) = lab.events(ev.GuidanceGiven)
    request = {"kind": "steer", "text": "first"}
    (lab.paths.requests / event.request).write_text(json.dumps(request))  # it was killed before it removed the file
    lab.command("resume", "--run-id", lab.run_id, "--loops", "1", "--proposer", "fake", "--no-background-train")
    assert [each.text for each in lab.state.steering] == ["first", "second\nline"]
    assert "2. second\n2. line\n1. first" in prompts(lab)[0]


def test_a_question_is_shown_and_its_answer_is_in_later_briefs(lab: Lab) -> None:
    answers(lab, QUESTION, QUESTION, idea(0.04))
    lab.script(proposal(DEPTH=5))
    begin(lab, 1)
    assert [trial.proposer for trial in lab.state.trials] == ["baseline", "scripted"]
    status = lab.status()
    assert [(each["number"], each["text"], each["by"]) for each in status["questions"]] == [(1, "which GPU?", "fake")]
    assert 'which GPU?  (autoexp answer 1 "...")' in lab.command("status")
    assert "which GPU?" in lab.command("watch")
    assert "not answered yet" in lab.command("answer")
    assert "the big one" in lab.command("answer", "1", "the big one")
    assert lab.status()["questions"] == []
    lab.resume("--loops", "1")
    assert "Asked: which GPU?\nAnswered by the person: the big one" in prompts(lab)[2]
    assert lab.state.trials[2].proposer == "fake"


def test_ideas_are_listed_with_where_they_came_from_and_what_became_of_them(lab: Lab) -> None:
    answers(lab, idea(0.04, ideas=["wider", "deeper"]), idea(0.03, idea=1))
    lab.script()
    lab.start(0)
    assert lab.command("ideas") == "no idea was kept\n"
    lab.command("resume", "--loops", "2", "--proposer", "fake", "--no-background-train")
    assert "dropped      deeper  (fake, iteration 1)" in lab.command("ideas", "--drop", "2")
    told = lab.command("ideas")
    assert "  1  tried in 2   wider  (fake, iteration 1)" in told and "  2  dropped      deeper" in told
    assert [each["tried"] for each in json.loads(lab.command("ideas", "--json"))] == [2, None]
    assert "no idea that waits has the number 2" in lab.command("ideas", "--drop", "2", code=1)


def test_words_alone_are_applied_by_the_agent_as_a_persons_proposal(lab: Lab) -> None:
    lab.agent(
        "import sys, pathlib, json\n"
        "pathlib.Path('../../asked').write_text(sys.stdin.read())\n"
        "file = pathlib.Path('train.py')\n"
        "file.write_text(file.read_text().replace('LR = 0.08', 'LR = 0.04'))\n"
        "print(json.dumps({'status': 'applied', 'summary': 'halved'}))\n"
    )
    lab.script()
    lab.start(0)
    lab.command("steer", "no dropout")
    lab.command("propose", "halve the rate")
    lab.resume("--loops", "1")
    trial = lab.state.trials[1]
    assert (trial.description, trial.proposer, trial.decision) == ("halve the rate", "queue", "keep")
    asked = (lab.paths.folder / "asked").read_text()
    assert asked.startswith("Apply this experiment to the program.\n")
    assert "halve the rate" in asked and "--- train.py" in asked and "1. no dropout" in asked
    assert "def val_bpb" not in asked


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("steer", " "), 2, "no words"),
        (("steer", "x" * 5000), 2, "5000 characters"),
        (("steer", "words", "--list"), 2, "one of them"),
        (("steer", "--withdraw", "9"), 1, "no guidance in force has the number 9"),
        (("answer", "3", "yes"), 1, "there is no question 3"),
        (("answer", "3"), 2, "the answer is missing"),
        (("ideas", "--drop", "4"), 1, "no idea that waits has the number 4"),
        (("brief", "--run-id", "nobody"), 1, "there is no run 'nobody'"),
    ],
)
def test_what_cannot_be_is_told_in_two_lines(lab: Lab, args: tuple[str, ...], code: int, said: str) -> None:
    lab.script()
    lab.start(0)
    told = lab.command(*args, code=code)
    assert said in told and told.startswith("error: ") and "\n  try: " in told


def test_lessons_are_kept_out_of_git(lab: Lab) -> None:
    text = lab.workspace.settings.read_text()
    lab.workspace.settings.write_text(text.replace('name = "fake"', 'name = "fake"\nlessons = true'))
    answers(lab, idea(0.04, lesson="small is beautiful"))
    begin(lab, 1)
    assert "- small is beautiful (run lab, iteration 1)" in lab.workspace.lessons.read_text()
    seen = subprocess.run(["git", "status", "--porcelain"], cwd=lab.root, capture_output=True, text=True, check=True)
    assert "workflows" not in seen.stdout
