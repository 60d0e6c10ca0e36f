"""init, prepare and doctor, as commands."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import tomllib
from pathlib import Path

import pytest
from person import PROGRAM, Person

from autoexp.workspace.locks import Lock
from autoexp.workspace.paths import PREPARE_LOCK, Workspace
from autoexp.workspace.settings import Settings, load

MADE = [".gitignore", "AGENTS.md", "autoexp.toml", "program.md", "train.py"]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """With a workspace whose settings each test writes."""
    person = Person(tmp_path_factory.mktemp("committed"))
    person.workspace()
    return person


def marks(person: Person, code: int, **environ: str) -> dict[str, str]:
    report = person.types("doctor", "--json", code=code, **environ).json
    assert report["ready"] is (code == 0)
    return {check["name"]: check["mark"] for check in report["checks"]}


def test_init_makes_a_workspace_that_needs_only_its_data(person: Person) -> None:
    """The one test with the real trainer: init, doctor, prepare, doctor."""
    words = ["a", "brown", "dog", "far", "fox", "here", "jumps", "lazy", "over", "quick", "runs", "the"]
    rng = random.Random(0)
    (person.at / "text.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=60)) for _ in range(1000)))
    said = person.types("init", "lm", "--profile", "cpu", "--dataset", "text.txt").out
    person.at /= "lm"

    assert sorted(person.git("ls-tree", "--name-only", "HEAD").split()) == MADE
    assert person.git("status", "--porcelain") == ""
    assert [line.strip() for line in said[said.index("next:") :].splitlines()[1:]] == [
        "cd lm",
        "autoexp prepare",
        "autoexp start --loops 5",
    ]
    settings = tomllib.loads((person.at / "autoexp.toml").read_text())
    assert set(settings) == {"train", "metric", "files", "prepare", "run", "budget", "agent", "audit"}
    assert settings["train"]["can_reevaluate"] is True
    assert settings["train"]["env"]["AUTOEXP_DATA"].startswith("{cache}/prepared/text.txt-cpu-")

    assert marks(person, code=3)["data"] == "missing"
    assert "ready: autoexp start" in person.types("prepare").out
    assert "ready: autoexp start" in person.types("prepare").out
    after = marks(person, code=0)
    assert (after["data"], after["packages"], after["identity"]) == ("ok", "ok", "note")
    before = {name: (person.at / name).read_bytes() for name in MADE}
    again = person.types("init", ".").out
    assert again.splitlines()[0] == "kept  autoexp.toml  (it was there and is as it was)"
    assert "autoexp prepare" not in again
    assert before == {name: (person.at / name).read_bytes() for name in MADE}
    assert "is for the profile cpu" in person.fails("init", ".", "--profile", "h100", code=2)
    assert "--dataset would change nothing" in person.fails("init", ".", "--dataset", "bundled", code=2)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["x", "--profile", "tpu"], 2, "--profile 'tpu': it is one of auto, cpu, h100\n  try: --profile auto"),
        ([""], 2, "the folder has no name"),
        (["x", "--dataset", "/nowhere"], 3, "/nowhere is not there"),
        (["a-file"], 2, "is a file"),
        (["a-file/x"], 1, "cannot write"),
    ],
)
def test_init_refuses_before_it_writes_anything(person: Person, args: list[str], code: int, said: str) -> None:
    (person.at / "a-file").touch()

    assert said in person.fails("init", *args, code=code)
    assert os.listdir(person.at) == ["a-file"]


def test_init_without_git_says_so(person: Person) -> None:
    (person.bin / "git").unlink()

    assert "git is not on PATH" in person.fails("init", "x", code=3)


def test_init_overwrites_nothing_and_commits_nothing_of_the_persons(person: Person) -> None:
    person.git("init", "--quiet")
    mine = {"train.py": PROGRAM, "program.md": "my policy\n", "staged.txt": "staged\n"}
    for name, text in mine.items():
        (person.at / name).write_text(text)
    person.git("add", "staged.txt")

    said = person.types("init", ".").out

    assert {name: (person.at / name).read_text() for name in mine} == mine
    assert "kept  train.py" in said
    assert "kept  program.md" in said
    assert sorted(person.git("ls-tree", "--name-only", "HEAD").split()) == [".gitignore", "AGENTS.md", "autoexp.toml"]
    assert person.git("status", "--porcelain").splitlines() == ["A  staged.txt", "?? program.md", "?? train.py"]
    assert "git add train.py program.md && git commit" in said


def test_init_in_a_repository_with_commits_adds_files_and_tells_what_to_commit(person: Person) -> None:
    person.workspace()
    (person.at / "AGENTS.md").unlink()
    person.git("commit", "--quiet", "--all", "--message=No runbook")
    head = person.git("rev-parse", "HEAD")

    said = person.types("init", ".").out

    assert "git add AGENTS.md && git commit" in said
    assert person.git("rev-parse", "HEAD") == head
    assert person.git("status", "--porcelain") == "?? AGENTS.md\n"


def test_init_runs_no_hook_of_the_persons(person: Person) -> None:
    person.git("init", "--quiet")
    for name in ("pre-commit", "post-commit", "commit-msg", "reference-transaction"):
        hook = person.at / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n: > {person.path}/hooked\nexit 1\n")
        hook.chmod(0o755)
    person.git("config", "commit.gpgSign", "true")
    person.program()

    assert "first commit" in person.types("init", ".").out
    assert not (person.path / "hooked").exists()


def test_init_inside_a_repository_is_refused_unless_that_ignores_the_folder(person: Person) -> None:
    person.workspace()
    assert "is inside the git repository" in person.fails("init", "inner", code=2)

    with (person.at / ".gitignore").open("a") as file:
        file.write("/inner/\n")
    (person.at / "inner").mkdir()
    (person.at / "inner" / "train.py").write_text(PROGRAM)
    person.types("init", "inner")
    assert (person.at / "inner" / ".git").is_dir()


def test_settings_of_a_program_that_was_there_are_the_defaults(person: Person) -> None:
    person.workspace()

    assert load(Workspace(person.at), {}) == Settings()


def test_settings_of_a_karpathy_checkout_are_the_recognised_ones(person: Person) -> None:
    person.program()
    (person.at / "prepare.py").touch()
    recognised = load(Workspace(person.at), {})

    person.types("init", ".")

    assert (person.at / "autoexp.toml").is_file()
    assert load(Workspace(person.at), {}) == recognised


def test_prepare_passes_output_through_and_maps_exit_codes(person: Person) -> None:
    person.workspace()
    person.has("fetch", 'echo "fetching $1"; echo careful >&2; : > data; exit ${CODE:-0}')
    settings = person.at / "autoexp.toml"
    text = settings.read_text().replace('# command = ["{python}", "prepare.py"]', 'command = ["fetch", "shards"]')
    settings.write_text(text.replace("requires = []", 'requires = ["data"]'))

    ended = person.types("prepare")
    assert ended.out.splitlines() == ["fetching shards", "ready: autoexp start --loops 5"]
    assert ended.err == "careful\n"
    for code, mapped in (("1", 1), ("7", 1), ("3", 3)):
        failed = person.types("prepare", code=mapped, CODE=code).err.splitlines()
        assert failed == ["careful", f"error: the prepare command failed (exit {code}): fetch shards", failed[2]]
    assert "takes no --dataset" in person.fails("prepare", "--dataset", "climbmix", code=2)
    (person.bin / "fetch").unlink()
    assert "'fetch' is not on PATH" in person.fails("prepare", code=3)


def test_a_worktree_of_a_run_is_no_place_to_work_in(person: Person) -> None:
    person.workspace()
    person.types("start", "--run-id", "r", "--only", "setup,baseline", "--no-background-train")
    inside = person.run_folder() / "worktrees" / "0"
    if not inside.exists():
        person.git("worktree", "add", "--quiet", "--detach", str(inside))
    before = sorted(inside.iterdir())

    for command in (["start", "--loops", "1"], ["prepare"], ["init", "."], ["status"]):
        said = person.fails(*command, code=3, at=inside)
        assert f"is a worktree of a run; the workspace is {person.at}" in said
        assert f"try: cd {person.at}" in said
    assert sorted(inside.iterdir()) == before


def test_prepare_waits_for_one_that_is_under_way(person: Person) -> None:
    person.program()
    person.git("init", "--quiet")
    (person.at / "autoexp.toml").write_text('[train]\ncommand = ["true"]\n[prepare]\ncommand = ["fetch"]\n')
    person.has("fetch", "echo fetched")
    lock = Lock(person.run_folder().parent / PREPARE_LOCK)
    assert lock.acquire()
    timer = threading.Timer(3.0, lock.release)
    timer.start()

    said = person.types("prepare")
    timer.join()

    assert said.err.startswith("data is being prepared already: waiting for that\n")
    assert said.out.startswith("fetched\n")


def test_prepare_with_nothing_to_prepare_says_so(person: Person) -> None:
    person.workspace()

    assert "nothing to prepare" in person.types("prepare").out


def test_prepare_outside_a_workspace_uses_the_trainers_own(person: Person) -> None:
    assert "/nowhere is not there" in person.fails("prepare", "--dataset", "/nowhere", "--profile", "cpu", code=3)
    said = person.fails("prepare", "--profile", "tpu", code=2)
    assert said.splitlines() == ["error: --profile 'tpu': it is one of auto, cpu, h100", "  try: --profile auto"]
    assert person.types("prepare", "--profile", "cpu", "--check", code=3).out.startswith(str(person.path / "cache"))


def test_prepare_in_a_karpathy_checkout_asks_uv(person: Person) -> None:
    person.git("init", "--quiet")
    person.program()
    (person.at / "prepare.py").touch()
    person.has(
        "uv",
        'echo "uv $*"; mkdir -p $HOME/.cache/autoresearch/data $HOME/.cache/autoresearch/tokenizer\n'
        ": > $HOME/.cache/autoresearch/data/a.parquet; : > $HOME/.cache/autoresearch/tokenizer/tokenizer.pkl",
    )
    (person.bin / "mkdir").symlink_to(str(shutil.which("mkdir")))

    assert person.types("prepare", "--num-shards", "2").out.splitlines()[0] == "uv run prepare.py --num-shards 2"


def test_doctor_outside_a_repository_names_what_is_missing(person: Person) -> None:
    ended = person.types("doctor", code=3)

    assert "not ready: repository" in ended.out
    assert "→ autoexp init my-research" in ended.out


def test_doctor_without_git(person: Person) -> None:
    (person.bin / "git").unlink()

    assert marks(person, code=3)["git"] == "missing"


def test_doctor_says_ready_where_a_start_works(person: Person) -> None:
    person.workspace()

    found = marks(person, code=0)

    assert {name for name, mark in found.items() if mark == "ok"} >= {
        "git",
        "repository",
        "settings",
        "program",
        "training",
    }
    assert (found["agents"], found["identity"]) == ("note", "note")
    person.types("start", "--only", "setup,baseline", "--no-background-train")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("[train]\ncommand = 'nothing-like-it train.py'\n", "training"),
        ("[files]\neditable = ['model.py']\n", "program"),
        ("[prepare]\nrequires = ['data/*.bin']\n", "data"),
        ("[prepare]\nrequire = []\n", "settings"),
        ("[run]\nproposer = 'nobody'\n", "settings"),
        ("[run]\nproposer = 'opencode'\n", "agents"),
        ("[train\n", "settings"),
    ],
)
def test_doctor_finds_what_would_stop_a_start(committed: Person, settings: str, name: str) -> None:
    (committed.at / "autoexp.toml").write_text(settings)

    report = committed.types("doctor", "--json", code=3).json

    (missing,) = [check for check in report["checks"] if check["mark"] == "missing"]
    assert missing["name"] == name
    assert missing["mend"]


@pytest.mark.parametrize(
    ("settings", "mark", "said"),
    [
        ("[agents.codex]\nmodle = 'x'\n", "missing", "did you mean model?"),
        ("[proposers.search]\nonyl = ['x']\n", "missing", "did you mean only?"),
        ("[agents.claud]\nmodel = 'x'\n", "note", "did you mean [agents.claude]?"),
        ("[proposers.serch]\nonly = ['x']\n", "note", "did you mean [proposers.search]?"),
    ],
)
def test_doctor_lists_everything_beside_a_wrong_setting(committed: Person, settings: str, mark: str, said: str) -> None:
    (committed.at / "autoexp.toml").write_text(settings)
    report = committed.types("doctor", "--json", code=3 if mark == "missing" else 0).json
    assert {"program", "training", "data", "disk", "agents"} <= {check["name"] for check in report["checks"]}
    (check,) = [c for c in report["checks"] if c["name"] == "settings" and c["mark"] == mark]
    assert said in check["found"] + check["mend"]


def test_a_misspelt_table_is_noted_by_a_run(committed: Person) -> None:
    (committed.at / "autoexp.toml").write_text("[agents.claud]\nmodel = 'x'\n")
    committed.types("start", "--run-id", "r", "--only", "setup", "--no-background-train")
    assert "did you mean [agents.claude]?" in committed.types("status").out


@pytest.mark.parametrize(
    ("settings", "visible", "mark", "mend"),
    [
        ("[train]\ngpus = 2\n", None, "ok", ""),
        ("[train]\ngpus = 3\n", None, "missing", "set gpus = 2 under [train] in autoexp.toml"),
        ("[train]\ngpus = 2\n", "1", "missing", "set gpus = 1 under [train] in autoexp.toml"),
        ("[train]\ngpus = 2\n[run]\nworkers = 2\n", "0,1,2", "missing", "set workers = 1 under [run] in autoexp.toml"),
    ],
)
def test_doctor_counts_the_gpus(
    committed: Person, settings: str, visible: str | None, mark: str, mend: str, tmp_path: Path
) -> None:
    (committed.at / "autoexp.toml").write_text(settings)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf 'H200, 1 MiB\\nH200, 1 MiB\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    committed.environ.pop("CUDA_VISIBLE_DEVICES", None)
    environ = {"PATH": f"{tmp_path}:{committed.environ['PATH']}"}
    environ |= {"CUDA_VISIBLE_DEVICES": visible} if visible is not None else {}

    report = committed.types("doctor", "--json", code=0 if mark == "ok" else 3, **environ).json

    [check] = [check for check in report["checks"] if check["name"] == "GPU"]
    assert (check["mark"], check["mend"]) == (mark, mend)


def test_doctor_changes_nothing_and_notes_edits_and_agents(person: Person) -> None:
    person.workspace()
    person.has("opencode")
    person.program(PROGRAM + "# edited\n")
    os.utime(person.at / "program.md", (1, 1))  # what git would write down, if it were let
    index = (person.at / ".git" / "index").read_bytes()

    found = marks(person, code=0)

    assert (found["edits"], found["agents"]) == ("note", "ok")
    assert (person.at / ".git" / "index").read_bytes() == index
    assert json.loads(person.types("doctor", "--json").out)["ready"] is True
