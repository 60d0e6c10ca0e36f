"""Whether a start can work, and what would mend it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from autoexp.errors import AutoexpError
from autoexp.plugins.manager import REGISTERING, parts, plugin_manager
from autoexp.runs.records import shares
from autoexp.session.background import live
from autoexp.session.foresight import strangers
from autoexp.session.planning import checked
from autoexp.spec.ports import isolates_by, mended, missing_isolation
from autoexp.workspace.candidate import editable_files, nothing_editable
from autoexp.workspace.constants import declared
from autoexp.workspace.paths import SETTINGS_FILE, Workspace, cache_dir, find_workspace
from autoexp.workspace.repository import Repository
from autoexp.workspace.settings import Settings, filled, load, missing_data
from autoexp.workspace.sight import by_default
from autoexp.workspace.trainer import PACKAGE

GPU_PROFILE = "h100"
KNOWN_AGENTS = ("opencode", "claude", "codex")
IMPORT_SECONDS = 120.0
"""How long the trainer's packages may take to be imported; torch on a cold disk is slow."""
LITTLE_SPACE = 2 * 1024**3


class Check(BaseModel):
    """One thing that was looked at. `note`: a start works all the same."""

    model_config = ConfigDict(extra="forbid")
    name: str
    mark: Literal["ok", "note", "missing"]
    found: str
    mend: str = ""
    """The command to type; '' when there is nothing to mend."""


class Readiness(BaseModel):
    """The schema of `autoexp doctor --json`."""

    model_config = ConfigDict(extra="forbid")
    ready: bool
    checks: list[Check]


def examine(start: Path | None = None) -> Readiness:
    """Look at everything that a start needs, from inside a workspace or outside of any. Changes nothing."""
    checks = list(_examine(start))
    return Readiness(ready=all(check.mark != "missing" for check in checks), checks=checks)


def _examine(start: Path | None) -> list[Check]:
    if shutil.which("git") is None:
        return [_missing("git", "not on PATH", "install git"), *_machine(None)]
    version = subprocess.run(["git", "--version"], capture_output=True, text=True).stdout.strip()
    checks = [_ok("git", version.removeprefix("git version "))]
    try:
        workspace = find_workspace(start)
        repository = Repository(workspace)
    except AutoexpError as error:
        return [*checks, _missing("repository", str(error), error.hint), *_machine(None)]
    checks.append(_ok("repository", str(workspace.root)))
    head = repository.resolve("HEAD")
    if head is None:
        checks.append(_missing("first commit", "there is none yet", "git add -A && git commit -m start"))
    else:
        checks.append(_ok("first commit", repository.run("log", "-1", "--no-show-signature", "--format=%h %s", head)))
    checks.append(_identity(repository))
    try:
        settings = load(workspace)
    except AutoexpError as error:
        return [*checks, _missing("settings", str(error), error.hint), *_machine(None), *_runs(workspace)]
    try:
        checked(settings, {name: getattr(settings.run, name) for name in ("proposer", "executor", "rule")})
        named = {kind: parts(plugin_manager(), kind, getattr(settings, kind)) for kind in REGISTERING}
    except AutoexpError as error:
        checks.append(_missing("settings", str(error), error.hint))
    else:
        checks.append(_settings(workspace))
        checks += [_note("settings", text, f"edit {SETTINGS_FILE}") for text, _ in strangers(settings, named)]
    editable = editable_files(repository, head, settings.files.editable, settings.files.frozen) if head else []
    checks.append(_editable(workspace, settings, editable))
    checks.append(_command(workspace, settings))
    sources = [repository.show(head, path) or "" for path in editable] if head else []
    ours = [source for source in sources if PACKAGE in source]
    if ours and settings.train.command:
        checks.append(_packages(filled(settings.train.command[0], workspace), workspace.root))
    checks.append(_data(workspace, settings))
    checks += _machine(settings)
    checks += _profile(ours)
    checks.append(_isolation(settings, bool(ours), by_default(ours)))
    edited = _edited(repository, editable)
    if edited:
        said = f"uncommitted edits of {', '.join(edited)}: they are not part of a run"
        checks.append(_note("edits", said, "autoexp propose --from-diff"))
    return [*checks, *_runs(workspace)]


def _ok(name: str, found: str) -> Check:
    return Check(name=name, mark="ok", found=found)


