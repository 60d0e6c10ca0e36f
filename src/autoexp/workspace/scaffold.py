"""A new workspace: a repository with a program, its policy and its settings. Nothing that exists is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from autoexp.errors import AutoexpError, PreconditionError, UsageError
from autoexp.workspace.constants import declared
from autoexp.workspace.detect import detect
from autoexp.workspace.paths import SETTINGS_FILE, Workspace, cache_dir, workspace_around
from autoexp.workspace.repository import Repository
from autoexp.workspace.settings import load, missing_data
from autoexp.workspace.trainer import PACKAGE, trainer

START_SECONDS = 300.0
"""What a trial may take beside its budget: importing, compiling, evaluating."""


@dataclass(frozen=True)
class Made:
    """What `init` did. `kept` are files that were there with another content."""

    root: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]
    same: tuple[str, ...]
    profile: str | None
    """None for a program that was there already and is not autoexp's own."""
    dataset: str | None
    """None where the settings were there already: they say it."""
    budget_seconds: float
    data_ready: bool
    new_repository: bool
    commit: str | None
    """The first commit, when `init` made it."""
    to_commit: tuple[str, ...]
    """Files that a run needs in a commit and that are in none."""


def template(name: str) -> str:
    """The text of a file that every workspace gets."""
    return (files("autoexp.workspace") / "templates" / name).read_text(encoding="utf-8")


def init(folder: Path, profile: str = "auto", dataset: str | None = None) -> Made:
    """Make `folder` a workspace. Everything is found out before the first file is written; doing it again is harmless.

    Raises UsageError for a bad folder, profile or data set, PreconditionError without git, AutoexpError when a file
    cannot be written.
    """
    try:
        root = _root(folder)
    except OSError as error:
        raise _unwritable(error, folder) from error
    program = root / "train.py"
    own = _own_profile(program)
    if own is not None and profile not in ("auto", own):
        raise UsageError(
            f"{program} is for the profile {own}, not {profile}",
            f"autoexp init {folder} --profile {own}, or move it away",
        )
    foreign = program.exists() and own is None
    if foreign and dataset is not None:
        raise UsageError(
            f"{program} is not autoexp's own program: --dataset means nothing to it", f"autoexp init {folder}"
        )
    workspace = Workspace(root)
    if workspace.settings.exists() and dataset is not None:
        raise UsageError(
            f"{workspace.settings} is there and is left as it is: --dataset would change nothing",
            f"autoexp prepare --dataset {dataset}, or move {SETTINGS_FILE} away",
        )
    facts: dict[str, Any] = {}
    wanted = {
        ".gitignore": template("gitignore"),
        "AGENTS.md": template("AGENTS.md"),
        "program.md": template("program.md"),
    }
    if not foreign:
        wanted["train.py"], facts = _program(own or profile, dataset)
    wanted[SETTINGS_FILE] = _settings(facts, workspace)
    try:
        made, kept, same = _write(root, wanted)
    except OSError as error:
        raise _unwritable(error, root) from error
    new = not (root / ".git").exists()
    if new:
        _git_init(root)
    repository = Repository(workspace)
    settings = load(workspace)
    commit = _first_commit(repository, [*made, *same])
    tracked = set(repository.files("HEAD")) if repository.resolve("HEAD") else set()
    return Made(
        root=root,
        made=tuple(made),
        kept=tuple(["train.py", *kept] if foreign else kept),
        same=tuple(same),
        profile=facts.get("profile"),
        dataset=facts.get("dataset") if SETTINGS_FILE not in kept else None,
        budget_seconds=settings.train.budget_seconds,
        data_ready=not missing_data(workspace, settings),
        new_repository=new,
        commit=commit,
        to_commit=tuple(name for name in _ordered([*wanted, "train.py"]) if name not in tracked),
    )


def _ordered(names: Iterable[str]) -> list[str]:
    """The order in which people are told of files: the program first."""
    return sorted(set(names), key=lambda name: (name != "train.py", name))


def _unwritable(error: OSError, path: Path) -> AutoexpError:
    return AutoexpError(
        f"cannot write {error.filename2 or error.filename or path}: {error.strerror}", "autoexp init another-folder"
    )


def _root(folder: Path) -> Path:
    """The folder, absolute. Raises UsageError for one that cannot be a workspace."""
    root = folder.expanduser().absolute()
    if shutil.which("git") is None:
        raise PreconditionError("git is not on PATH", f"install git, then: autoexp init {folder}")
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder", "autoexp init another-folder")
    root = root.resolve()
    found = workspace_around(root)
    if found is None:
        return root
    around = found.root
    if around != root and not _ignored(around, root):
        raise UsageError(
            f"{root} is inside the git repository {around}, and a workspace is the top of one",
            f"autoexp init {around}, or to nest them: git init {root} && autoexp init {root}",
        )
    return root


def _ignored(around: Path, root: Path) -> bool:
    """Whether the repository around a folder ignores it: then one inside it is meant."""
    name = f"{root.relative_to(around)}/"  # a folder, also before it is made
    return (
        subprocess.run(["git", "-C", str(around), "check-ignore", "--quiet", name], capture_output=True).returncode == 0
    )


