"""What a confined program sees and can do: real ones, under bubblewrap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import leftovers, until

from autoexp.errors import PreconditionError
from autoexp.executors import confining, isolation, surroundings
from autoexp.executors.isolation import View, confined
from autoexp.executors.local import Local
from autoexp.spec.ports import Exit, Isolation, JobSpec

works = pytest.mark.skipif(isolation.available() is not None, reason=str(isolation.available()))
PYTHON = tuple(surroundings.places([sys.executable], os.environ, Path("/")))


@pytest.fixture
def no_bwrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def inside(view: View, program: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = confined([sys.executable, "-c", program], View(**{**vars(view), "readable": (*PYTHON, *view.readable)}))
    return subprocess.run(command, capture_output=True, text=True, cwd="/", **options)  # type: ignore[call-overload,no-any-return]


@works
def test_it_sees_what_it_is_shown(tmp_path: Path) -> None:
    for name in ("shown", "not shown", "written"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "shown" / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("shown")
    view = View(
        readable=(tmp_path / "link", tmp_path / "missing"),
        hidden=(tmp_path / "shown" / "secret", tmp_path / "nowhere"),
        writable=(tmp_path / "written",),
    )
    program = f"""
import os
os.chdir({str(tmp_path)!r})
print(sorted(os.listdir()), sorted(os.listdir("link")), open("link/file").read(), os.stat("shown/secret").st_size)
open("written/new", "w").write("new")
for name in ("shown/new", "link/file", "shown/secret"):
    try:
        open(name, "w")
        print(name)
    except OSError as error:
        print(type(error).__name__)
"""
    done = inside(view, program)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['link', 'shown', 'written'] ['file', 'secret'] shown 0",
        *("OSError", "OSError", "PermissionError"),
    ]
    assert (tmp_path / "written" / "new").read_text() == "new"
    assert (tmp_path / "shown" / "secret").read_text() == "secret"


@works
def test_a_readable_folder_in_a_hidden_one(tmp_path: Path) -> None:
    """The deepest place counts."""
    (tmp_path / "work/runs/mine").mkdir(parents=True)
    (tmp_path / "work/runs/others").mkdir()
    view = View(readable=(tmp_path / "work", tmp_path / "work/runs/mine"), hidden=(tmp_path / "work/runs",))
    assert inside(view, f"import os; print(os.listdir({str(tmp_path / 'work/runs')!r}))").stdout == "['mine']\n"


@works
@pytest.mark.parametrize(("ends", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("pass", 0)])
def test_its_end(ends: str, code: int) -> None:
    assert confining.exit_code(inside(View(), f"import os, sys; {ends}").returncode) == code


@works
def test_it_has_no_power_and_no_neighbours() -> None:
    program = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
pids = [name for name in os.listdir("/proc") if name.isdecimal()]
print(status["CapEff"], status["CapBnd"], status["NoNewPrivs"], len(pids) <= 3, os.listdir("/sys/class/net"))
"""
    done = inside(View(), program)
    assert done.stdout.split()[:4] == ["0000000000000000", "0000000000000000", "1", "True"]


@works
def test_packages_in_editable_mode_are_seen(tmp_path: Path) -> None:
    """Those that a .pth file names, and those that a finder does."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    packages = next((tmp_path / "env/lib").glob("python*/site-packages"))
    for name in ("by_path", "by_finder"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "__init__.py").touch()
    (packages / "one.pth").write_text(str(tmp_path / "by_path"))
    (packages / "__editable___two_finder.py").write_text(
        f"MAPPING = {{'by_finder': '{tmp_path}/by_finder/by_finder'}}\n"
    )
    python = str(tmp_path / "env/bin/python")
    found = surroundings.places([python, "train.py"], {"PATH": os.environ["PATH"]}, tmp_path)
    assert {tmp_path / "env", tmp_path / "by_path", tmp_path / "by_finder/by_finder"} <= set(found)
    done = subprocess.run(
        confined([python, "-c", "import by_path, sys; print(sys.prefix)"], View(readable=tuple(found))),
        capture_output=True, text=True, cwd="/", check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "env")


def test_a_script_names_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable}\nprint(1)\n")
    script.chmod(0o755)
    assert Path(sys.prefix) in surroundings.places([str(script)], {}, tmp_path)


@works
def test_a_compiler_of_its_own_is_seen_whole_but_no_home_around_one(tmp_path: Path) -> None:
    for folder in ("tools", "home"):
        (tmp_path / folder / "bin").mkdir(parents=True)
        (tmp_path / folder / "part").write_text(f"a part in {folder}")
        program = tmp_path / folder / "bin" / ("gcc" if folder == "tools" else "nvcc")
        program.write_text('#!/bin/sh\ncat "$(dirname "$0")/../part" 2> /dev/null || echo alone\n')
        program.chmod(0o755)
    env = {**os.environ, "HOME": str(tmp_path / "home"), "CC": str(tmp_path / "tools" / "bin" / "gcc") + " -O2"}
    env["PATH"] = f"{tmp_path / 'home' / 'bin'}:{env['PATH']}"
    seen = tuple(surroundings.places([sys.executable], env, Path("/")))
    done = inside(
        View(readable=seen),
        f"import os; os.system({env['CC'].split()[0]!r}); os.system({str(tmp_path / 'home/bin/nvcc')!r})",
    )
    assert done.stdout.split("\n") == ["a part in toolsalone", ""]


def test_variables_by_name() -> None:
    env = {"PATH": "/bin", "HF_HOME": "/x", "EDITOR": "vi", "SSH_AUTH_SOCK": "/s", "MINE": "1", "AUTOEXP_TEST_X": "1"}
    kept = surroundings.named(env, {"MINE": "1"}, network=False)
    assert kept.keys() - {"HF_HUB_OFFLINE", "UV_OFFLINE", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"} == {
        "PATH",
        "HF_HOME",
        "MINE",
    }


@pytest.mark.usefixtures("no_bwrap")
def test_without_bubblewrap_it_says_so(tmp_path: Path) -> None:
    assert isolation.available() == "bubblewrap (bwrap) is not installed"
    with pytest.raises(ValueError, match="not installed"):
        confined(["true"], View())
    job = JobSpec("k", tmp_path / "job", (sys.executable,), tmp_path, {}, 60.0, tmp_path, isolation=Isolation())
    with pytest.raises(PreconditionError, match="not installed"):
        Local().submit(job)
    assert not (tmp_path / "job").exists()


def test_a_bubblewrap_that_does_not_work_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a container that allows no new namespaces, for example."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = "bubblewrap does not work here: bwrap: No permissions to create new namespace"
    assert isolation.available() == said


# -- jobs -------------------------------------------------------------------------------------------------------------


def ended(path: Path, program: str, **wanted: object) -> tuple[Exit, Path]:
    (path / "work").mkdir(exist_ok=True)
    folder = path / "runs" / "job"
    env = {"AUTOEXP_REPORT": str(folder / "report.json")}
    job = JobSpec(
        str(folder), folder, (sys.executable, "-c", program), path / "work", env, 60.0, path / "runs",
        isolation=Isolation(**wanted),  # type: ignore[arg-type]
    )  # fmt: skip
    Local().submit(job)
    result = until(lambda: Local().poll(folder), "the end")
    assert leftovers(path) == []
    return result, folder


@works
def test_what_it_leaves(tmp_path: Path) -> None:
    """Plain files and folders come to the job's folder; links, pipes, and the names of a keeper's files do not."""
    program = """
