"""The eight laws of the design, each broken by trying."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import NOISY, TRAINER, Lab, decisions, gone, told, until

import autoexp
from autoexp.plugins.manager import BUILTINS, STAGES, plugin_manager
from autoexp.runs import events as ev
from autoexp.runs.journal import read
from autoexp.runs.plan import TOP
from autoexp.runs.records import Patch
from autoexp.runs.state import replay
from autoexp.session.snapshot import load
from autoexp.spec.markers import hookimpl
from autoexp.testing import Scripted, git, proposal, run
from autoexp.workspace.paths import Workspace

FROZEN = """\
--- a/evaluate.py
+++ b/evaluate.py
@@ -4,4 +4,4 @@
 
 
 def val_bpb(lr, depth):
-    return 1.0 + math.log10(lr / 0.01) ** 2 / 10 + (depth - 6) ** 2 / 100
+    return 0.0
"""
NEW_FILE = "--- /dev/null\n+++ b/math.py\n@@ -0,0 +1 @@\n+log10 = lambda x: 0.0\n"

# -- 1. The journal is the truth --------------------------------------------------------------------------------------


def test_1_every_view_is_rebuilt_from_the_journal(lab: Lab) -> None:
    """state.json, both tables, the snapshot, the best ref and the run branch are lost, and spoilt, and come back."""
    lab.script(proposal(LR=0.04), proposal(LR=0.5))
    lab.start(2)
    branch, best = (git(lab.root, "rev-parse", name) for name in ("lab/branch", "refs/autoexp/lab/best"))
    tables = lab.paths.results.read_bytes()
    status = lab.status()
    for spoilt in (False, True):
        for path in (lab.paths.state, lab.paths.results, lab.root / "results.tsv", lab.paths.snapshot):
            path.write_text('{"best": null, "trials": []') if spoilt else path.unlink(missing_ok=True)
        git(lab.root, "update-ref", "-d", "refs/heads/lab/branch")
        git(lab.root, "update-ref", "-d", "refs/autoexp/lab/best")
        assert {**lab.status(), "notes": 0, "paths": 0} == {**status, "notes": 0, "paths": 0}
        lab.resume()
        assert lab.paths.results.read_bytes() == (lab.root / "results.tsv").read_bytes() == tables
        assert git(lab.root, "rev-parse", "lab/branch") == branch
        assert git(lab.root, "rev-parse", "refs/autoexp/lab/best") == best
    assert lab.trainings() == ["0-1", "1-1", "2-1"]


def test_1_the_journal_only_grows_and_is_ahead_of_every_view(workspace: Workspace) -> None:
    """At each event that a tracker is told of, the journal begins with all that it held before, and ends with it."""
    seen: list[bytes] = []

    class Watching:
        def track(self, event: ev.Event, state: Any) -> None:
            data = workspace.run("test").journal.read_bytes()
            assert data.startswith(seen[-1] if seen else b"")
            assert json.loads(data.splitlines()[-1])["type"] == event.type
            assert load(workspace.run("test")) == state
            seen.append(data)

    class Plugin:
        @hookimpl
        def autoexp_register_trackers(self, register: Any) -> None:
            register("watching", Watching())

    with workspace.settings.open("a") as file:
        file.write('\n[run]\ntrackers = ["watching"]\n')
    for _ in range(2):
        state = run(workspace, 1, Scripted(proposal(LR=0.04), proposal(LR=0.5)), plugins={"watch": Plugin()})
    assert "tracker" not in workspace.run("test").log.read_text()
    assert len(seen) == len(read(workspace.run("test").journal)) - 2  # created and planned before there was a session
    assert replay(read(workspace.run("test").journal)) == state


# -- 2. Beside the user -----------------------------------------------------------------------------------------------


def test_2_nothing_of_the_users_is_touched(lab: Lab) -> None:
    """A checkout with edits, staged files, a stash and a detached HEAD, through a keep, a refusal, a crash, a kill."""
    root = lab.root
    who = ("-c", "user.name=A", "-c", "user.email=a@b")
    (root / "train.py").write_text(TRAINER + "# stashed\n")
    git(root, *who, "stash", "--quiet")
    (root / "train.py").write_text(TRAINER + "# mine\n")
    (root / "evaluate.py").write_text("# staged, and broken\n")
    (root / "staged.py").write_text("")
    git(root, "add", "evaluate.py", "staged.py")
    (root / "untracked.txt").write_text("precious")
    git(root, "checkout", "--quiet", "--detach")
    os.utime(root / "untracked.txt", (1, 1))

    described = re.compile(rb'\[branch "lab/branch"\]\n\tdescription = [^\n]*\n')  # of the run's own branch

    def seen() -> dict[str, Any]:
        ours = {"workflows", ".git", "results.tsv"}
        files = [path for path in root.rglob("*") if path.relative_to(root).parts[0] not in ours]
        return {
            "status": git(root, "status", "--porcelain"),
            "index": git(root, "ls-files", "--stage", "--debug"),
            "head": (root / ".git" / "HEAD").read_bytes(),
            "stash": git(root, "stash", "list"),
            "config": described.sub(b"", (root / ".git" / "config").read_bytes()),
            "branches": [ref for ref in git(root, "for-each-ref", "refs/heads").splitlines() if "lab/" not in ref],
            "files": {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.is_file()},
        }

    before = seen()
    lab.script(proposal(LR=0.04), proposal(Patch(op="patch", diff=FROZEN)), proposal(FAILS="exit"), proposal(LR=0.02))
    lab.start(3)
    lab.hold()
    lab.command("resume", "--run-id", lab.run_id, "--loops", "1")
    until(lambda: "4-1" in lab.trainings(), "the last training")
    lab.command("stop", "--run-id", lab.run_id, "--now")
    lab.release()
    lab.finished()
    lab.resume()
    assert [trial.decision for trial in lab.state.trials] == ["keep", "keep", "crash", "crash", "keep"]
    assert seen() == before
    assert "LR = 0.02" in git(root, "show", "lab/branch:train.py")


# -- 3. A crash costs nothing but time --------------------------------------------------------------------------------

KILLER = """\
import os, random, signal, sys, threading, time
from pathlib import Path
from autoexp.plugins.manager import plugin_manager
from autoexp.runs.journal import Journal
from autoexp.session.loop import Session
from autoexp.workspace.paths import RunPaths, Workspace

