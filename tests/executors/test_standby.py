"""A trainer that stood by: real keepers, real signals, the real imports, and what stays the same without it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import gone, leftovers, until

from autoexp.executors import confining, isolation, processes, standby
from autoexp.executors.local import Local
from autoexp.spec.ports import Exit, Isolation, JobSpec

confines = pytest.mark.skipif(isolation.available() is not None, reason=str(isolation.available()))
SLEEPS = "import os, time\nopen('up', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
SESSION = """
import os, signal, sys, time
from pathlib import Path
from autoexp.executors.local import Local
from autoexp.executors.standby import Standby
from autoexp.spec.ports import JobSpec

def job(number, standby):
    folder = Path("runs/r", number).absolute()
    return JobSpec(folder.name, folder, (sys.executable, "train.py"), Path("work").absolute(), {}, 60.0,
                   folder.parents[1], standby=standby)

local = Local()
local.submit(job("1", True))
while local.poll(job("1", True).folder) is None:
    time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    gc.collect()  # a Local that is dropped lets go of what stands by
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


class Lab:
    """One worker's jobs, one after the other, in one worktree."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work, self.count = folder, folder / "work", 0
        self.work.mkdir()
        (folder / "runs" / "r").mkdir(parents=True)
        self.local = Local()

    def job(self, program: str | bytes, **changes: Any) -> JobSpec:
        self.count += 1
        (self.work / "train.py").write_bytes(program if isinstance(program, bytes) else program.encode())
        folder = self.folder / "runs" / "r" / str(self.count)
        env = {"AUTOEXP_SEED": str(self.count), "GREETING": "hello", "AUTOEXP_REPORT": f"{folder}/report.json"}
        command = (sys.executable, "train.py", "--option")
        job = JobSpec(f"{folder}:1", folder, command, self.work, env, 60.0, self.folder / "runs")
        return replace(job, **changes)

    def stand_by(self, **changes: Any) -> standby.Standby:
        """What stands by, after a first job."""
        self.run(self.job("pass", standby=True, **changes))
        return self.local.waiting[0]

    def run(self, job: JobSpec) -> dict[str, Any]:
        """exit.json of the job, with its log."""
        self.local.submit(job)
        return self.ending(job)

    def ending(self, job: JobSpec) -> dict[str, Any]:
        until(lambda: Local().poll(job.folder), "the end")
        fields: dict[str, Any] = json.loads((job.folder / "exit.json").read_text())
        log = job.folder / "train.log"
        errors = job.folder / "keeper.err"
        assert not errors.exists() or errors.read_text() == ""
        return fields | {"log": log.read_text() if log.exists() else None}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.local.waiting.clear()


def child_of(keeper: int) -> psutil.Process:
    """The process that a keeper has begun, once it is Python's."""
    return until(
        lambda: next((c for c in psutil.Process(keeper).children() if standby.MODULE in c.cmdline()), None),
        "the child",
    )


def child_in(keeper: int) -> psutil.Process:
    """The same in a sandbox: the process that imports, not those that confine it."""

    def imports(process: psutil.Process) -> bool:
        try:
            return process.name().startswith("python") and process.cmdline()[-1:] == [standby.MODULE]
        except psutil.Error:
            return False

    found = until(
        lambda: next(filter(imports, psutil.Process(keeper).children(recursive=True)), None), "the child in its sandbox"
    )
    assert isinstance(found, psutil.Process)
    return found


def settled(child: psutil.Process) -> bool:
    """Whether it has imported, and waits."""
    before = child.cpu_times()[:2]
    time.sleep(0.3)
    return bool(child.memory_info().rss > 100 << 20 and child.cpu_times()[:2] == before)


def alike(fields: dict[str, Any]) -> tuple[Any, ...]:
    return fields["status"], fields["code"], fields["reason"], fields["log"]


