"""Candidates that reach for what is not theirs. A training is to see and change nothing but its own folder."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path

import pytest
from support import leftovers

import autoexp.model.evaluate as harness

from .conftest import FINISH, Cheat, Stage

TRY = """
import os, sys
def attempt(what, do):
    try:
        print(f"{what}: done, {do()!r}", flush=True)
    except BaseException as error:
        print(f"{what}: {type(error).__name__}", flush=True)
"""


def changed_nothing(cheat: Cheat, stage: Stage) -> bool:
    """It was trained as if it had not tried: a number of its own, and nothing special."""
    print(cheat.outcome)  # shown where it did
    same = cheat.outcome.status == "success" and cheat.outcome.metric is not None
    return same and cheat.outcome.isolation == stage.baseline.isolation != ""


def test_the_journal(stage: Stage) -> None:
    before = stage.paths.journal.read_bytes()
    path = str(stage.paths.journal)
    tries = (
        f"attempt('list', lambda: sorted(os.listdir({str(stage.paths.folder)!r})))\n"
        f"attempt('journal', lambda: open({path!r}, 'a').write('no event\\n'))"
    )
    cheat = stage.cheat(TRY + tries)
    assert changed_nothing(cheat, stage)
    after = stage.paths.journal.read_bytes()
    assert after.startswith(before) and b"no event" not in after.splitlines()
    assert "list: done, ['worktrees']" in cheat.log, "the way to its own folders, and nothing on it"


def test_other_trials_the_workspace_and_the_home(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("personal")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PERSONAL", "a word of mine")
    places = [stage.paths.attempt(0, 1) / "report.json", stage.root / ".git" / "config", tmp_path / "letter"]
    tries = "\n".join(f"attempt({n}, lambda: open({str(p)!r}).read())" for n, p in enumerate(places))
    cheat = stage.cheat(f"{TRY}{tries}\nprint('named:', sorted(os.environ), flush=True)")
    assert changed_nothing(cheat, stage)
    assert [f"{number}: FileNotFoundError" in cheat.log for number in range(3)] == [True] * 3
    assert "PERSONAL" not in cheat.log and "AUTOEXP_SEED" in cheat.log


def test_the_harness_and_the_packages(stage: Stage) -> None:
    files = [harness.__file__, os.__file__, f"{sys.prefix}/lib/cheat.pth"]
    before = hashlib.sha256(Path(harness.__file__).read_bytes()).digest()
    tries = "\n".join(f"attempt('write', lambda: open({file!r}, 'a').write('# cheat'))" for file in files)
    cheat = stage.cheat(f"{TRY}{tries}\nattempt('write', lambda: open('train.py', 'a').write('# cheat'))")
    assert changed_nothing(cheat, stage)
    assert "write: done" not in cheat.log and cheat.log.count("write: ") == 4
    assert hashlib.sha256(Path(harness.__file__).read_bytes()).digest() == before


def test_the_network(stage: Stage) -> None:
    """Not even this machine's own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cheat = stage.cheat(f"{TRY}\nimport socket\n"
                            f"attempt('loopback', lambda: socket.create_connection(('127.0.0.1', {port}), 5))\n"
                            "attempt('internet', lambda: socket.create_connection(('192.0.2.1', 80), 5))")  # fmt: skip
    assert changed_nothing(cheat, stage)
    assert "loopback: ConnectionRefusedError" in cheat.log and "internet: OSError" in cheat.log


def test_its_keeper(stage: Stage) -> None:
    """It sees no process but its own, and who holds it together does not die of its signals."""
    cheat = stage.cheat(f"{TRY}\nimport signal\n"
                        "print('seen:', [int(name) for name in os.listdir('/proc') if name.isdecimal()], flush=True)\n"
                        "attempt('parent', lambda: os.kill(os.getppid(), 9))\n"
                        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                        "attempt('group', lambda: os.killpg(0, signal.SIGTERM))")  # fmt: skip
    assert cheat.outcome.status in ("success", "crash"), "its keeper has told the end"
    assert len(cheat.folders) == 1, "and it was not taken for lost"
    seen = next(line for line in cheat.log.splitlines() if line.startswith("seen: "))
    assert len(seen.split()) <= 4


def test_a_process_is_left_behind(stage: Stage) -> None:
    """It would go on training, or write another report when nobody looks."""
    cheat = stage.cheat("import os, sys\nif os.fork() == 0:\n    os.setsid()\n    os.environ.clear()\n"
                        "    os.execv(sys.executable, ['python', '-c', 'import time; time.sleep(600)'])\n")  # fmt: skip
    assert changed_nothing(cheat, stage)
    assert leftovers(stage.folder) == []


def test_a_fork_bomb(stage: Stage) -> None:
    cheat = stage.cheat("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n")
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert "more than 60 processes" in cheat.outcome.reason
    assert leftovers(stage.folder) == []


