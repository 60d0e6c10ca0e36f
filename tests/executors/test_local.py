"""The local executor and its keeper, with real programs, real signals, and nobody polling where that is the point."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support import gone, leftovers, until

from autoexp.errors import PreconditionError
from autoexp.executors import local, processes
from autoexp.executors.local import Local
from autoexp.spec.ports import Exit, JobSpec
from autoexp.testing import ExecutorCases
from autoexp.workspace.locks import Lock, held

PID = "import os, pathlib, signal, subprocess, sys, time\npathlib.Path('pid-NAME').write_text(str(os.getpid()))\n"
SLEEP = "time.sleep(600)\n"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"


def named(name: str, program: str) -> str:
    """A program that first writes its pid into the file pid-<name>, when all before it has been done."""
    return PID.replace("NAME", name) + program


def child(program: str, **options: object) -> str:
    """A program's line that starts another one, and waits until that has begun."""
    name = f"child-{abs(hash(program))}"
    return (
        f"subprocess.Popen([sys.executable, '-c', {named(name, program)!r}], **{options!r})\n"
        f"while not os.path.exists('pid-{name}'): time.sleep(0.01)\n"
    )


@contextmanager
def sleeping(key: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the job `key` that has begun."""
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    env = {**os.environ, processes.JOB: key}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> object:
    yield
    left = leftovers(tmp_path)
    assert not left, f"left running: {left}"


class TestLocal(ExecutorCases):
    def make(self) -> Local:
        return Local()

    def pids(self, job: JobSpec, count: int) -> list[int]:
        """The pids of `count` programs, once all have begun."""
        until(lambda: len([f for f in job.cwd.glob("pid-*") if f.read_text()]) == count, "all programs' beginning")
        return [int(file.read_text()) for file in job.cwd.glob("pid-*")]

    def keeper(self, job: JobSpec) -> psutil.Process:
        """The keeper, found by its command line."""
        line = ["-m", "autoexp.executors.supervisor", str(job.folder)]
        return next(p for p in psutil.process_iter() if _cmdline(p)[-3:] == line)

    @pytest.mark.parametrize("program", ["raise SystemExit(0)", "raise SystemExit(3)", "import os; os._exit(255)"])
    def test_exit_codes(self, tmp_path: Path, program: str) -> None:
        job = self.job(tmp_path, program)
        Local().submit(job)
        ended = self.wait(job.folder)
        expected = subprocess.run([sys.executable, "-c", program], check=False).returncode
        assert (ended.status, ended.code) == ("exited", expected)

    def test_a_signal_is_a_negative_exit_code(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "import os; os.kill(os.getpid(), 9)")
        Local().submit(job)
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) == ("exited", -9)

    def test_the_deadline_ends_the_whole_tree_and_nobody_need_poll(self, tmp_path: Path) -> None:
        """A grandchild in a session of its own, one that ignores SIGTERM, an orphan: all are gone."""
        tree = child(STUBBORN + SLEEP) + child(child(SLEEP, start_new_session=True) + SLEEP, start_new_session=True)
        orphan = child("if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n")
        job = self.job(tmp_path, named("first", STUBBORN + tree + orphan + SLEEP), timeout_seconds=4)
        Local().submit(job)
        pids = self.pids(job, 5)
        until((job.folder / "exit.json").exists, "the end")
        assert all(gone(pid) for pid in pids)
        ended = Local().poll(job.folder)
        assert ended is not None
        assert (ended.status, ended.reason) == ("timeout", "timed out after 4 s")
        assert ended.code == -signal.SIGKILL
        assert ended.wall_seconds >= 4

    def test_what_a_trainer_leaves_behind_ends_with_it(self, tmp_path: Path) -> None:
        """A data loader that goes on would hold the GPU."""
        job = self.job(tmp_path, named("first", child(STUBBORN + SLEEP, start_new_session=True) + "sys.exit(4)"))
        Local().submit(job)
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) == ("exited", 4)
        assert all(gone(pid) for pid in self.pids(job, 2))

    @pytest.mark.parametrize("ends", ["sys.exit(4)\n", SLEEP])
    def test_a_daemon_without_a_trace_of_the_job_is_caught(self, tmp_path: Path, ends: str) -> None:
        """It left the session, its parent is gone and so is its environment: only the subreaper knows it."""
        if sys.platform != "linux":
            pytest.skip("only Linux has subreapers")
        daemon = child(child(STUBBORN + SLEEP, start_new_session=True, env={}), start_new_session=True, env={})
        all_there = "while sum(os.path.getsize(f) > 0 for f in os.listdir()) < 3: time.sleep(0.01)\n"
        job = self.job(tmp_path, named("first", daemon + all_there + ends))
        Local().submit(job)
        pids = self.pids(job, 3)
        if ends == SLEEP:
            until(lambda: any(psutil.Process(pid).ppid() == self.keeper(job).pid for pid in pids[1:]), "the adoption")
            Local().kill(job.folder)
        self.wait(job.folder)
        assert all(gone(pid) for pid in pids)

    def test_a_log_without_end_ends_the_job_and_is_no_success(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "LOG_BYTES", 1 << 20)
        orderly = "signal.signal(signal.SIGTERM, lambda *a: os._exit(0))\nwhile True: print('x' * 1000)\n"
        job = self.job(tmp_path, named("first", orderly))
        Local().submit(job)
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) == ("exited", -signal.SIGTERM)
        assert ended.reason == "its log passed 0.000977 GiB"

    def test_an_orderly_end_on_request_is_no_success_either(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, named("first", "signal.signal(signal.SIGTERM, lambda *a: os._exit(0))\n" + SLEEP))
        Local().submit(job)
        self.pids(job, 1)
        Local().kill(job.folder)
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) in (("killed", -signal.SIGTERM), ("killed", -signal.SIGKILL))

    @pytest.mark.parametrize("seconds", [0.5, 0.0])
    def test_a_keeper_that_does_not_answer_is_done_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        """It is stopped, and would hold the device for ever; its trainer has left a daemon without environment."""
        monkeypatch.setattr(local, "KILL_SECONDS", seconds)
        daemon = child(child(STUBBORN + SLEEP, start_new_session=True, env={}), start_new_session=True, env={})
        job = self.job(tmp_path, named("first", STUBBORN + daemon + SLEEP))
        Local().submit(job)
        pids = self.pids(job, 3)
        keeper = self.keeper(job)
        keeper.suspend()
        Local().kill(job.folder)
        ended = Local().poll(job.folder)
        assert ended == Exit("killed", None, 0.0, "ended on request; its keeper did not answer")
        assert all(gone(pid) for pid in (*pids, keeper.pid))
        assert not held(job.folder / "keeper.lock")
        assert not held(job.locks / ".worker-0.lock")

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "exited", "code": 0, "wall_seconds": "x"}'])
    def test_an_exit_that_no_keeper_wrote_stops_nobody(self, tmp_path: Path, content: str) -> None:
        job = self.job(tmp_path, "")
        job.folder.mkdir(parents=True)
        (job.folder / "exit.json").write_text(content)
        (job.folder / "job.json").write_text("{")
        ended = Local().poll(job.folder)
        assert ended is not None and ended.status == "lost"
        assert Local().poll(job.folder) == ended

    def test_a_command_that_no_program_can_be_given_is_told(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "")
        Local().submit(replace(job, env={"A": "x\x00y"}))
        ended = self.wait(job.folder)
        assert (ended.status, ended.reason) == ("not_started", f"{sys.executable}: embedded null byte")

    @pytest.mark.parametrize(
        ("program", "code", "reason"),
        [
            ("", 0, "could not be ended: stuck (7)"),
            (SLEEP, -15, "timed out after 1 s; could not be ended: stuck (7)"),
        ],
    )
    def test_what_could_not_be_ended_is_named_and_the_job_ends(
        self, tmp_path: Path, program: str, code: int, reason: str
    ) -> None:
        job = self.job(tmp_path, "import time\n" + program, timeout_seconds=1 if program else 60)
        with pytest.MonkeyPatch.context() as patch:  # a keeper that finds a process which does not end
            source = (
                "import sys; from pathlib import Path; from autoexp.executors import processes, supervisor\n"
                "end = processes.end\n"
                "processes.end = lambda *a, **k: [*end(*a, **k), 'stuck (7)']\n"
                "supervisor.main(Path(sys.argv[1]))"
            )
            patch.setattr(local, "_keeper", lambda folder: (sys.executable, "-c", source, str(folder)))
            Local().submit(job)
            ended = self.wait(job.folder)
        assert (ended.code, ended.reason) == (code, reason)

    def test_a_stubborn_tree_is_killed_on_request(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, named("first", STUBBORN + child(STUBBORN + SLEEP, start_new_session=True) + SLEEP))
        Local().submit(job)
        pids = self.pids(job, 2)
        Local().kill(job.folder)
        assert self.wait(job.folder).status == "killed"
        assert all(gone(pid) for pid in pids)

    def test_sigterm_to_the_keeper_ends_the_job_in_order(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, named("first", SLEEP))
        Local().submit(job)
        self.pids(job, 1)
        keeper = self.keeper(job)
        for number in (signal.SIGINT, signal.SIGHUP):
            keeper.send_signal(number)  # a closed terminal is nothing to a keeper
        assert Local().poll(job.folder) is None
        keeper.terminate()
        assert self.wait(job.folder).status == "killed"

    def test_when_the_keeper_is_killed_the_trainer_dies_and_the_job_is_lost(self, tmp_path: Path) -> None:
        """Also what the trainer started somewhere else; and lost it stays."""
        job = self.job(tmp_path, named("first", STUBBORN + child(STUBBORN + SLEEP, start_new_session=True) + SLEEP))
        Local().submit(job)
        pids = self.pids(job, 2)
        self.keeper(job).kill()
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) == ("lost", None)
        assert "keeper" in ended.reason
        assert all(gone(pid) for pid in pids)
        assert Local().poll(job.folder) == ended

    def test_a_trainer_dies_with_its_keeper_although_nobody_polls(self, tmp_path: Path) -> None:
        if sys.platform != "linux":
            pytest.skip("only Linux ends a child with its parent")
        job = self.job(tmp_path, named("first", STUBBORN + SLEEP))
        Local().submit(job)
        (pid,) = self.pids(job, 1)
        self.keeper(job).kill()
        until(lambda: gone(pid), "the trainer's end")
        assert not (job.folder / "exit.json").exists()

    def test_a_second_keeper_refuses(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, named("first", "time.sleep(0.5)"))
        Local().submit(job)
        self.pids(job, 1)
        for _ in range(2):  # beside the first, and after it
            command = [sys.executable, "-m", "autoexp.executors.supervisor", str(job.folder)]
            assert subprocess.run(command, check=False, timeout=60).returncode == 0
            assert self.wait(job.folder).status == "exited"
        assert len(self.pids(job, 1)) == 1

    def test_a_job_declared_lost_is_never_started_late(self, tmp_path: Path) -> None:
        """The session was killed just after it had started the keeper, and the next one looked too early."""
        job = self.job(tmp_path, named("first", ""))
        real = subprocess.Popen
        started = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local.subprocess, "Popen", lambda *a, **k: started.append((a, k)) or real(["true"]))
            Local().submit(job)
        ended = Local().poll(job.folder)
        assert ended is not None and ended.status == "lost"
        (late,) = started
        late[1].pop("stderr")
        assert real(*late[0], **late[1]).wait(timeout=60) == 0
        assert list(job.cwd.glob("pid-*")) == []
        assert self.wait(job.folder) == ended

    def test_a_poll_while_a_keeper_begins_never_calls_a_job_lost_that_then_trains(self, tmp_path: Path) -> None:
        """The keeper has the lock and has not looked for exit.json yet, or the other way round: one of both wins."""
        for attempt in range(12):
            job = self.job(tmp_path / str(attempt), named("first", ""))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(local, "START_SECONDS", 0.0)
                Local().submit(job)
            time.sleep(attempt * 0.02)
            ended = self.wait(job.folder)
            until(lambda folder=job.folder: not held(folder / "keeper.lock"), "the keeper's end")
            until(lambda at=job.folder: not leftovers(at), "the keeper's end")
            ran = (job.cwd / "pid-first").exists()
            assert (ended.status, ran) in (("lost", False), ("exited", True))
            assert Local().poll(job.folder) == ended

    def test_who_looks_at_the_lock_does_not_keep_a_keeper_from_beginning(self, tmp_path: Path) -> None:
        """A look takes a shared lock for a moment, which may be the very moment in which the keeper comes."""
        job = self.job(tmp_path, "")
        job.folder.mkdir(parents=True)
        look = os.open(job.folder / "keeper.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(1.0, os.close, [look]).start()
        Local().submit(job)
        assert self.wait(job.folder).status == "exited"

    def test_a_command_that_cannot_be_run_is_told(self, tmp_path: Path) -> None:
        job = self.job(tmp_path, "")
        (job.cwd / "program").write_text("no program")
        Local().submit(replace(job, command=("./program",)))
        ended = self.wait(job.folder)
        assert ended.status == "not_started"
        assert "./program: Permission denied" in ended.reason

    def test_a_full_disk_does_not_lose_how_a_job_ended(self, small_disk: Path) -> None:
        """The keeper waits with exit.json until there is room; until then the job has not ended."""
        job = self.job(small_disk, named("first", "while not os.path.exists('go'): time.sleep(0.01)\nsys.exit(5)"))
        Local().submit(job)
        self.pids(job, 1)
        (job.cwd / "go").touch()
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        keeper = self.keeper(job)
        until(lambda: not [c for c in keeper.children() if c.status() != psutil.STATUS_ZOMBIE], "the trainer's end")
        time.sleep(0.3)
        if not (job.folder / "exit.json").exists():  # it may have been quicker than the filling
            with pytest.raises(Exception, match="disk is full"):
                Local().poll(job.folder)
            assert keeper.is_running()
        filler.unlink()
        ended = self.wait(job.folder)
        assert (ended.status, ended.code) == ("exited", 5)

    def test_an_innocent_process_with_a_remembered_pid_is_not_harmed(self, tmp_path: Path) -> None:
        """Pids are reused. Only what carries the job's key in its environment is ended."""
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        ) as innocent:
            job = self.job(tmp_path, "")
            job.folder.mkdir(parents=True)
            spec = {"key": job.key, "pid": innocent.pid, "keeper": innocent.pid}
            (job.folder / "job.json").write_text(json.dumps(spec))
            assert Local().poll(job.folder) == Exit(
                "lost", None, 0.0, "its keeper was killed, or the machine went down"
            )
            Local().kill(job.folder)
            assert innocent.poll() is None
            innocent.kill()

    def test_only_the_jobs_own_processes_are_found(self, tmp_path: Path) -> None:
        env = {**os.environ, processes.JOB: "mine"}
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            subprocess.Popen(command, env=env, **pipes) as mine,  # type: ignore[call-overload]
            subprocess.Popen(command, env={**env, processes.JOB: "mine.not"}, **pipes) as other,  # type: ignore[call-overload]
        ):
            assert mine.stdout.readline() == other.stdout.readline() == b"\n"
            assert [process.pid for process in processes.of_job("mine")] == [mine.pid]
            processes.end("mine")
            assert mine.wait(timeout=60) == -signal.SIGTERM
            assert other.poll() is None
            other.kill()

    def test_a_process_that_may_not_be_signalled_is_left_and_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It runs as another user by now. Waiting for its end would be for ever."""
        real = psutil.Process.send_signal
        with sleeping("mine") as mine, sleeping("mine") as foreign:

            def signalled(process: psutil.Process, number: int) -> None:
                if process.pid == foreign.pid:
                    raise psutil.AccessDenied(process.pid)
                real(process, number)

            monkeypatch.setattr(psutil.Process, "send_signal", signalled)
            assert processes.end("mine") == [f"{psutil.Process(foreign.pid).name()} ({foreign.pid})"]
            assert mine.wait(timeout=60) == -signal.SIGTERM
            assert foreign.poll() is None

    def test_a_process_that_sigkill_does_not_end_is_left_and_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It sleeps in the kernel, uninterruptibly."""
        monkeypatch.setattr(psutil.Process, "send_signal", lambda process, number: None)
        monkeypatch.setattr(processes, "KILL_SECONDS", 0.2)
        with sleeping("mine") as stuck:
            assert processes.end("mine", grace_seconds=0.1) == [f"{psutil.Process(stuck.pid).name()} ({stuck.pid})"]

    def test_no_key_is_nobodys(self) -> None:
        with sleeping(""):
            assert processes.of_job("") == []

    def test_a_training_is_no_member_of_the_world_of_its_session(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
            monkeypatch.setenv(name, "3")
        job = self.job(tmp_path, "import os; print(sorted(n for n in os.environ if 'RANK' in n or 'WORLD' in n))")
        Local().submit(replace(job, env={"LOCAL_RANK": "given on purpose"}))
        self.wait(job.folder)
        assert (job.folder / "train.log").read_text() == "['LOCAL_RANK']\n"

    def test_secrets_of_the_surroundings_stay_out_of_a_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secrets = {
            "OPENAI_API_KEY",
            "HF_TOKEN",
            "my_password",
            "AWS_SECRET_ACCESS",
            "ANTHROPIC_BASE_URL",
            "OPENCODE_CONFIG_CONTENT",
        }
        for name in secrets:
            monkeypatch.setenv(name, "s3cr3t")
        harmless = {"HARMLESS", "TOKENIZERS_PARALLELISM", "KEYBOARD_LAYOUT", "MONKEY"}
        for name in harmless:
            monkeypatch.setenv(name, "yes")
        monkeypatch.setenv("MY_TOKEN", "s3cr3t")
        job = self.job(tmp_path, "import os; print(dict(os.environ))")
        Local().submit(replace(job, env={"MY_TOKEN": "given on purpose"}))
        self.wait(job.folder)
        log = (job.folder / "train.log").read_text()
        assert "s3cr3t" not in log
        assert all(f"'{name}': 'yes'" in log for name in harmless)
        assert "given on purpose" in log
        withheld = json.loads((job.folder / "job.json").read_text())["withheld"]  # where a person can look
        assert secrets <= set(withheld)
        assert not set(withheld) & (harmless | {"MY_TOKEN"})


class TestDevices:
    """One training on a device at a time, whoever starts it."""

    cases = TestLocal()

    def test_a_second_job_for_the_same_device_waits_and_its_deadline_begins_afterwards(self, tmp_path: Path) -> None:
        job = self.cases.job(tmp_path, "print('trained')", timeout_seconds=60)
        device = Lock(job.locks / ".worker-0.lock")
        assert device.acquire()
        Local().submit(job)
        until((job.folder / "waiting").exists, "the waiting")
        assert Local().poll(job.folder) is None
        assert not (job.folder / "train.log").exists()
        device.release()
        assert self.cases.wait(job.folder).status == "exited"
        assert (job.folder / "train.log").read_text() == "trained\n"
        assert not (job.folder / "waiting").exists()

    def test_a_workspace_may_have_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        job = self.cases.job(tmp_path / os.fsdecode(b"caf\xe9"), "print('trained')")
        Local().submit(job)
        assert self.cases.wait(job.folder).status == "exited"

    def test_one_that_waits_can_be_killed(self, tmp_path: Path) -> None:
        job = self.cases.job(tmp_path, "print('trained')")
        device = Lock(job.locks / ".worker-0.lock")
        assert device.acquire()
        Local().submit(job)
        until((job.folder / "waiting").exists, "the waiting")
        Local().kill(job.folder)
        assert self.cases.wait(job.folder).status == "killed"
        assert not (job.folder / "train.log").exists()
        device.release()

    def test_each_worker_has_a_gpu_of_its_own_and_no_more_workers_than_gpus(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc/1")
        for slot, name in enumerate(("2", "GPU-abc/1")):
            job = self.cases.job(tmp_path / str(slot), "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
            Local().submit(replace(job, slot=slot, slots=2))
            self.cases.wait(job.folder)
            assert (job.folder / "train.log").read_text().strip() == name
        job = self.cases.job(tmp_path / "3", "")
        with pytest.raises(PreconditionError, match="3 workers need a GPU each: there are 2") as caught:
            Local().submit(replace(job, slot=0, slots=3))
        assert caught.value.hint == "autoexp resume --workers 2"
        assert not job.folder.exists()

    @pytest.mark.parametrize(
        ("visible", "slot", "slots", "told"),
        [("0", 1, 1, "0"), ("4,5", 3, 2, "5"), ("4,5", 2, 1, "4"), ("4,5", 0, 1, "4,5"), ("4,5", 1, 2, "5")],
    )
    def test_an_iteration_of_a_plan_with_more_workers_gets_a_gpu_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, slot: int, slots: int, told: str
    ) -> None:
        """It keeps its slot, and waits for its turn."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        job = self.cases.job(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
        Local().submit(replace(job, slot=slot, slots=slots))
        self.cases.wait(job.folder)
        assert (job.folder / "train.log").read_text().strip() == told
        [lock] = json.loads((job.folder / "job.json").read_text())["device_locks"]
        assert lock.endswith(f"/gpu-{told.split(',')[0]}.lock")

    @pytest.mark.parametrize(
        ("slot", "slots", "told", "locks"),
        [
            (0, 1, "7,10", ["gpu-10", "gpu-7"]),
            (0, 2, "7,10", ["gpu-10", "gpu-7"]),
            (1, 2, "3,GPU-a/1", ["gpu-3", "gpu-GPU-a-1"]),
            (3, 2, "3,GPU-a/1", ["gpu-3", "gpu-GPU-a-1"]),
        ],
    )
    def test_a_trial_on_two_gpus_has_both_and_takes_them_in_one_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: int, slots: int, told: str, locks: list[str]
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,10,3,GPU-a/1,5")
        job = self.cases.job(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
        Local().submit(replace(job, slot=slot, slots=slots, gpus=2))
        self.cases.wait(job.folder)
        assert (job.folder / "train.log").read_text().strip() == told
        paths = [Path(path) for path in json.loads((job.folder / "job.json").read_text())["device_locks"]]
        assert [path.stem for path in paths] == locks
        assert [path.read_text() for path in paths] == ["", ""]  # nobody is on them any more

    @pytest.mark.parametrize(
        ("slots", "gpus", "error", "hint"),
        [
            (1, 4, "train.gpus is 4, and there are 3", "set gpus = 3 under [train], then: autoexp resume"),
            (2, 2, "2 workers need 2 GPUs each: there are 3", "autoexp resume --workers 1"),
        ],
    )
    def test_fewer_gpus_than_asked_for_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int, gpus: int, error: str, hint: str
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        job = self.cases.job(tmp_path, "")
        with pytest.raises(PreconditionError) as caught:
            Local().submit(replace(job, slots=slots, gpus=gpus))
        assert (str(caught.value), caught.value.hint) == (error, hint)
        assert not job.folder.exists()

    def test_without_a_gpu_its_processes_share_the_cpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        job = self.cases.job(tmp_path, "print('trained')")
        Local().submit(replace(job, gpus=64))
        assert self.cases.wait(job.folder).code == 0
        assert json.loads((job.folder / "job.json").read_text())["device_locks"] == [str(job.locks / ".worker-0.lock")]

    def test_it_begins_when_it_has_all_its_gpus_and_may_be_killed_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        one = replace(self.cases.job(tmp_path / "one", SLEEP), slot=1, slots=2)
        Local().submit(replace(one, command=(sys.executable, "-c", f"import time; {SLEEP}")))
        until((one.folder / "train.log").exists, "the first training")
        for name in ("two", "three"):
            both = replace(self.cases.job(tmp_path / name, "print('trained')"), gpus=2)
            Local().submit(both)
            until((both.folder / "waiting").exists, "the waiting")
            if name == "two":
                Local().kill(both.folder)
                assert self.cases.wait(both.folder).status == "killed"
        Local().kill(one.folder)
        assert self.cases.wait(both.folder).code == 0

    @pytest.fixture
    def nvidia_smi(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """The program, to be written; each call of it is counted in the file `calls` beside it."""
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        local._listed.cache_clear()
        yield folder / "nvidia-smi"
        local._listed.cache_clear()

    def answer(self, nvidia_smi: Path, script: str) -> None:
        nvidia_smi.write_text(f"#!/bin/sh\necho x >> {nvidia_smi.parent}/calls\n{script}\n")
        nvidia_smi.chmod(0o755)

    def test_the_gpus_of_the_machine_are_asked_for_once(self, nvidia_smi: Path) -> None:
        self.answer(nvidia_smi, "echo 'GPU 0: H200 (UUID: a)'; echo ' MIG 1g'; echo 'GPU 1: H200 (UUID: \377b)'")
        assert [local._gpus(), local._gpus()] == [["0", "1"]] * 2
        assert (nvidia_smi.parent / "calls").read_text() == "x\n"

    @pytest.mark.parametrize("script", ["echo 'GPU 0: half an answer'; exec sleep 600", "echo no driver; exit 9"])
    def test_no_answer_is_no_gpu_for_now(self, nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        monkeypatch.setattr(local, "ASK_SECONDS", 0.5)
        self.answer(nvidia_smi, script)
        assert local._gpus() == []
        self.answer(nvidia_smi, "echo 'GPU 0: H200'")
        monkeypatch.setattr(local, "ASK_SECONDS", 60.0)
        assert local._gpus() == ["0"]

    def test_a_program_that_cannot_be_run_is_no_gpu(self, nvidia_smi: Path) -> None:
        nvidia_smi.write_bytes(b"\x7fELF")
        nvidia_smi.chmod(0o755)
        assert local._gpus() == []


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