def _own_profile(program: Path) -> str | None:
    """The profile that a train.py of ours was written for; None for any other program, and for none."""
    try:
        text = program.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    constant = declared(text).get("PROFILE") if PACKAGE in text else None
    return constant.value if constant is not None and isinstance(constant.value, str) else None


def _program(profile: str, dataset: str | None) -> tuple[str, dict[str, Any]]:
    """(the text of train.py, facts about it and its data: profile, budget_seconds, dataset, data_dir, ready)."""
    with tempfile.TemporaryDirectory(prefix="autoexp-init-") as folder:
        out = Path(folder) / "train.py"
        _, facts = trainer("profiles", "--profile", profile, "--out", str(out))
        text = out.read_text(encoding="utf-8")
    chosen = dataset or str(facts["dataset"])
    if chosen not in ("bundled", "climbmix"):
        chosen = str(Path(chosen).expanduser().absolute())
    _, data = trainer("prepare", "--dataset", chosen, "--profile", str(facts["profile"]), "--check", "--json")
    return text, {**facts, **data, "dataset": chosen}


def _settings(facts: dict[str, Any], workspace: Workspace) -> str:
    """The text of autoexp.toml: for our program by its profile, for any other what the files imply."""
    if facts:
        data = str(facts["data_dir"])
        cache = str(cache_dir().absolute())
        data = "{cache}" + data.removeprefix(cache) if data.startswith(cache + os.sep) else data
        command = [
            "{python}",
            "-m",
            f"{PACKAGE}.prepare",
            "--dataset",
            facts["dataset"],
            "--profile",
            facts["profile"],
        ]
        values = {
            "COMMAND": ["{python}", "train.py"],
            "BUDGET": facts["budget_seconds"],
            "TIMEOUT": facts["budget_seconds"] + START_SECONDS,
            "REEVALUATE": True,
            "STANDBY": facts["device"] == "cuda",  # on a CPU it would take cores from the training that runs
            "ENV": f"AUTOEXP_DATA = {_toml(data)}  # all trials are judged on this data, and on no other",
            "EDITABLE": ["train.py"],
            "FROZEN": [],
            "PREPARE": f"command = {_toml([*command, '--out', data])}",
            "REQUIRES": [f"{data}/meta.json"],
        }
    else:
        known = detect(workspace)
        prepare = known.get("prepare", {})
        shown = _toml(prepare.get("command") or ["{python}", "prepare.py"])
        values = {
            "COMMAND": known.get("train", {}).get("command", ["{python}", "train.py"]),
            "BUDGET": 300,
            "TIMEOUT": 600,
            "REEVALUATE": False,
            "STANDBY": False,
            "ENV": '# NAME = "value"',
            "EDITABLE": ["train.py"],
            "FROZEN": known.get("files", {}).get("frozen", []),
            "PREPARE": f"command = {shown}" if prepare else f"# command = {shown}",
            "REQUIRES": prepare.get("requires", []),
        }
    text = template(SETTINGS_FILE)
    for name, value in values.items():
        text = text.replace(f"@{name}@", value if name in ("ENV", "PREPARE") else _toml(value))
    return text


def _toml(value: Any) -> str:
    """A value as TOML writes it; for strings, numbers and lists of strings that is how JSON does."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def _write(root: Path, wanted: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """(made, kept, same): each file is made only where there is nothing."""
    root.mkdir(parents=True, exist_ok=True)
    made: list[str] = []
    kept: list[str] = []
    same: list[str] = []
    with tempfile.TemporaryDirectory(prefix=".autoexp-init-", dir=root) as folder:
        for name in _ordered(wanted):
            path, draft = root / name, Path(folder) / name
            draft.write_text(wanted[name], encoding="utf-8", newline="")
            try:
                os.link(draft, path)  # whole or not at all, and never over another file
                made.append(name)
            except FileExistsError:
                ours = path.is_file() and path.read_bytes() == draft.read_bytes()
                (same if ours else kept).append(name)
    return made, kept, same


def _git_init(root: Path) -> None:
    environ = {
        name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    ended = subprocess.run(["git", "init", "--quiet", str(root)], capture_output=True, text=True, env=environ)
    if ended.returncode:
        raise AutoexpError(f"git init failed: {ended.stderr.strip()}", f"git init {root}")


def _first_commit(repository: Repository, names: Sequence[str]) -> str | None:
    """Commit these files, and no others, in a repository that has no commit. Returns the commit if it made one.

    It is made from an index of its own, and by plumbing: what else is staged stays so, no hook runs, nothing is signed.
    """
    if not names or repository.resolve("HEAD") is not None:
        return None
    add = ("add", "--force", "--", *(f":(top,literal){name}" for name in names))
    with tempfile.TemporaryDirectory(prefix="autoexp-init-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        repository.run(*add, env=env)
        tree = repository.run("write-tree", env=env)
    commit = repository.run("commit-tree", tree, "-m", "A workspace of autoexp", env=repository.identity())
    repository.run("update-ref", "HEAD", commit)
    repository.run(*add)
    return commit