@pytest.mark.parametrize("files", ["one", "many"])
def test_the_disk(stage: Stage, files: str) -> None:
    """Its own folder is all that it can fill, and not for long; what it wrote is gone afterwards."""
    name = "'big'" if files == "one" else "f'big-{n}'"
    fill = ("import itertools, os\nplace = os.path.dirname(os.environ['AUTOEXP_REPORT'])\n"
            f"for n in itertools.count():\n    with open(os.path.join(place, {name}), 'ab') as file:\n"
            "        file.write(b'x' * (1 << 20))\n")  # fmt: skip
    cheat = stage.cheat(fill)
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert "train.max_disk_gb" in cheat.outcome.reason or "File too large" in cheat.outcome.reason
    assert not (cheat.folders[0] / "scratch").exists()


def test_the_keepers_own_files(stage: Stage) -> None:
    """What it calls exit.json or job.json is its own, and is not kept."""
    fake = ("import json, os\nplace = os.path.dirname(os.environ.get('AUTOEXP_REPORT', '/tmp/x'))\n"
            "for name in ('exit.json', 'job.json', 'kill', 'keeper.lock'):\n"
            "    with open(os.path.join(place, name), 'w') as file:\n"
            "        json.dump({'status': 'exited', 'code': 0, 'wall_seconds': 0.1, 'isolation': 'fake'}, file)\n"
            "print('there:', sorted(os.listdir(place)), flush=True)\n")  # fmt: skip
    cheat = stage.cheat(fake)
    assert changed_nothing(cheat, stage)
    assert not (cheat.folders[0] / "kill").exists()
    assert "key" in (cheat.folders[0] / "job.json").read_text()
    assert "train.log" not in cheat.log


@pytest.mark.parametrize("which", ["report.json", "checkpoint.pt"])
def test_a_link_in_the_place_of_a_file(stage: Stage, which: str) -> None:
    """To another trial's, say, or to what the user has."""
    theirs = stage.paths.attempt(0, 1) / which
    finish = f"{FINISH}        import os\n        place = os.path.dirname(os.environ['AUTOEXP_REPORT'])\n" + (
        f"        os.remove(os.path.join(place, {which!r}))\n"
        f"        os.symlink({str(theirs)!r}, os.path.join(place, {which!r}))\n"
    )
    cheat = stage.cheat(finish=finish)
    assert not os.path.lexists(cheat.folders[0] / which)
    if which == "report.json":
        assert cheat.outcome.metric != stage.baseline.metric, "never the other trial's"
    else:
        assert cheat.outcome.checkpoint_mb is None


def test_a_giant_report(stage: Stage) -> None:
    finish = (
        FINISH
        + """\
        import json, os
        with open(os.environ["AUTOEXP_REPORT"], "w") as file:
            json.dump({"status": "ok", "val_bpb": 0.5, "x": "x" * (5 << 20)}, file)
"""
    )
    cheat = stage.cheat(finish=finish)
    assert cheat.outcome.metric is None or cheat.outcome.metric > 1.0
    assert not any(value == 0.5 for value in cheat.outcome.metrics.values())


def test_a_checkpoint_that_is_code(stage: Stage) -> None:
    """Loaded for an evaluation that is done again, it is data or it is refused."""
    finish = (
        FINISH
        + """\
        import os, pickle
        class Code:
            def __reduce__(self):
                return (print, ("the checkpoint ran",))
        report = os.environ["AUTOEXP_REPORT"]
        saved = os.path.join(os.path.dirname(report), "checkpoint.pt")
        with open(saved, "wb") as file:
            pickle.dump({"model": Code(), "report": "{}"}, file)
"""
    )
    cheat = stage.cheat(finish=finish)
    assert (cheat.trial.decision, cheat.outcome.metric) == ("crash", None)
    assert len(cheat.folders) == 2, "it was evaluated again"
    logs = [folder / name for folder in cheat.folders for name in ("train.log", "evaluation.log")]
    assert not any("the checkpoint ran" in log.read_text() for log in logs if log.exists())


def test_weights_for_the_next_trial(stage: Stage) -> None:
    """All places that it can write to are its own, and new for each training."""
    places = [
        stage.folder / "cache" / "compiled",
        stage.folder / "cache" / "device-batch",
        Path("/tmp"),
        Path("/dev/shm"),
    ]
    leave = "\n".join(f"attempt('leave', lambda: open({str(place / 'weights')!r}, 'w').write('w'))" for place in places)
    find = "\n".join(f"attempt('find', lambda: open({str(place / 'weights')!r}).read())" for place in places)
    assert "leave: done" in stage.cheat(f"{TRY}{leave}").log
    assert "find: done" not in stage.cheat(f"{TRY}{find}").log