PROGRAMS = [
    "import sys; print(sys.argv, sys.orig_argv, sys.path[0], __file__, __name__, sys.stdin.read()); sys.exit(3)",
    "raise SystemExit('in words')",
    "def f(): 1 / 0\ntry:\n    f()\nexcept ZeroDivisionError as error:\n    raise ValueError('ünïcode') from error",
    "import sys\nsys.excepthook = lambda *error: print('own hook', error[0])\nraise KeyError('x')",
    "this is no Python",
    "raise KeyboardInterrupt",
    "import os; print('flushed', flush=True); os._exit(255)",
    "import os; os.kill(os.getpid(), 9)",
    "import os, threading, time, atexit\natexit.register(print, 'at exit')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
    "print({name: os.environ.get(name) for name in ('AUTOEXP_JOB', 'AUTOEXP_SEED', 'GREETING', 'AUTOEXP_REPORT')})",
    b"# coding: latin-1\nprint('\xe9')\nimport pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_ends_as_a_process_of_its_own_does(lab: Lab, program: str | bytes) -> None:
    lab.stand_by()
    job = lab.job(program)
    with_it = lab.run(job)
    assert ("stood_by_seconds" in with_it) == (program != "this is no Python")  # Python itself says that best

    (job.folder.rename(job.folder.with_name("aside")))
    without = lab.run(job)
    assert "stood_by_seconds" not in without
    assert alike(with_it) == alike(without)


@confines
@pytest.mark.parametrize("program", PROGRAMS)
def test_in_a_sandbox_it_ends_as_a_process_of_its_own_does(lab: Lab, program: str | bytes) -> None:
    confined = Isolation()
    lab.stand_by(isolation=confined)
    job = lab.job(program, isolation=confined)
    with_it = lab.run(job)
    assert ("stood_by_seconds" in with_it) == (program != "this is no Python")
    assert with_it["isolation"] == isolation.name()

    (job.folder.rename(job.folder.with_name("aside")))
    without = lab.run(job)
    assert "stood_by_seconds" not in without
    assert alike(with_it) == alike(without)


LOOKS = """
import json, os
from pathlib import Path
report, cache, files = Path(os.environ["AUTOEXP_REPORT"]), Path({cache!r}), Path({files!r})
seen = [sorted(os.listdir(files)), (cache / "old").read_text(), sorted(os.listdir(report.parent)), str(report.parent)]
(cache / "old").write_text("changed")
(cache / "new").write_text("new")
(report.parent / "metrics.jsonl").write_text("{{}}")
report.write_text(json.dumps(seen))
"""


@confines
def test_a_sandbox_that_stands_by_shows_the_job_that_it_is_given(lab: Lab) -> None:
    """Its folder, its caches as they are by then, and nothing that another sandbox would not show."""
    cache, files = lab.folder / "cache", lab.folder / "files"
    cache.mkdir()
    files.mkdir()
    confined = Isolation(readable=(files,), copied=(cache,), keeps_copies=True)
    lab.stand_by(isolation=confined)
    settled_in = lab.local.waiting[0].process.pid
    until(lambda: settled(child_in(settled_in)), "its imports")
    (cache / "old").write_text("old")
    (files / "file").write_text("")
    job = lab.job(LOOKS.format(cache=str(cache), files=str(files)), isolation=confined)
    ending = lab.run(job)
    assert "stood_by_seconds" in ending and ending["code"] == 0, ending["log"]
    assert json.loads((job.folder / "report.json").read_text()) == [
        ["file"], "old", ["metrics.jsonl", "train.log"], str(confining.INSIDE)
    ]  # fmt: skip
    assert (job.folder / "metrics.jsonl").read_text() == "{}"
    assert {path.name: path.read_text() for path in cache.iterdir()} == {"old": "old", "new": "new"}
    assert not list(lab.folder.rglob("seat")) + list(lab.folder.rglob("scratch")) + list(lab.folder.rglob("copies"))


@confines
def test_another_sandbox_is_not_for_it(lab: Lab) -> None:
    """A job that may see less or more than what stands by is not handed to that."""
    for name in ("one", "other"):
        (lab.folder / name).mkdir()
    lab.stand_by(isolation=Isolation(readable=(lab.folder / "one",)))
    job = lab.job(f"import os; print(os.path.exists({str(lab.folder / 'one')!r}))",
                  isolation=Isolation(readable=(lab.folder / "other",)))  # fmt: skip
    ending = lab.run(job)
    assert "stood_by_seconds" not in ending and ending["log"] == "False\n"
    lab.stand_by()
    ending = lab.run(lab.job("pass", isolation=Isolation()))
    assert "stood_by_seconds" not in ending and ending["isolation"] == isolation.name()


def test_a_chain_of_trainings_each_stands_by_but_the_first(lab: Lab) -> None:
    asks = "import sys; print('torch' in sys.modules)"
    jobs = [lab.job(asks, standby=True), lab.job(asks, standby=True), lab.job(asks)]
    endings = [lab.run(job) for job in jobs]
    assert ["stood_by_seconds" in ending for ending in endings] == [False, True, True]
    assert [ending["log"].strip() for ending in endings] == ["False", "True", "True"]
    assert not lab.local.waiting


@pytest.mark.parametrize(
    "changes",
    [
        {"env": {"GREETING": "another", "AUTOEXP_SEED": "7"}},
        {"env": {}},
        {"command": ("python3", "train.py")},
        {"command": (sys.executable, "-u", "train.py")},
        {"slot": 1},
    ],
)
def test_one_that_was_started_for_other_surroundings_is_not_used(lab: Lab, changes: dict[str, Any]) -> None:
    waiting = lab.stand_by(slots=1)
    ending = lab.run(lab.job("print('ran')", **changes))
    assert (ending["code"], ending["log"], "stood_by_seconds" in ending) == (0, "ran\n", False)
    if "slot" not in changes:
        assert waiting.process.wait(30) == 0
    else:
        assert waiting.process.poll() is None  # the other worker's


def test_the_sessions_own_environment_counts_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.stand_by()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "stood_by_seconds" not in lab.run(lab.job("pass"))


def test_a_script_that_sets_its_environment_gets_a_process_of_its_own(lab: Lab) -> None:
    lab.stand_by()
    ending = lab.run(lab.job("import os, sys\nos.environ['A'] = 'b'\nprint('torch' in sys.modules)"))
    assert (ending["log"], "stood_by_seconds" in ending) == ("False\n", False)


def test_secrets_are_withheld_and_nothing_of_a_job_is_held(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    waiting = lab.stand_by()
    child = child_of(waiting.process.pid)
    assert "MY_TOKEN" not in child.environ() and "AUTOEXP_SEED" not in child.environ()
    assert child.environ()[processes.JOB] == waiting.key
    assert Path(child.cwd()) == lab.folder / "runs"
    for process in (child, psutil.Process(waiting.process.pid)):
        assert not [file.path for file in process.open_files() if str(lab.folder) in file.path]
    ending = lab.run(lab.job("import os; print(os.environ.get('MY_TOKEN'))"))
    assert ending["log"] == "None\n" and "stood_by_seconds" in ending


def test_a_dropped_executor_lets_go(lab: Lab) -> None:
    waiting = lab.stand_by()
    pid, child = waiting.process.pid, child_of(waiting.process.pid).pid
    del waiting
    lab.local = Local()
    gc.collect()
    until(lambda: gone(pid) and gone(child), "their end")


def test_it_can_be_killed_and_so_can_its_children(lab: Lab) -> None:
    lab.stand_by()
    forks = "import os, signal, subprocess, sys, time\n"
    loop = "import os, signal, time; signal.signal(15, signal.SIG_IGN); open('child', 'w').write(str(os.getpid()))"
    forks += f"subprocess.Popen([sys.executable, '-c', {loop + '; time.sleep(600)'!r}], start_new_session=True)\n"
    job = lab.job(forks + "while not os.path.exists('child'): time.sleep(0.01)\n" + SLEEPS)
    lab.local.submit(job)
    until((lab.work / "up").exists, "the beginning")
    carriers = {process.pid for process in processes.of_job(job.key)}
    assert int((lab.work / "child").read_text()) in carriers
    lab.local.kill(job.folder)
    assert lab.ending(job)["status"] == "killed"
    assert all(gone(int((lab.work / name).read_text())) for name in ("up", "child"))


def test_the_deadline_counts_from_the_handover(lab: Lab) -> None:
    child = child_of(lab.stand_by().process.pid)
    until(lambda: settled(child), "the end of its imports")
    ending = lab.run(lab.job(SLEEPS, timeout_seconds=3))
    assert (ending["status"], ending["reason"]) == ("timeout", "timed out after 3 s")
    assert ending["wall_seconds"] >= 3 and "stood_by_seconds" in ending


def test_one_that_hangs_does_not_outlive_the_deadline(lab: Lab) -> None:
    child = child_of(lab.stand_by().process.pid)
    child.suspend()
    ending = lab.run(lab.job(SLEEPS, timeout_seconds=1))
    assert (ending["status"], "stood_by_seconds" in ending) == ("timeout", False)
    assert gone(child.pid)


def test_a_keeper_that_does_not_answer_is_found_by_its_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoexp.executors.local.KILL_SECONDS", 0.5)
    keeper = lab.stand_by().process.pid
    job = lab.job(SLEEPS)
    lab.local.submit(job)
    until((lab.work / "up").exists, "the beginning")
    os.kill(keeper, signal.SIGSTOP)
    lab.local.kill(job.folder)
    assert lab.ending(job)["status"] == "killed"
    assert gone(keeper) and gone(int((lab.work / "up").read_text()))


def test_out_of_memory_it_starts_again_as_itself(lab: Lab) -> None:
    lab.stand_by()
    again = """
import os, sys, torch
from autoexp.model.clock import seconds_since_process_start
from autoexp.model.memory import retry_at_half

print(os.getpid(), os.environ["AUTOEXP_JOB"], sys.argv, sys.orig_argv[1:], flush=True)
if not os.environ.get("AUTOEXP_DEVICE_BATCH"):
    retry_at_half(4, os.environ)
print(os.environ["AUTOEXP_DEVICE_BATCH"], seconds_since_process_start())
"""
    ending = lab.run(lab.job(again))
    first, said, second, last = ending["log"].splitlines()
    assert ending["code"] == 0 and first == second and said.endswith("starting again with 2")
    rows, age = last.split()
    assert rows == "2" and 0 < float(age) <= ending["wall_seconds"]  # from the handover, not from the first start


# -- somebody dies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["keeper", "child"])
def test_death_before_the_handover_costs_a_start_only(lab: Lab, victim: str) -> None:
    waiting = lab.stand_by()
    child = child_of(waiting.process.pid)
    os.kill(child.pid if victim == "child" else waiting.process.pid, signal.SIGKILL)
    until(lambda: gone(child.pid), "its end")
    if victim == "keeper":
        waiting.process.wait(30)
    ending = lab.run(lab.job("open('runs', 'a').write('x')"))
    assert (ending["status"], ending["code"], "stood_by_seconds" in ending) == ("exited", 0, False)
    assert (lab.work / "runs").read_text() == "x"


@pytest.mark.parametrize("victim", ["keeper", "child"])
def test_death_during_the_handover(lab: Lab, victim: str) -> None:
    waiting = lab.stand_by()
    keeper, child = waiting.process.pid, child_of(waiting.process.pid)
    child.suspend()
    job = lab.job("open('runs', 'a').write('x')")
    lab.local.submit(job)  # until its keeper has the lock
    until((job.folder / "train.log").exists, "the keeper's word to its child")
    os.kill(child.pid if victim == "child" else keeper, signal.SIGKILL)
    ending = lab.ending(job)
    assert ending["status"] == ("exited" if victim == "child" else "lost")
    assert (lab.work / "runs").exists() == (victim == "child")
    assert gone(child.pid)


@pytest.mark.parametrize("victim", ["keeper", "child"])
def test_death_after_the_handover(lab: Lab, victim: str) -> None:
    keeper = lab.stand_by().process.pid
    job = lab.job(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n" + SLEEPS
    )
    lab.local.submit(job)
    pid = int(until(lambda: (lab.work / "up").exists() and (lab.work / "up").read_text(), "the beginning"))
    os.kill(pid if victim == "child" else keeper, signal.SIGKILL)
    ending = lab.ending(job)
    assert (ending["status"], ending["code"]) == (("exited", -9) if victim == "child" else ("lost", None))
    until(lambda: gone(pid), "its end")  # killed with its keeper, it has its memory to give back
    assert not processes.of_job(*processes.keys_of(json.loads((job.folder / "job.json").read_text())))


SECOND = "def second(): local.submit(job('2', False))\n"


@pytest.mark.parametrize(
    ("dies", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", None),  # while one stands by
        (SECOND + "Standby.hand_over = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\nsecond()", "lost"),
        # asked at once whether it is lost, before its keeper has the lock, it is
        (SECOND + "Standby.end = lambda s: os.kill(os.getpid(), signal.SIGKILL)\nsecond()", "exited or lost"),
        (SECOND + "second()\nos.kill(os.getpid(), signal.SIGKILL)", "exited"),
    ],
    ids=["waiting", "before the word", "after the word", "after the handover"],
)
def test_death_of_the_session(tmp_path: Path, dies: str, status: str | None) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "work" / "train.py").write_text("print('ran')")
    session = subprocess.Popen([sys.executable, "-c", SESSION + dies], cwd=tmp_path)
    assert session.wait(60) == -signal.SIGKILL
    folder = tmp_path / "runs" / "r" / "2"
    if status is None:
        assert not folder.exists()
    else:
        ended = until(lambda: Local().poll(folder), "the end")
        assert isinstance(ended, Exit) and ended.status in status
        assert (ended.status == "exited") == (folder / "train.log").exists()


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.4, 1.2])
def test_the_session_may_die_at_any_moment(tmp_path: Path, moment: float) -> None:
    """Counted from when its first job's keeper is there; the fixture looks for what is left."""
    (tmp_path / "work").mkdir()
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "work" / "train.py").write_text("pass")
    more = "for number in range(2, 9):\n    local.submit(job(str(number), True))\n"
    session = subprocess.Popen([sys.executable, "-c", SESSION + more], cwd=tmp_path)
    until((tmp_path / "runs" / "r" / "2" / "job.json").exists, "the second job")
    time.sleep(moment)
    session.kill()
    session.wait(30)
    for folder in (tmp_path / "runs" / "r").iterdir():
        if (folder / "job.json").exists():
            ended = until(lambda folder=folder: Local().poll(folder), "the end")  # type: ignore[misc]
            assert ended.status in ("exited", "lost")


# -- which commands it serves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "env", "expected"),
    [
        (("python", "train.py"), {}, True),
        (("/venv/bin/python3.11", "sub/train.py", "--flag"), {"PYTHONPATH": "/a:/b"}, True),
        (("./venv/bin/python", "train.py"), {}, False),
        (("python", "train.py"), {"PYTHONPATH": "src"}, False),
        (("python", "-m", "train"), {}, False),
        (("python",), {}, False),
        (("uv", "run", "train.py"), {}, False),
        (("torchrun", "train.py"), {}, False),
    ],
)
def test_only_plain_scripts_are_served(command: tuple[str, ...], env: dict[str, str], expected: bool) -> None:
    assert standby.serves(command, env) is expected
