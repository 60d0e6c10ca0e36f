"""Settings: `autoexp.toml` or `[tool.autoexp]` in pyproject.toml, then AUTOEXP_<SECTION>__<KEY>, then flags."""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from autoexp.errors import UsageError, complaint
from autoexp.runs.records import Budget, Metric
from autoexp.workspace.detect import detect
from autoexp.workspace.paths import Workspace, cache_dir


def _words(value: Any) -> Any:
    import shlex

    return shlex.split(value) if isinstance(value, str) else value


Command = Annotated[tuple[str, ...], BeforeValidator(_words), Field(min_length=1)]
"""A command line: a list, or a string that is split as a shell does. {python}, {cache} and {root} are filled in."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Train(Section):
    """How a candidate is trained."""

    command: Command = ("{python}", "train.py")
    budget_seconds: PositiveFloat = 300.0
    """Training time a trial gets; passed on as AUTOEXP_BUDGET_SECONDS."""
    timeout_seconds: PositiveFloat = 600.0
    """Wall time after which the keeper ends the whole process tree."""
    gpus: PositiveInt = 1
    """GPUs that one trial trains on together, within the same budget; without a GPU, processes. Passed on as
    AUTOEXP_GPUS."""
    standby: bool = False
    """While a training runs, start the next one's process: it imports torch and its compiler, and waits. For commands
    like `python train.py`, on one GPU."""
    env: dict[str, str] = {}
    keep_checkpoints: bool = False
    """Keep every trial's checkpoint.pt; otherwise only the best one's, which is hundreds of megabytes a trial less."""
    can_reevaluate: bool = False
    """Whether the command evaluates the checkpoint in AUTOEXP_CHECKPOINT instead of training."""
    evaluation: Literal["auto", "judge", "trainer"] = "auto"
    """Who evaluates: the harness's judge, from the checkpoint, in other processes, or the trainer itself. `auto` is the
    judge where the run's first program keeps the contract for that and is written for a CPU: on a GPU it is to be asked
    for. `judge` refuses a program that does not keep the contract."""
    evaluation_seconds: PositiveFloat = 300.0
    """Wall time that the judge may take, once a training has ended."""
    isolation: Literal["auto", "required", "off"] = "auto"
    """Whether a training sees only what it needs, by bubblewrap: `auto`, if the program is made with autoexp's trainer,
    for a CPU, and bubblewrap works here; `required`, any program, and nothing is trained where that cannot be."""
    readable: tuple[str, ...] = ()
    """More files and folders that an isolated training may read; `~`, `{cache}` and `{root}` are filled in."""
    writable: tuple[str, ...] = ()
    """Files and folders beside its own that it may write to. What one training leaves there the next one finds."""
    network: bool = False
    """Whether an isolated training has the network."""
    max_processes: PositiveInt = 1000
    """An isolated training with more processes at a time is ended."""
    max_disk_gb: PositiveFloat = 20.0
    """Gigabytes (2^30 bytes) of files that an isolated training may have; one that writes more is ended."""
    max_memory_gb: PositiveFloat | None = None
    """Gigabytes of the machine's memory, not a GPU's, that an isolated training may use; one that takes more is ended.
    Left out, as much as there is."""


class Prepare(Section):
    """What must be there before the first training, and the command that makes it."""

    command: Command | None = None
    requires: tuple[str, ...] = ()
    """Paths or globs, each of which must match; `~`, `{cache}` and `{root}` are filled in."""
    timeout_seconds: PositiveFloat = 6 * 3600.0


class Files(Section):
    """What a proposal may touch. Everything else is refused."""

    editable: tuple[str, ...] = ("train.py",)
    frozen: tuple[str, ...] = ()
    """Named for people and agents; also refused when an editable glob matches them."""
    link: tuple[str, ...] = ()
    """Untracked paths of the workspace (data, say) that each candidate's worktree gets a symbolic link to."""


