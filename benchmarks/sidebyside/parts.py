"""The parts of the benchmark, each a command, with what its result depends on.

rows ids                          the same question on both sides
reference-data data               the data paths alone
reference-cold reference-warm     master, with empty caches and with those of the first
mar8                              the branch exp/H100/mar8, where the checkout has it
same                              our train.py with the reference's architecture, batch and rates
default-1 default-2 …             our train.py as it is, a seed each; the first with empty caches
beyond-own beyond-standby         the same for seconds, one after the other through the executor, from the second on
scaling-1 scaling-2               the same on one and on two GPUs, throughput only
profile-same profile-default      where a step's time goes
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from autoexp.model.prepared import Prepared
from autoexp.model.profiles import Profile
from autoexp.model.storage import write_json

from . import ours, reference, rows
from .jobs import Done, Job

DATA_SECONDS = 10.0  # each data path is timed for so long
SPEED_SECONDS = 60.0  # the budget of a training that is only asked for its speed
PROFILE_SECONDS = 20.0
BEYOND_TRAININGS = 3
MARK = "warm.json"  # in a folder of caches, once they are filled
WARMING_SECONDS = 2  # of training, of one that is only to fill the caches


class NoPart(Exception):
    """A name that no part has."""


@dataclass(frozen=True)
class Settings:
    """What is asked for."""

    out: Path
    profile: Profile
    budget: float
    seeds: int
    cpu: bool
    scaling: bool
    profile_step: bool
    beyond: float = 0.0  # the budget of each training through the executor; 0: none


@dataclass
class Part:
    """A job, and the arguments that its result depends on.

    `fills` is the folder of caches that it leaves warm, `needs` the one that must be; `warming` is a short job that
    makes it so, under the name of the one that would.
    """

    job: Job
    key: dict[str, Any]
    fills: Path | None = None
    needs: Path | None = None
    warming: Job | None = None


@dataclass
class Plan:
    """All parts by name, in the order in which they should start."""

    settings: Settings
    data: Prepared
    parts: dict[str, Part] = field(default_factory=dict)
    quiet: set[str] = field(default_factory=set)  # those that want the machine for themselves
    notes: list[str] = field(default_factory=list)  # what a reader of the table must know

    def add(self, job: Job, key: dict[str, Any], quiet: bool = False, **caches: Any) -> None:
        self.parts[job.name] = Part(job, {"data": self.data.meta["sha256"]["val.rows"], **key}, **caches)
        if quiet:
            self.quiet.add(job.name)

    def chosen(self, only: str) -> list[str]:
        """The names of the parts that `only` asks for, comma-separated: a name, or its part before a dash.

        Raises NoPart.
        """
        wanted = [word.strip() for word in only.split(",") if word.strip()]
        found = [name for name in self.parts if not wanted or any(is_named(name, word) for word in wanted)]
        strangers = [word for word in wanted if not any(is_named(name, word) for name in self.parts)]
        if strangers:
            raise NoPart(f"no part is called {', '.join(strangers)}; there are: {', '.join(self.parts)}")
        return found


def is_named(name: str, word: str) -> bool:
    return name == word or name.startswith(f"{word}-")


def plan(settings: Settings, data: Prepared, checkout: Path | None, shards: list[Path]) -> Plan:
    """Lay out both sides in `settings.out` and list what there is to run. Raises reference.NoReference."""
    made = Plan(settings, data)
    if checkout is not None:
        add_reference(made, checkout, shards)
    add_ours(made)
    order = ["rows", "ids", "reference-data", "data", "reference-cold", "default-1", "mar8", "same", "reference-warm"]
    made.parts = {name: made.parts[name] for name in [*[n for n in order if n in made.parts], *made.parts]}
    return made


def add_reference(made: Plan, checkout: Path, shards: list[Path]) -> None:
    settings, data = made.settings, made.data
    root = settings.out / "reference"
    flash3 = not settings.cpu and reference.flash3_is_there()
    if settings.budget != reference.BUDGET:
        made.notes.append(f"budget {settings.budget:g} s: the reference's one line TIME_BUDGET was changed")
    home = reference.home_for(root, shards, data)
    shim = reference.shim_folder(root, flash3)
    for name in reference.REVISIONS:
        source = reference.source_of(checkout, name)
        if source is None:
            continue
        caches = settings.out / "caches" / name
        copy = reference.copy(root, name, source, home, shim, caches, settings.budget, data.seq_len)
        files = hashlib.sha256(b"".join(source.values())).hexdigest()[:16]
        key = {"files": files, "budget": settings.budget, "flash3": flash3, "cpu": settings.cpu}
        collect = partial(reference.collect, budget=settings.budget, served=copy.attention)
        job = Job(name, copy.command(), copy.folder, copy.env, collect)
        if name != "reference":
            made.add(replace(job, before=partial(empty, caches)), key)
            continue
        scratch = settings.out / "scratch"
        wanted = settings.profile.eval_tokens // data.seq_len
        made.add(rows.rows_job(copy.folder, copy.env, data, scratch, wanted), {"files": files}, quiet=True)
        made.add(rows.ids_job(copy.folder, copy.env, data, scratch), {"files": files}, quiet=True)
        speed = rows.reference_speed(DATA_SECONDS if not settings.cpu else 1.0, data.seq_len)
        timed = rows.data_job("reference-data", speed, copy.folder, copy.env)
        made.add(timed, {"files": files, "cpu": settings.cpu}, quiet=True)
        short = reference.copy(root, "warming", source, home, shim, caches, WARMING_SECONDS, data.seq_len)
        warming = replace(job, name="reference-cold", folder=short.folder, kept=False)
        made.add(replace(job, name="reference-cold", before=partial(empty, caches)), key, fills=caches)
        made.add(replace(job, name="reference-warm", after=("reference-cold",)), key, needs=caches, warming=warming)


def add_ours(made: Plan) -> None:
    settings, data, profile = made.settings, made.data, made.settings.profile
    root = settings.out / "ours"
    same = ours.recipe("same", root, profile, like_reference=not settings.cpu)
    default = ours.recipe("default", root, profile, like_reference=False)
    if unknown := ours.unknown_constants(same.text):
        made.notes.append(f"NOT CHECKED whether {', '.join(unknown)} of train.py are as in the reference's recipe")
    seconds = DATA_SECONDS if not settings.cpu else 1.0
    env = ours.environment(AUTOEXP_DATA=str(data.folder), **({"AUTOEXP_DEVICE": "cpu"} if settings.cpu else {}))
    speed = rows.our_speed(seconds, profile.name)
    made.add(rows.data_job("data", speed, root, env), {"source": default.source_hash()}, quiet=True)
    job, key = training(settings, data, same, "same", settings.budget)
    made.add(job, key)
    caches = settings.out / "caches" / "default"
    for number in range(1, settings.seeds + 1):
        job, key = training(settings, data, default, f"default-{number}", settings.budget, seed=number)
        if number == 1:
            short = dict(job.env, AUTOEXP_BUDGET_SECONDS=f"{WARMING_SECONDS:g}")
            warming = replace(job, env=short, kept=False)
            made.add(replace(job, before=partial(cold, job, caches)), key, fills=caches)
        else:
            made.add(replace(job, after=("default-1",)), key, needs=caches, warming=warming)
    if settings.beyond:
        for name in ("beyond-own", "beyond-standby"):
            job, key = beyond(settings, data, name)
            made.add(job, key, quiet=True)
    if settings.scaling:
        for count in (1, 2):
            more = {"AUTOEXP_GPUS": str(count)}
            name, seconds = f"scaling-{count}", min(settings.budget, SPEED_SECONDS)
            job, key = training(settings, data, default, name, seconds, "scaling", more=more)
            made.add(replace(job, gpus=count), key)
    if settings.profile_step:
        for which in (same, default):
            folder = settings.out / "profiles" / which.name
            name, seconds = f"profile-{which.name}", min(settings.budget, PROFILE_SECONDS)
            more = {"AUTOEXP_PROFILE": str(folder)}
            job, key = training(settings, data, which, name, seconds, name, more=more)
            collect = partial(collect_profile, folder)
            made.add(replace(job, before=partial(cold, job, folder), collect=collect), key)


def training(
    settings: Settings,
    data: Prepared,
    which: ours.Recipe,
    name: str,
    budget: float,
    caches: str = "",
    seed: int = 1,
    more: dict[str, str] | None = None,
) -> tuple[Job, dict[str, Any]]:
    """A training of ours, and what its result depends on. `caches` names them, else the recipe does."""
    report = settings.out / "reports" / name / "report.json"
    places = settings.out / "caches" / (caches or which.name)
    env = ours.training_environment(data, report, places, budget, seed, settings.cpu, more or {})
    collect = partial(ours.collect, report=report, budget=budget)
    before = partial(shutil.rmtree, report.parent, ignore_errors=True)
    job = Job(name, [sys.executable, "train.py"], which.folder, env, collect, before=before)
    return job, {"source": which.source_hash(), "budget": budget, "seed": seed, "cpu": settings.cpu}


def beyond(settings: Settings, data: Prepared, name: str) -> tuple[Job, dict[str, Any]]:
    """Some trainings through the executor, with or without one that stands by, and what the result depends on."""
    which = ours.recipe(name, settings.out / "ours", settings.profile, like_reference=False)
    caches = settings.out / "caches" / "beyond"
    env = ours.training_environment(data, which.folder / "report.json", caches, settings.beyond, 1, settings.cpu, {})
    command = [sys.executable, str(Path(__file__).with_name("beyond.py")), str(which.folder)]
    command += ["--trainings", str(BEYOND_TRAININGS), *(["--standby"] if name == "beyond-standby" else [])]
    key = {"source": which.source_hash(), "budget": settings.beyond, "trainings": BEYOND_TRAININGS, "cpu": settings.cpu}
    return Job(name, command, which.folder, env, rows.last_json), key


def collect_profile(folder: Path, done: Done) -> dict[str, Any]:
    return ours.collect_profile(folder)


def empty(folder: Path) -> None:
    """Make a folder that holds nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def cold(job: Job, folder: Path) -> None:
    """What `job` does before it starts, and an empty folder."""
    job.before()
    empty(folder)


def warmth(part: Part, host: str) -> dict[str, Any]:
    """What the mark in a folder of caches says: who filled it, from what, where. The seed is no matter."""
    return {"host": host, **{name: value for name, value in part.key.items() if name != "seed"}}


def mark_warm(part: Part, host: str) -> None:
    """Say that the caches that `part` fills are warm."""
    assert part.fills is not None
    write_json(part.fills / MARK, warmth(part, host))


def warming_jobs(made: Plan, names: list[str], host: str) -> list[Job]:
    """Jobs that fill the caches which the parts `names` rely on, where they are cold and no other part fills them."""
    found: dict[str, Job] = {}
    for part in (made.parts[name] for name in names):
        if part.needs is None or part.warming is None or part.warming.name in names:
            continue
        try:
            warm = json.loads((part.needs / MARK).read_text(encoding="utf-8")) == warmth(part, host)
        except (OSError, ValueError):
            warm = False
        if not warm:
            found[part.warming.name] = part.warming
    return list(found.values())
