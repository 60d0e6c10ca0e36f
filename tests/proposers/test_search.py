"""`search` on simulated programs: real git repositories where git matters, a table of sources where it does not."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from autoexp.errors import UsageError
from autoexp.proposers import evidence as evidence_module
from autoexp.proposers.evidence import HISTORY, SAMPLED, Evidence
from autoexp.proposers.search import Search, autoexp_register_proposers
from autoexp.proposers.space import Axis, axes, fits, program
from autoexp.runs.records import Best, Constant, Metric, Plan, Proposal, SetConstant, Trial
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.context import Context
from autoexp.workspace.constants import declared, replaced
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.repository import Repository
from autoexp.workspace.settings import Files, Settings

ANNOTATED = """\
import frozen
LR = 0.04  # [0.005, 0.2] log; rate
DECAY = 0.2  # [0.0, 1.0]; decay
DEPTH = 8  # [2, 16]; layers
BATCH = 2**17  # [2**15, 2**19] log; tokens
PATTERN = "SSSL"  # {"L", "SL", "SSSL"}; windows
WARM = 0.0  # [0.0, 0.3]; part
SEED = 42  # not declared
"""
AUTORESEARCH = """\
from prepare import MAX_SEQ_LEN
ASPECT_RATIO = 64  # width over depth
HEAD_DIM = 128
WINDOW_PATTERN = "SSSL"
TOTAL_BATCH_SIZE = 2**19
MATRIX_LR = 0.04
DECAY = 0.2
BETAS = (0.8, 0.95)
WARMUP_RATIO = 0.0
DEPTH = 8
DEVICE_BATCH_SIZE = 128
H100_PEAK_FLOPS = 9e14
VOCAB_SIZE = 8192
UNUSED = 3.0
print(ASPECT_RATIO, HEAD_DIM, WINDOW_PATTERN, TOTAL_BATCH_SIZE, MATRIX_LR, DECAY, BETAS, WARMUP_RATIO, DEPTH)
print(DEVICE_BATCH_SIZE, H100_PEAK_FLOPS, VOCAB_SIZE)
"""
Values = dict[str, Any]


def values(source: str) -> Values:
    return {name: constant.value for name, constant in declared(source).items()}


class Sources:
    """Stands in for a Repository: commits are names."""

    def __init__(self, base: str) -> None:
        self.commits = {"base": base}

    def files(self, commit: str) -> list[str]:
        return ["prepare.py", "train.py"]

    def show(self, commit: str, path: str) -> str | None:
        return self.commits[commit]


class Night:
    """A run that is simulated: proposals are applied, measured by `objective`, and kept when they are better."""

    def __init__(
        self,
        source: str,
        objective: Callable[[Values], float | None],
        seed: int = 0,
        direction: Any = "min",
        **options: Any,
    ) -> None:
        self.sources, self.objective, self.seed = Sources(source), objective, seed
        self.metric, self.search = Metric(direction=direction), Search(**options)
        self.trials: list[Trial] = []
        self.best: Best | None = None
        self.notes: list[str] = []
        self.record(0, source, "base", "base", "baseline")

    @property
    def state(self) -> RunState:
        return RunState(
            run_id="r", branch="b", base="base", seed=self.seed, metric=self.metric, created_at=0.0, updated_at=0.0,
            trials=tuple(self.trials), best=self.best,
        )  # fmt: skip

    def context(self, iteration: int) -> Context:
        here = Workspace(Path("nowhere"))
        return Context(
            iteration=iteration, attempt=1, plan=Plan(), settings=Settings(), workspace=here, paths=RunPaths(here.root),
            repository=cast(Repository, self.sources), proposers={}, executors={}, rules={}, agents={},
            log=self.notes.append,
            note=lambda text, key: self.notes.append(text),
        )  # fmt: skip

    def propose(self, state: RunState | None = None) -> Proposal | None:
        return self.search.propose(state or self.state, self.context(len(self.trials)))

    def record(self, number: int, source: str, base: str, commit: str, description: str) -> None:
        self.sources.commits[commit] = source
        metric = self.objective(values(source))
        better = metric is not None and (self.best is None or self.metric.better(metric, self.best.metric))
        self.trials.append(
            Trial(
                iteration=number,
                description=description,
                proposer="search",
                base=base,
                commit=commit,
                ref="",
                source="",
                constants=values(source),
                status="crash" if metric is None else "success",
                metric=metric,
                decision="crash" if metric is None else "keep" if better else "discard",
            )
        )
        if better and metric is not None:
            self.best = Best(iteration=number, commit=commit, metric=metric)

    def run(self, count: int) -> Night:
        for _ in range(count):
            proposal = self.propose()
            assert proposal is not None
            self.take(proposal.edits, proposal.description)
        return self

    def take(self, edits: Any, description: str) -> None:
        state, number = self.state, len(self.trials)
        source = self.sources.commits[state.tip]
        for edit in edits:
            source = replaced(source, edit.name, edit.value)
        self.record(number, source, state.tip, f"c{number}", description)

    @property
    def tip(self) -> Values:
        return values(self.sources.commits[self.state.tip])


def bowl(
    seed: int, noise: float = 0.001, sign: float = 1.0
) -> tuple[Callable[[Values], float], Callable[[Values], float]]:
    """(loss, loss with noise): separable, with an optimum that is moderately far in each constant."""
    rng = random.Random(seed)
    best = {"LR": 0.04 * math.exp(rng.gauss(0, 0.8)), "BATCH": 2.0 ** (17 + rng.gauss(0, 1.2))}
    flat = {
        "DECAY": (0.2 + rng.uniform(0, 0.5), 0.3),
        "DEPTH": (8 + rng.gauss(0, 2), 3),
        "WARM": (rng.uniform(0, 0.2), 0.1),
    }
    words = {"L": rng.gauss(0, 0.01), "SL": rng.gauss(0, 0.01), "SSSL": 0.0}

    def loss(v: Values) -> float:
        far = [math.log(v[name] / at) ** 2 for name, at in best.items()]
        far += [((v[name] - at) / width) ** 2 for name, (at, width) in flat.items()]
        return sign * (1.0 + 0.01 * sum(far) + words[v["PATTERN"]] - min(words.values()))

    return loss, lambda v: loss(v) + random.Random(f"{seed}{sorted(v.items())}").gauss(0, noise)


def share(night: Night, loss: Callable[[Values], float]) -> float:
    """How much of what could be gained was gained."""
    start = loss(values(night.sources.commits["base"]))
    return (start - loss(night.tip)) / (start - 1.0)


def by_chance(night: Night, count: int) -> Night:
    """Random single changes, over the same values."""
    rng = random.Random(night.seed)
    space = space_of(night.sources.commits["base"])
    for _ in range(count):
        axis = rng.choice(list(space.values()))
        value = rng.choice([v for v in axis.values if v != night.tip[axis.name]])
        night.take([SetConstant(name=axis.name, value=value)], "")
    return night


def space_of(source: str, **options: Any) -> dict[str, Axis]:
    found = program(Sources(source), "base", Files())  # type: ignore[arg-type]
    return {axis.name: axis for axis in axes(found, found, **options)}


def test_twenty_five_proposals_find_most_of_the_gain_and_beat_chance() -> None:
    found, chance = [], []
    for seed in range(9):
        loss, noisy = bowl(seed)
        found.append(share(Night(ANNOTATED, noisy, seed).run(25), loss))
        chance.append(share(by_chance(Night(ANNOTATED, noisy, seed), 25), loss))

    assert statistics.median(found) > 0.75
    assert statistics.median(found) > statistics.median(chance)


def test_maximising_is_minimising_the_opposite() -> None:
    down = Night(ANNOTATED, bowl(1)[0], 1).run(30)
    up = Night(ANNOTATED, bowl(1, sign=-1.0)[0], 1, direction="max").run(30)

    assert [t.constants for t in up.trials] == [t.constants for t in down.trials]


def test_the_same_state_gives_the_same_answer_and_another_seed_another() -> None:
    night = Night(ANNOTATED, bowl(2)[1], 2).run(30)
    again = Night(ANNOTATED, bowl(2)[1], 2).run(30)

    assert night.propose() == night.propose() == again.propose()
    assert [t.description for t in night.trials] == [t.description for t in again.trials]
    assert [t.description for t in Night(ANNOTATED, bowl(2)[1], 3).run(9).trials] != [
        t.description for t in night.trials[:10]
    ]


@pytest.mark.parametrize("source", [ANNOTATED, AUTORESEARCH, "LR = 0.04\nDEPTH = 8\n"])
def test_sixty_proposals_never_repeat_and_stay_in_range(source: str) -> None:
    night = Night(source, lambda v: random.Random(str(sorted(v.items()))).random(), 5).run(60)
    seen = [frozenset(trial.constants.items()) for trial in night.trials]
    space = space_of(source)

    assert len(set(seen)) == len(seen)
    for trial in night.trials[1:]:
        base = next(t for t in night.trials if t.commit == trial.base)
        changed = [name for name in trial.constants if trial.constants[name] != base.constants[name]]
        assert 1 <= len(changed) <= 2
        assert all(trial.constants[name] in space[name].values for name in changed)


def test_exhaustion_is_none() -> None:
    night = Night("ON = False  # {False, True}\nTWO = 1  # {1, 2}\n", lambda v: 1.0).run(3)

    assert night.propose() is None


def test_no_constants_is_none_with_a_note() -> None:
    night = Night("import math\nSEED = 4\nPATH = 'x'\n", lambda v: 1.0)

    assert night.propose() is None
    assert "search found no constants" in night.notes[0]


def test_undeclared_programs_get_sensible_ranges() -> None:
    space = space_of(AUTORESEARCH)

    assert set(space) == {
        "ASPECT_RATIO", "HEAD_DIM", "TOTAL_BATCH_SIZE", "MATRIX_LR", "DECAY", "WARMUP_RATIO", "DEPTH",
        "DEVICE_BATCH_SIZE",
    }  # fmt: skip
    assert space["HEAD_DIM"].values == (64, 128, 256)
    assert space["TOTAL_BATCH_SIZE"].values == (2**18, 2**19, 2**20)
    assert space["DEPTH"].values == tuple(range(4, 17))
    assert (space["MATRIX_LR"].values[0], space["MATRIX_LR"].values[-1]) == (0.01, 0.16)
    assert (space["WARMUP_RATIO"].values[0], space["WARMUP_RATIO"].values[-1]) == (0.0, 0.2)
    assert (space["DECAY"].values[0], space["DECAY"].values[-1]) == (0.1, 0.4)
    assert set(space_of("N_EMBD = 768\nMOMENTUM = 0.95\nFLAG = True\nSTEPS = 100\n")) == {"N_EMBD", "MOMENTUM", "FLAG"}
    assert all(value % 64 == 0 for value in space_of("N_EMBD = 768\n")["N_EMBD"].values if isinstance(value, int))
    assert all(0.89 < value < 1.0 for value in space_of("MOMENTUM = 0.95\n")["MOMENTUM"].values)  # type: ignore[operator]


def test_a_step_holds_whole_device_batches() -> None:
    night = Night(AUTORESEARCH, lambda v: random.Random(str(sorted(v.items()))).random(), 1).run(50)

    assert all(fits(trial.constants) for trial in night.trials)
    assert not fits({"TOTAL_BATCH_SIZE": 2**18, "DEVICE_BATCH_SIZE": 256})


def test_declared_ranges_are_the_whole_space() -> None:
    space = space_of(ANNOTATED)

    assert "SEED" not in space
    assert space["BATCH"].values == (2**15, 2**16, 2**17, 2**18, 2**19)
    assert space["PATTERN"].values == ("L", "SL", "SSSL")
    assert set(space_of(ANNOTATED, only=["*R*"], skip=["WARM"])) == {"LR", "PATTERN"}


MIXED = "LR = 0.04  # [0.001, 1.0] log\nDEPTH = 4\nMOMENTUM = 0.9\nSEED = 3\nprint(LR, DEPTH, MOMENTUM, SEED)\n"


def test_what_declares_no_range_beside_others_is_left_alone_and_named() -> None:
    night = Night(MIXED, lambda v: 1.0)
    night.propose()
    assert set(space_of(MIXED)) == {"LR"}
    assert "not DEPTH, MOMENTUM: declare theirs, or set undeclared = true" in night.notes[0]
    quiet = Night(MIXED.replace("DEPTH = 4", "DEPTH = 4  # [1, 8]"), lambda v: 1.0)
    quiet.propose()
    assert quiet.notes == [], "one of three: it is meant"


def test_both_are_changed_when_that_is_asked_for() -> None:
    night = Night(MIXED, lambda v: random.Random(str(sorted(v.items()))).random(), 1, undeclared=True).run(12)
    assert night.notes == []
    changed = {name for trial in night.trials for name, value in trial.constants.items()
               if value != night.trials[0].constants[name]}  # fmt: skip
    assert changed == {"LR", "DEPTH", "MOMENTUM"}


def test_steps_are_moderate_and_logarithmic_where_declared() -> None:
    axis = space_of(ANNOTATED)["LR"]
    up, down = axis.beyond(0.04, 1, axis.stride), axis.beyond(0.04, -1, axis.stride)

    assert up == pytest.approx(0.04 * 1.45, rel=0.05)
    assert down == pytest.approx(0.04 / 1.45, rel=0.05)
    assert axis.unit(math.sqrt(0.005 * 0.2)) == pytest.approx(0.5, abs=0.01)
    assert space_of(ANNOTATED)["DEPTH"].beyond(8, 1, space_of(ANNOTATED)["DEPTH"].stride) == 9
    assert axis.beyond(0.2, 1, 0.1) is None


def test_what_helped_is_followed_and_what_hurt_is_turned() -> None:
    source = "LR = 0.04  # [0.005, 0.2] log\n"
    up = Night(source, lambda v: -v["LR"]).run(3)
    down = Night(source, lambda v: v["LR"]).run(3)

    assert up.tip["LR"] > 0.09
    assert down.tip["LR"] < 0.02


def test_crashes_are_avoided() -> None:
    """Wider than 10 crashes, and half the loss is beyond it: each crash marks a border that is not crossed again."""
    night = Night(ANNOTATED, lambda v: None if v["DEPTH"] > 10 else 2.0 - v["DEPTH"] / 20 + v["LR"], 3).run(40)

    assert sum(trial.status == "crash" for trial in night.trials) <= 2
    assert night.tip["DEPTH"] == 10


def test_nothing_that_is_in_flight_is_proposed_again() -> None:
    night = Night("A = 1  # {1, 2, 3}\nB = False  # {False, True}\n", lambda v: 1.0)
    flying: dict[int, Iteration] = {}
    for number in range(2, 7):
        state = night.state.model_copy(update={"open": dict(flying)})
        proposal = night.search.propose(state, night.context(number))
        assert proposal is not None
        flying[number] = Iteration(number=number, stage="train", base="base", proposal=proposal)
    seen: list[Values] = [
        {"A": 1, "B": False} | {e.name: e.value for e in i.proposal.edits if isinstance(e, SetConstant)}
        for i in flying.values()
        if i.proposal
    ]

    assert len({frozenset(v.items()) for v in seen}) == 5
    assert night.search.propose(night.state.model_copy(update={"open": flying}), night.context(7)) is None


def test_a_proposal_that_could_not_be_applied_is_not_made_again() -> None:
    night = Night("A = 1  # {1, 2}\n", lambda v: 1.0)
    proposal = night.propose()
    assert proposal is not None
    failed = night.trials[0].model_copy(
        update={
            "iteration": 1,
            "description": proposal.description,
            "status": "untrained",
            "constants": {},
            "metric": None,
        }
    )
    night.trials.append(failed)

    assert night.propose() is None


def test_ten_thousand_trials_tell_the_sampler_only_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night(ANNOTATED, bowl(0)[1]).run(1)
    rng, first = random.Random(0), night.trials[0]
    for number in range(2, 10_000):
        constants: dict[str, Constant] = {**first.constants, "LR": rng.uniform(0.005, 0.2)}
        changes = {"iteration": number, "constants": constants, "metric": rng.random() + 2, "commit": f"c{number}"}
        night.trials.append(first.model_copy(update={**changes, "decision": "discard"}))
    told = []
    tell = evidence_module._told

    def counted(*args: Any) -> Any:
        told.append(1)
        return tell(*args)

    monkeypatch.setattr(evidence_module, "_told", counted)

    assert night.propose() is not None
    assert 0 < len(told) <= SAMPLED
    assert len(Evidence(night.state, 10_000, night.tip, list(space_of(ANNOTATED).values())).told) <= HISTORY + 2


def test_words_say_what_and_why() -> None:
    night = Night("LR = 0.04  # [0.005, 0.2] log\n", lambda v: abs(math.log(v["LR"] / 0.09))).run(3)
    proposal = night.propose()

    assert proposal is not None
    assert proposal.description.startswith("LR ")
    assert " (x" in proposal.description
    assert proposal.commit_description.startswith("LR = ")
    assert "iteration" in proposal.change_plan


def test_a_real_repository(tmp_path: Path) -> None:
    """Two editable files, one frozen: the edits name the file, and the frozen one is left alone."""
    (tmp_path / "lib").mkdir()
    for name, text in {
        "train.py": "LR = 0.04\nprint(LR)\n",
        "lib/size.py": "DEPTH = 8\n",
        "prepare.py": "X = 2.0\n",
    }.items():
        (tmp_path / name).write_text(text + "from size import DEPTH\nprint(DEPTH)\n" if name == "train.py" else text)
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    workspace = Workspace(tmp_path)
    repository = Repository(workspace)
    settings = Settings(files=Files(editable=("train.py", "lib"), frozen=("prepare.py",)))
    night = Night("A = 1\n", lambda v: 1.0)
    state = night.state.model_copy(update={"base": repository.head(), "trials": (), "best": None})
    paths = set()
    for number in range(1, 9):
        context = Context(**{**vars(night.context(number)), "repository": repository, "settings": settings})
        proposal = night.search.propose(state, context)
        assert proposal is not None
        edit = proposal.edits[0]
        assert isinstance(edit, SetConstant)
        assert replaced((tmp_path / str(edit.path)).read_text(), edit.name, edit.value)
        paths.add(edit.path)
        trial = night.trials[0].model_copy(
            update={
                "iteration": number,
                "base": state.base,
                "constants": {"LR": 0.04, "DEPTH": 8, edit.name: edit.value},
                "description": proposal.description,
            }
        )
        state = state.model_copy(update={"trials": (*state.trials, trial)})

    assert paths == {"train.py", "lib/size.py"}


@pytest.mark.parametrize(
    ("options", "hint"), [({"onyl": ["LR"]}, "only"), ({"pairs": 2.0}, "edit"), ({"zzz": 1}, "skip")]
)
def test_options_are_checked(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        autoexp_register_proposers(lambda name, proposer: None, {"search": options})

    assert hint in raised.value.hint


def test_it_registers() -> None:
    found: dict[str, Any] = {}
    autoexp_register_proposers(found.__setitem__, {"search": {"skip": ["DEPTH"]}})

    assert found["search"].options.skip == ("DEPTH",)