import os
os.chdir(os.path.dirname(os.environ["AUTOEXP_REPORT"]))
open("report.json", "w").write("{}")
os.makedirs("trace/deep")
open("trace/deep/file", "w").write("kept")
os.symlink("/etc/passwd", "trace/link")
os.symlink("/etc", "etc")
os.mkfifo("pipe")
open("exit.json", "w").write("{}")
os.mkdir("shut", 0o000)
print(os.getcwd())
"""
    result, folder = ended(tmp_path, program)
    assert (result.status, result.code, result.isolation) == ("exited", 0, isolation.name())
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    expected = {"report.json", "metrics.jsonl", "trace", "trace/deep", "trace/deep/file", "shut"}
    assert names - {"job.json", "exit.json", "keeper.lock", "keeper.err", "train.log"} == expected
    assert (folder / "train.log").read_text().strip() == str(confining.INSIDE)
    assert result.cpu_seconds is not None and result.cpu_seconds > 0


@works
@pytest.mark.parametrize("keeps", [True, False])
def test_copies_of_caches(tmp_path: Path, keeps: bool) -> None:
    """Only a training that is trusted leaves anything for later ones, and it changes nothing that was there."""
    cache = tmp_path / "cache"
    (cache / "kernels").mkdir(parents=True)
    (cache / "kernels" / "old").write_text("old")
    program = f"""
import os
os.chdir({str(cache)!r})
print(open("kernels/old").read())
open("kernels/old", "w").write("changed")
open("kernels/new", "w").write("new")
"""
    result, folder = ended(tmp_path, program, copied=(cache,), keeps_copies=keeps)
    assert (folder / "train.log").read_text() == "old\n"
    assert result.code == 0
    assert {path.name: path.read_text() for path in (cache / "kernels").iterdir()} == {
        "old": "old",
        **({"new": "new"} if keeps else {}),
    }
    assert not (folder / "copies").exists()


@works
def test_too_much_memory(tmp_path: Path) -> None:
    program = "import time\nheld = bytearray(400 << 20)\ntime.sleep(600)"
    result, _ = ended(tmp_path, program, max_memory_bytes=200 << 20)
    assert result.reason == "it took more than 0.195 GiB of memory (train.max_memory_gb)"
    assert result.code == -9


@works
def test_a_killed_keeper_leaves_nothing_running_and_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    folder = tmp_path / "runs" / "job"
    program = (
        "import os, time\nplace = os.path.dirname(os.environ['AUTOEXP_REPORT'])\n"
        "open(os.path.join(place, 'metrics.jsonl'), 'w').write('{\"step\": 1}\\n')\ntime.sleep(600)"
    )
    env = {"AUTOEXP_REPORT": str(folder / "report.json")}
    command = (sys.executable, "-c", program)
    job = JobSpec(str(folder), folder, command, tmp_path / "work", env, 60.0, tmp_path / "runs", isolation=Isolation())
    keeper = Local().submit(job)
    assert keeper is not None
    until(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text(), "its progress")
    os.kill(keeper, 9)
    result = until(lambda: Local().poll(folder), "the end")
    assert (result.status, result.isolation) == ("lost", isolation.name())
    assert json.loads((folder / "metrics.jsonl").read_text()) == {"step": 1}
    assert not (folder / "scratch").exists()
    assert leftovers(tmp_path) == []