class Run(Section):
    """Which parts do the work, by their registered names."""

    proposer: str = "search"
    """One, or a mix with shares: "opencode=0.7,search=0.3"."""
    proposers: dict[str, PositiveFloat] = {}
    """The same mix as a table, {opencode = 0.7, search = 0.3}; it goes before `proposer`."""
    fallback: str = "search"
    """Asked when the proposer has nothing to propose, and instead of it under --no-stochastic."""
    executor: str = "local"
    rule: str = "confirm"
    trackers: tuple[str, ...] = ()
    workers: PositiveInt = 1
    max_attempts: PositiveInt = 3
    """Trainings of one iteration at most, repairs and reruns included."""
    seed: int = 0


class Audit(Section):
    """Training the baseline and the best again with fresh seeds, to see whether what the run claims holds."""

    seeds: PositiveInt = 3
    """Trainings of each of the two. The rank test of 3 against 3 can give p = 0.05 at best, of 4 against 4 0.014."""
    auto: bool = True
    """Whether a run does it by itself at its end, when it has kept something and it fits `share` and max_hours."""
    share: PositiveFloat = 0.2
    """Of the time that the run has worked: an audit that would take more is left to `autoexp audit`."""


class Agent(Section):
    """The program that is asked to propose, apply and triage where words must become code."""

    name: str = "opencode"
    """Asked for what the proposer, when it is no agent, leaves open: the edits of an idea in words."""
    timeout_seconds: PositiveFloat = 600.0
    """Wall time of one call; its whole process group ends with it."""
    tries: PositiveInt = 2
    """Calls for one answer: a bad one is asked for again, with what was wrong."""
    patience_seconds: NonNegativeFloat = 900.0
    """How long rate limits and outages are waited for before the fallback proposer goes on instead."""
    edits_at_once: bool = False
    """Whether it edits the files while it proposes, in one call, instead of in a second one."""
    env: tuple[str, ...] = ()
    """Environment variables, or `PREFIX_*`, that agents get beside those that each is known to need. Nothing else of
    the environment reaches them."""
    brief_tokens: Annotated[int, Field(ge=4000)] = 30_000
    """Tokens that a brief may have, 4000 at least. Counted with a small vocabulary of autoexp's own, which needs more
    tokens for a text than the models' do."""
    lessons: bool = False
    """Whether what agents learn is kept for later runs, in workflows/lessons.md."""
    args: tuple[str, ...] = ()
    """The options of the agent `name`: a model, a configuration. For the others: [agents.<name>] args."""


class Settings(Section):
    """All settings of a workspace."""

    train: Train = Train()
    metric: Metric = Metric()
    files: Files = Files()
    prepare: Prepare = Prepare()
    run: Run = Run()
    agent: Agent = Agent()
    budget: Budget = Budget()
    audit: Audit = Audit()
    proposers: dict[str, dict[str, Any]] = Field(default={})
    """Options of single proposers: [proposers.search]."""
    agents: dict[str, dict[str, Any]] = Field(default={})
    """Options of single agents: [agents.claude]."""
    rules: dict[str, dict[str, Any]] = Field(default={})
    executors: dict[str, dict[str, Any]] = Field(default={})
    trackers: dict[str, dict[str, Any]] = Field(default={})