def _note(name: str, found: str, mend: str = "") -> Check:
    return Check(name=name, mark="note", found=found, mend=mend)


def _missing(name: str, found: str, mend: str) -> Check:
    return Check(name=name, mark="missing", found=found, mend=mend)


def _identity(repository: Repository) -> Check:
    if repository.identity():
        mend = "git config --global user.name NAME && git config --global user.email ADDRESS"
        return _note("identity", "git knows no name: candidates are committed as autoexp", mend)
    who = repository.run("var", "GIT_AUTHOR_IDENT").rsplit(">", 1)[0] + ">"
    return _ok("identity", who)


def _settings(workspace: Workspace) -> Check:
    if workspace.settings.exists():
        return _ok("settings", SETTINGS_FILE)
    if (workspace.root / "prepare.py").exists() and (workspace.root / "train.py").exists():
        return _ok("settings", "a karpathy/autoresearch checkout: uv run train.py")
    return _note("settings", f"no {SETTINGS_FILE}: the defaults, or [tool.autoexp] of pyproject.toml", "autoexp init .")


def _editable(workspace: Workspace, settings: Settings, found: list[str]) -> Check:
    if not found:
        error = nothing_editable(settings.files, workspace.root)
        return _missing("program", str(error), error.hint)
    return _ok("program", f"{', '.join(found[:5])}: committed")


def _command(workspace: Workspace, settings: Settings) -> Check:
    words = [filled(word, workspace) for word in settings.train.command]
    if not words or not words[0]:
        return _missing("training", "train.command is empty", f"edit {SETTINGS_FILE}")
    if shutil.which(words[0]) is None and not (workspace.root / words[0]).exists():
        return _missing(
            "training", f"{words[0]!r} is not on PATH", f"install {words[0]}, or set train.command in {SETTINGS_FILE}"
        )
    return _ok("training", " ".join(words))