folder, seed, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
plugin_manager()
luck = random.Random(seed)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EFFECTS = {"open", "os.rename", "os.remove", "os.mkdir", "subprocess.Popen", "os.truncate", "os.posix_spawn"}

def session(limit):
    os.environ["AUTOEXP_TEST_CHILD"] = "1"
    if mode == "effects":
        left = [limit]
        def hook(event, args):
            if event in EFFECTS and (event != "open" or args[2] & WRITING):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
    if mode == "events":
        append = Journal.append
        def killed(self, event):
            key = f"{event.type} {getattr(event, 'iteration', '')} {getattr(event, 'attempt', '')}\\n"
            done = folder / "killed"
            if key not in (done.read_text() if done.exists() else ""):
                with done.open("a") as file:
                    file.write(key)
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, event)
        Journal.append = killed
    Session(Workspace(folder.parents[2]), RunPaths(folder), say=lambda line: None).run()
    os._exit(0)

kills = 0
while True:
    assert kills < 300, "it does not come forward"
    limit = luck.randrange(1, 60)
    child = os.fork()
    if child == 0:
        try:
            session(limit)
        finally:
            os._exit(9)
    if mode == "times":
        time.sleep(luck.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, f"exit {os.WEXITSTATUS(status)}"
        break
    kills += 1
print(kills)
"""
IDEAS = [proposal(LR=0.04), proposal(LR=0.5), proposal(FAILS="exit"), proposal(DEPTH=6), proposal(LR=0.01)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run that nobody kills comes to."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
            patch.setenv(name, os.devnull)
        lab = Lab(tmp_path_factory.mktemp("calm"))
        lab.script(*IDEAS)
        lab.start(len(IDEAS))
        return told(lab.state, ("iteration", "decision", "metric", "status", "source", "constants", "attempts"))


@pytest.mark.parametrize(("mode", "seed", "least"), [("events", 0, 40), ("effects", 1, 8), ("times", 3, 4)])
def test_3_a_session_that_is_killed_again_and_again_ends_with_the_same_decisions(
    lab: Lab, calm: Any, mode: str, seed: int, least: int
) -> None:
    """SIGKILL once before each event is written, its effect done; at random effects; and at random times.

    The same trials, each trained once, a row each, and a branch at the best.
    """
    lab.script(*IDEAS)
    lab.start(len(IDEAS), "--only", "setup")
    folder = lab.paths.folder
    (folder / "requests").mkdir(exist_ok=True)
    (folder / "requests" / "1.json").write_text(json.dumps({"kind": "resume", "changes": {"stages": TOP}}))
    command = [sys.executable, "-c", KILLER, str(folder), str(seed), mode]
    done = subprocess.run(
        command, env={**os.environ, **lab.environ}, cwd=lab.root, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-3000:] + lab.paths.log.read_text()[-2000:]
    assert int(done.stdout) >= least
    fields = ("iteration", "decision", "metric", "status", "source", "constants", "attempts")
    state = lab.state
    again = told(state, fields)
    lost = {event.iteration for event in lab.events(ev.Triaged) if event.action == "rerun"}
    assert len(again) == len(calm), lab.paths.log.read_text()[-6000:]
    for mine, theirs in zip(again, calm, strict=True):
        if mine["iteration"] in lost:  # killed between job.json and its keeper: it was never trained
            theirs = {**theirs, "attempts": mine["attempts"]}
        assert mine == theirs
    assert state.open == {}
    finished = Counter(lab.trainings())
    assert set(finished.values()) == {1}, "a training was done twice"
    assert len(finished) == len(state.trials)
    rows = (lab.root / "results.tsv").read_text().splitlines()
    assert [row.split("\t")[3] for row in rows[1:]] == [trial.decision for trial in state.trials]
    assert state.best is not None
    assert git(lab.root, "rev-parse", "lab/branch") == state.best.commit
    for trial in state.trials:
        assert git(lab.root, "rev-parse", f"{trial.ref}^{{commit}}") == trial.commit


def test_3_kills_change_no_look_again(tmp_path: Path) -> None:
    """With a rule that asks for more trainings: killed once before each event, a run takes the same looks, each
    training is done once, and it decides the same.
    """
    ideas = [proposal(LR=0.06), proposal(DEPTH=5), proposal(LR=0.075)]
    fields = ("iteration", "decision", "metric", "status", "attempts", "why", "evidence")
    found = []
    for name in ("calm", "killed"):
        lab = Lab(tmp_path / name, settings="[rules.confirm]\nthrift = 0.1\n", trainer=NOISY)
        lab.script(*ideas)
        if name == "calm":
            lab.start(len(ideas), "--rule", "confirm")
        else:
            lab.start(len(ideas), "--rule", "confirm", "--only", "setup")
            folder = lab.paths.folder
            (folder / "requests").mkdir(exist_ok=True)
            (folder / "requests" / "1.json").write_text(json.dumps({"kind": "resume", "changes": {"stages": TOP}}))
            command = [sys.executable, "-c", KILLER, str(folder), "0", "events"]
            environ = {**os.environ, **lab.environ}
            done = subprocess.run(command, env=environ, cwd=lab.root, capture_output=True, text=True, timeout=150)
            assert done.returncode == 0, done.stderr[-3000:] + lab.paths.log.read_text()[-2000:]
        assert set(Counter(lab.trainings()).values()) == {1}, "a training was done twice"
        assert lab.state.open == {}
        looks = [(e.iteration, e.of, e.seed, e.why) for e in lab.events(ev.LookAgain)]
        assert {of for _, of, _, _ in looks} == {"candidate", "incumbent"}
        assert len(lab.trainings()) == len(ideas) + 1 + len(looks) == len(lab.state.measurements)
        found.append((told(lab.state, fields), looks, [m.value for m in lab.state.measurements], lab.state.best))
    assert found[0][:3] == found[1][:3]


def test_3_a_killed_keeper_costs_another_attempt_and_no_decision(lab: Lab, calm: Any) -> None:
    lab.script(*IDEAS[:2])
    lab.hold()
    lab.background(2)
    for number in range(3):
        until(lambda n=number: f"{n}-1" in lab.trainings(), "a training")
        job = str(lab.paths.attempt(number, 1))
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[-1:] == [job]:
                process.kill()
        if number == 2:
            lab.release()
        else:
            until(lambda n=number: f"{n}-2" in lab.trainings(), "another attempt")
            lab.release()
            until(lambda n=number: f"{n}-2" in lab.trainings("ended"), "its end")
            lab.hold()
    state = lab.finished()
    expected = [(trial["iteration"], trial["decision"], trial["metric"]) for trial in calm[:3]]
    assert decisions(state) == expected
    assert [trial.attempts for trial in state.trials] == [2, 2, 2]


def test_3_a_kill_of_everything_at_once_costs_nothing_but_time(lab: Lab, calm: Any) -> None:
    """As when the machine goes down: session, keeper and trainer, in one moment."""
    lab.script(*IDEAS[:1])
    lab.hold()
    lab.background(1)
    until(lambda: lab.trainings() == ["0-1"], "the baseline")
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if str(lab.path) in f"{process.info['cwd']} {process.info['cmdline']}" and process.pid != os.getpid():
            process.kill()
    until(lambda: not lab.live(), "the end")
    assert "the session was killed" in lab.status()["ended"]
    lab.release()
    lab.resume()
    assert decisions(lab.state) == [(t["iteration"], t["decision"], t["metric"]) for t in calm[:2]]


# -- 4. Every training has a keeper -----------------------------------------------------------------------------------


def test_4_without_a_session_the_deadline_holds_and_the_ending_is_written(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    text = lab.workspace.settings.read_text().replace("timeout_seconds = 120", "timeout_seconds = 2")
    lab.workspace.settings.write_text(text)
    lab.script(proposal(LR=0.04))
    lab.hold()
    pid = json.loads(lab.background(1, "--json"))["pid"]
    until(lambda: lab.trainings() == ["0-1"], "the baseline")
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), "the end of the session")
    ending = lab.paths.attempt(0, 1) / "exit.json"
    until(ending.exists, "the deadline")
    assert json.loads(ending.read_text())["status"] == "timeout"
    lab.release()
    said = lab.resume(code=1)
    assert "timed out after 2 s" in said
    assert lab.trainings() == ["0-1"]


# -- 5. Only a real number counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["nan", "silent", "exit"])
def test_5_a_missing_number_is_a_crash_and_never_zero(lab: Lab, fails: str) -> None:
    lab.script(proposal(FAILS=fails))
    lab.start(1)
    trial = lab.state.trials[1]
    assert (trial.decision, trial.metric) == ("crash", None)
    assert lab.state.best is not None and lab.state.best.iteration == 0
    status = lab.status()
    assert status["counts"]["crash"] == 1
    assert status["best_val_bpb"] == lab.state.trials[0].metric


def test_5_each_training_sees_the_candidates_source_and_the_frozen_evaluator(tmp_path: Path) -> None:
    """Although each one spoils its worktree while it runs, and leaves files that Python would import."""
    spoiling = TRAINER.replace(
        'tell("started")\n',
        'tell("started")\n'
        "import hashlib, pathlib, subprocess\n"
        "here = pathlib.Path(__file__).parent\n"
        "names = sorted(p.name for p in here.iterdir() if p.name not in ('.git', '__pycache__'))\n"
        "seen = {n: hashlib.sha1((here / n).read_bytes()).hexdigest() for n in names}\n"
        "pathlib.Path(lab, 'seen-' + key).write_text(json.dumps(seen))\n"
        "(here / 'evaluate.py').write_text('def val_bpb(lr, depth): return -1.0')\n"
        "(here / 'math.py').write_text('log10 = lambda x: 0.0')\n"
        "(here / 'train.py').write_text('print(\"val_bpb: -5\")')\n"
        "subprocess.run(['git', 'add', 'evaluate.py'], check=True)\n",
    )
    lab = Lab(tmp_path, trainer=spoiling)
    lab.script(proposal(LR=0.04), proposal(DEPTH=5))
    lab.start(2)
    for trial in lab.state.trials:
        assert trial.metric is not None and trial.metric > 1.0
        seen = json.loads((lab.path / f"seen-{trial.iteration}-1").read_text())
        files = git(lab.root, "ls-tree", "-r", "--name-only", trial.commit).splitlines()
        assert sorted(seen) == sorted(files)
        for name in files:
            blob = subprocess.run(
                ["git", "show", f"{trial.commit}:{name}"], cwd=lab.root, capture_output=True, check=True
            ).stdout
            assert hashlib.sha1(blob).hexdigest() == seen[name]
    evaluators = {git(lab.root, "rev-parse", f"{trial.commit}:evaluate.py") for trial in lab.state.trials}
    assert len(evaluators) == 1


# -- 6. Only what is editable -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("diff", "named"), [(FROZEN, "evaluate.py"), (NEW_FILE, "math.py"), (FROZEN + NEW_FILE, "evaluate.py, math.py")]
)
def test_6_a_patch_of_anything_else_is_refused_named_and_not_trained(lab: Lab, diff: str, named: str) -> None:
    lab.script(proposal(Patch(op="patch", diff=diff), LR=0.04))
    lab.start(1)
    (applied,) = lab.events(ev.Applied)
    assert (applied.status, ", ".join(applied.refused)) == ("refused", named)
    trial = lab.state.trials[1]
    assert (trial.decision, trial.status) == ("crash", "untrained")
    assert named in trial.reason
    assert lab.trainings() == ["0-1"]
    assert named.split(",")[0] in (lab.paths.attempt(1, 1) / "patch.diff").read_text()


@pytest.mark.parametrize(
    ("harm", "named", "left"),
    [
        ("open('evaluate.py', 'a').write('# x')", "evaluate.py", True),
        ("os.remove('evaluate.py')", "evaluate.py", True),
        ("os.remove('evaluate.py'); os.symlink('train.py', 'evaluate.py')", "evaluate.py", True),
        ("os.chmod('evaluate.py', 0o755)", "evaluate.py", True),
        ("open('math.py', 'w').write('')", "math.py", True),
        ("open('autoexp.toml', 'a').write('')", "", True),
        ("os.remove('train.py'); os.symlink('/etc/hostname', 'train.py')", "train.py", False),
        ("os.remove('train.py')", "train.py", False),
        ("open('evaluate.py', 'a').write('# x'); " + "commit()", "evaluate.py", True),
        ("os.makedirs('.git-x'); open('.git-x/y', 'w').write('')", ".git-x/y", True),
        ("os.rename('train.py', 'Train.py')", "Train.py", False),
    ],
)
def test_6_whatever_an_agent_says_its_changes_are_looked_at(lab: Lab, harm: str, named: str, left: bool) -> None:
    """It says that it applied the change, and touched something else: edited, deleted, committed, linked. That is
    undone and named; what is `left` of the change is trained, without it.
    """
    lab.script(proposal(description="words for an agent"))
    lab.agent(
        "import json, os, subprocess\n"
        "def commit(): subprocess.run('git -c user.name=a -c user.email=a@b commit -qam x', shell=True, check=True)\n"
        "text = open('train.py').read(); open('train.py', 'w').write(text.replace('LR = 0.08', 'LR = 0.02'))\n"
        f"{harm}\n"
        "print(json.dumps({'status': 'applied', 'summary': 'only train.py, I promise'}))\n"
    )
    lab.start(1)
    (applied,) = lab.events(ev.Applied)
    assert (named in applied.refused) if named else not applied.refused
    assert named in applied.summary
    if left:
        assert (applied.status, applied.changed) == ("applied", ("train.py",))
        trial = lab.state.trials[1]
        assert git(lab.root, "diff", "--name-only", trial.base, trial.commit) == "train.py"
        assert git(lab.root, "diff", "--stat", "main", trial.commit, "--", "evaluate.py") == ""
        assert lab.trainings() == ["0-1", "1-1"]
    else:
        assert applied.status == "refused"
        assert lab.trainings() == ["0-1"]
        assert lab.state.trials[1].decision == "crash"


# -- 7. Built-ins are plugins -----------------------------------------------------------------------------------------


def test_7_without_its_plugins_autoexp_can_do_nothing() -> None:
    """No stage and no part comes in but through a hook."""
    manager = plugin_manager(builtins=())
    hooks = [name for name in vars(manager.hook) if name.startswith("autoexp_")]
    assert len(hooks) == 15
    assert [name for name in hooks if getattr(manager.hook, name).get_hookimpls()] == []
    full = plugin_manager()
    assert {name for name, _ in full.list_name_plugin()} >= set(BUILTINS)


@pytest.mark.parametrize("stage", STAGES)
def test_7_a_third_partys_stage_takes_the_place_of_the_built_in(workspace: Workspace, stage: str) -> None:
    """By the same hook, and only as long as it answers."""
    called = []

    def implementation(self: Any, state: Any, context: Any) -> None:
        called.append((stage, context.iteration))

    plugin = type("Plugin", (), {f"autoexp_{stage}": hookimpl(implementation)})()
    state = run(workspace, 1, Scripted(proposal(LR=0.04)), plugins={"third": plugin})
    assert called
    assert state.completed == 1


def test_7_the_session_names_no_stage_or_part_of_its_own() -> None:
    """Whatever it uses it asks the plugins for."""
    source = Path(autoexp.__file__).parent
    doors = ("stages", "proposers", "agents", "executors", "decisions", "trackers")
    found = []
    for folder in ("session", "plugins"):
        for file in (source / folder).glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found += [
                    f"{file.name}: {name}" for name in names if name.split(".")[1:2] and name.split(".")[1] in doors
                ]
    assert found == []


# -- 8. The command line never imports torch --------------------------------------------------------------------------

BLOCKER = """\
import os, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            with open(os.environ["LAB"] + "/torch-was-imported", "a") as file:
                file.write(" ".join(sys.argv) + "\\n")
            raise ImportError("torch is not for the command line")
sys.meta_path.insert(0, Blocker())
"""


def test_8_no_command_session_or_keeper_imports_torch(lab: Lab) -> None:
    """Every process of a run in which importing torch is forbidden and leaves a mark."""
    (lab.path / "block").mkdir()
    (lab.path / "block" / "sitecustomize.py").write_text(BLOCKER)
    lab.environ["PYTHONPATH"] += os.pathsep + str(lab.path / "block")
    mark = lab.path / "torch-was-imported"
    probe = subprocess.run(
        [sys.executable, "-c", "import torch"], env={**os.environ, **lab.environ}, capture_output=True, check=False
    )
    assert probe.returncode == 1 and mark.exists()  # the blocker works
    mark.unlink()
    lab.script(proposal(LR=0.04))
    for command in ([], ["start"], ["resume"], ["status"], ["stop"]):
        lab.command(*command, "--help")
    lab.start(1)
    lab.command("resume", "--run-id", lab.run_id, "--loops", "1", "--no-stochastic", "--no-background-train", code=3)
    lab.finished()
    lab.status()
    lab.command("stop", "--run-id", lab.run_id)
    assert not mark.exists(), mark.read_text()
    assert lab.state.completed == 1