def load(workspace: Workspace, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force: what `detect` recognises, then the file, then the environment.

    Raises UsageError that names the place, and for an unknown key the nearest valid one.
    """
    merged = detect(workspace)
    where, written = _file(workspace)
    _merge(merged, written)
    named = _environment(os.environ if environ is None else environ)
    if named.get("run", {}).keys() & {"proposer", "proposers"}:
        merged.get("run", {}).pop("proposers", None)  # one mix instead of the other, not both of them
    _merge(merged, named)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        section, key = ([str(part) for part in error.errors()[0]["loc"]] + ["", ""])[:2]
        if key in named.get(section, {}) or (not key and section in named):
            begins = f"AUTOEXP_{section}__{key}".upper()
            names = os.environ if environ is None else environ
            variable = min((name for name in names if name.upper().startswith(begins)), default=begins, key=len)
            raise _explain(error, f"the variable {variable}", f"unset {variable}") from error
        raise _explain(error, where, f"edit {where}, then try again") from error
    return settings.model_copy(update={"agents": _agent_tables(settings, workspace)})


def filled(text: str, workspace: Workspace) -> str:
    """`text` with {python}, {cache} and {root} replaced, and a leading `~` expanded."""
    for name, value in (("python", sys.executable), ("cache", str(cache_dir())), ("root", str(workspace.root))):
        text = text.replace("{" + name + "}", value)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def missing_data(workspace: Workspace, settings: Settings) -> list[str]:
    """The paths of `prepare.requires` that match nothing."""
    places = {"{cache}": str(cache_dir()), "{root}": str(workspace.root)}
    missing = []
    for pattern in settings.prepare.requires:
        globbed = re.sub(r"^~(?=/)", "{home}", pattern)
        for name, folder in {**places, "{home}": str(Path.home())}.items():
            globbed = globbed.replace(name, glob.escape(folder))  # a folder's own brackets are no pattern
        if not glob.glob(globbed, root_dir=workspace.root):
            missing.append(filled(pattern, workspace))
    return missing


def _agent_tables(settings: Settings, workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The options of each agent that has any: its [agents.<name>] table; `agent.args` are those of `agent.name`."""
    tables = {name: dict(table) for name, table in settings.agents.items()}
    if settings.agent.args:
        tables.setdefault(settings.agent.name, {}).setdefault("args", settings.agent.args)
    for table in tables.values():
        if isinstance(table.get("args"), (list, tuple)):
            table["args"] = [filled(str(word), workspace) for word in table["args"]]
    return tables


def _file(workspace: Workspace) -> tuple[str, dict[str, Any]]:
    pyproject = workspace.root / "pyproject.toml"
    if workspace.settings.exists():
        return workspace.settings.name, _toml(workspace.settings.name, workspace.settings.read_bytes())
    if pyproject.exists():
        tool = _toml(pyproject.name, pyproject.read_bytes()).get("tool", {})
        return "[tool.autoexp] in pyproject.toml", dict(tool.get("autoexp", {}))
    return workspace.settings.name, {}


def _toml(name: str, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is not valid TOML: {error}", f"edit {name}, then try again") from error


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """AUTOEXP_TRAIN__TIMEOUT_SECONDS=60 is train.timeout_seconds = 60; lists and tables are written as JSON."""
    found: dict[str, Any] = {}
    for name, text in environ.items():
        section, _, key = name.removeprefix("AUTOEXP_").lower().partition("__")
        if name.startswith("AUTOEXP_") and key:
            value: Any = text
            if text[:1] in "[{":
                try:
                    value = json.loads(text)
                except ValueError as error:
                    raise UsageError(f"{name} is not valid JSON: {error}", f"unset {name}") from error
            *tables, last = key.split("__")  # AUTOEXP_AGENTS__OPENAI__MODEL is agents.openai.model
            place = found.setdefault(section, {})
            for table in tables:
                place = place.setdefault(table, {})
                if not isinstance(place, dict):
                    raise UsageError(f"{name} is within {table}, which another variable gives a value", f"unset {name}")
            place[last] = value
    return found


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(error: ValidationError, where: str, hint: str) -> UsageError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path)
    if first["type"] != "extra_forbidden":
        return UsageError(f"{where}: {dotted}{complaint(first)}", hint)
    fields: Any = Settings
    for part in path[:-1]:
        fields = fields.model_fields[part].annotation
    valid = list(fields.model_fields)
    near = difflib.get_close_matches(path[-1], valid, n=1, cutoff=0.4)
    best = ".".join([*path[:-1], near[0]]) if near else f"one of {', '.join(valid)}"
    return UsageError(f"{where}: unknown setting {dotted}", f"did you mean {best}?")