def _packages(python: str, root: Path) -> Check:
    """Ask the interpreter that trains, in a process of its own, for torch and the trainer."""
    if not Path(python).name.startswith("python"):
        return _note("packages", f"not looked at: {python} is no Python")
    code = f"import torch, {PACKAGE}; print('torch', torch.__version__)"
    mend = "pip install autoexp"
    try:
        ended = subprocess.run([python, "-c", code], cwd=root, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return _missing("packages", f"importing torch took longer than {IMPORT_SECONDS:g} s", "autoexp doctor")
    except OSError as error:
        return _missing("packages", f"{python}: {error.strerror}", mend)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        return _missing("packages", f"{python} cannot import the trainer: {said}", mend)
    return _ok("packages", ended.stdout.strip())


def _edited(repository: Repository, editable: list[str]) -> list[str]:
    if not editable:
        return []
    no_locks = {"GIT_OPTIONAL_LOCKS": "0"}  # else git would refresh, and so rewrite, the user's index
    names = repository.run("diff", "--name-only", "-z", "HEAD", "--", *editable, env=no_locks)
    return [name for name in names.split("\0") if name]


def _data(workspace: Workspace, settings: Settings) -> Check:
    missing = missing_data(workspace, settings)
    if missing:
        return _missing("data", f"missing: {', '.join(missing)}", "autoexp prepare")
    if not settings.prepare.requires:
        return _note("data", "prepare.requires names none")
    return _ok("data", ", ".join(filled(pattern, workspace) for pattern in settings.prepare.requires))


def _machine(settings: Settings | None) -> list[Check]:
    return [_gpu(settings), _space(), _agents(settings)]


def _gpu(settings: Settings | None) -> Check:
    shared = settings.train.gpus if settings is not None else 1
    on_cpu = "trials run on the CPU" + (f", in {shared} processes each" if shared > 1 else "")
    if shutil.which("nvidia-smi") is None:
        return _note("GPU", f"none by NVIDIA (no nvidia-smi): {on_cpu}")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        ended = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return _note("GPU", "nvidia-smi gives no answer", "nvidia-smi")
    names = [line.strip() for line in ended.stdout.splitlines() if line.strip()]
    if ended.returncode or not names:
        return _note("GPU", f"nvidia-smi finds none: {on_cpu}", "nvidia-smi")
    return _too_few(settings, len(names)) or _ok("GPU", "; ".join(names))


def _too_few(settings: Settings | None, there: int) -> Check | None:
    """What the local executor will refuse: fewer GPUs than all workers' trials need together."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        there = sum(name.strip() not in ("", "-1") for name in visible.split(","))
    if settings is None or settings.run.executor != "local" or not there:
        return None
    workers, each = settings.run.workers, settings.train.gpus
    if workers * each <= there:
        return None
    said = f"run.workers = {workers} times train.gpus = {each} is more than the {there} that trainings may use"
    change = f"set gpus = {there} under [train]" if each > there else f"set workers = {there // each} under [run]"
    return _missing("GPU", said, f"{change} in {SETTINGS_FILE}")


def _profile(sources: list[str]) -> list[Check]:
    """A program for a GPU where there is none trains all the same, at a speed that is of no use."""
    constants = [declared(source).get("PROFILE") for source in sources]
    wanted = any(constant is not None and constant.value == GPU_PROFILE for constant in constants)
    if not wanted or shutil.which("nvidia-smi") is not None:
        return []
    said = f"the program is for the profile {GPU_PROFILE}, and there is no NVIDIA GPU"
    return [_note("profile", said, "autoexp init another-folder --profile cpu")]


def _isolation(settings: Settings, ours: bool, default: bool) -> Check:
    """What trainings will be confined by, with the executor of the settings."""
    wanted = settings.train.isolation
    if wanted == "off":
        return _note("isolation", 'none: train.isolation is "off"; trainings see and do what you can')
    if wanted == "auto" and not ours:
        said = "none: the program is not made with autoexp's trainer, and may need anything"
        return _note("isolation", said, f'set isolation = "required" under [train] in {SETTINGS_FILE}')
    if wanted == "auto" and not default:
        said = "none: on a GPU it is to be asked for; trainings see and do what you can"
        return _note("isolation", said, f'set isolation = "required" under [train] in {SETTINGS_FILE}')
    executor = parts(plugin_manager(), "executors", settings.executors)[settings.run.executor]
    missing = missing_isolation(executor)
    if missing is not None:
        bad = _missing if wanted == "required" else _note
        return bad("isolation", f"none: {missing}; trainings see and do what you can", "apt-get install bubblewrap")
    network = ", with the network" if settings.train.network else ""
    return _ok("isolation", f"{isolates_by(executor)}{network}")


def _space() -> Check:
    folder = cache_dir().absolute()
    while not folder.exists():
        folder = folder.parent
    free = min(shutil.disk_usage(place).free for place in (folder, Path.cwd()))
    said = f"{free / 1024**3:.1f} GiB free"
    return (
        _ok("disk", said)
        if free > LITTLE_SPACE
        else _note("disk", f"only {said}", f"du -sh {cache_dir()} workflows/runs")
    )


def _agents(settings: Settings | None) -> Check:
    """An agent is needed only by a proposer that is one; without, constants and patches can be tried."""
    found = [name for name in KNOWN_AGENTS if shutil.which(name)]
    if settings is not None:
        try:
            agents = parts(plugin_manager(), "agents", settings.agents)
        except AutoexpError:
            agents = {}  # what is wrong with them is told beside the settings
        proposers = settings.run.proposers or shares(settings.run.proposer)
        for name in dict.fromkeys((*proposers, settings.agent.name)):
            if name not in agents:
                continue
            problem = agents[name].available()
            if problem is None:
                found = list(dict.fromkeys([*found, name]))
            elif name in proposers:
                mend = mended(agents[name], "autoexp start --proposer search")
                return _missing("agents", f"{problem}, and it is the proposer", mend)
            else:
                also = f" (on PATH: {', '.join(found)}; set [agent] name)" if found else ""
                said = f"{problem}: proposals in words cannot be tried{also}"
                return _note("agents", said, getattr(agents[name], "mend", "") or f"install {name}")
    if not found:
        return _note("agents", f"none of {', '.join(KNOWN_AGENTS)} is on PATH: proposals in words cannot be tried")
    return _ok("agents", ", ".join(found))


def _runs(workspace: Workspace) -> list[Check]:
    names = [name for name in workspace.run_ids() if live(workspace.run(name))]
    return [_note("runs", f"live: {', '.join(names)}", "autoexp status")] if names else []
