"""Search: ideas without a model. One constant at a time, in steps at first, then where Optuna's TPE sees promise.

A proposal hangs on the run's seed, its trials and the iteration's number, on nothing else: asked again after a crash,
`search` gives the same answer. The order in which ideas are had:

    follow      a step that made things clearly better is taken further in its direction
    turn        where a step one way made things clearly worse, the other way is tried
    begin       a constant that was never moved from here, in an order shuffled by the seed
    finish      follow and turn where the effect was small
    refine      a value from the estimator, for a constant that has been seen to matter; the more trials, the more often
    enumerate   whatever has not been tried yet, changing as little as possible
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoexp.errors import UsageError, complaint
from autoexp.proposers.evidence import Evidence, Move, suggest
from autoexp.proposers.space import Axis, Program, axes, declares, fits, program
from autoexp.runs.records import Constant, Proposal, SetConstant
from autoexp.spec.markers import hookimpl
from autoexp.workspace.constants import written

if TYPE_CHECKING:
    from autoexp.runs.state import RunState
    from autoexp.spec.context import Context
    from autoexp.spec.ports import Proposer

GROWTH = 1.5
"""How much longer a step is that follows one which was kept."""
LONGEST = 0.4
"""The longest step, in units of the axis."""
CLEAR = 1.5
"""An effect is clear when it is this many times the median one: then the same constant is moved again at once."""
Idea = tuple[dict[str, Constant], str]
"""The new values, and why."""


class Options(BaseModel):
    """The settings' [proposers.search]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    only: tuple[str, ...] = ()
    """Names or globs of the constants to change; all of them when empty."""
    skip: tuple[str, ...] = ()
    """Names or globs of constants to leave alone."""
    undeclared: bool = False
    """Whether constants without a declared range are changed too where others have one; where none has, all are."""
    pairs: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the refinements that change two constants at once."""


class Search:
    """The proposer `search`. Options are those of `Options`; raises UsageError for one that is not known or valid."""

    def __init__(self, **options: Any) -> None:
        try:
            self.options = Options.model_validate(options)
        except ValidationError as error:
            raise _explain(error) from error

    def propose(self, state: RunState, context: Context) -> Proposal | None:
        """Another value for a constant (sometimes two) of the program at `state.tip`, never one that was tried.

        None when there are no constants (with a note), or every combination of their values was tried.
        """
        files = context.settings.files
        tip = program(context.repository, state.tip, files)
        base = tip if state.base == state.tip else program(context.repository, state.base, files)
        space = axes(tip, base, self.options.only, self.options.skip, self.options.undeclared)
        if not self.options.undeclared and (others := self._left_alone(tip, base, space)):
            context.note(
                f"search changes only the constants that declare a range, and so not {', '.join(others[:8])}"
                f"{' and more' if len(others) > 8 else ''}: declare theirs, or set undeclared = true under "
                "[proposers.search]",
                "search-undeclared",
            )
        if not space:
            where = ", ".join(tip.files) or f"the editable files ({', '.join(files.editable)})"
            context.note(
                f"search found no constants to change in {where}: it looks for top-level lines like "
                "LR = 0.04  # [0.01, 0.1] log",
                "search-empty",
            )
            return None
        evidence = Evidence(state, context.iteration, tip.values, space)
        whole = (self.options.undeclared or not declares(tip)) and fits(tip.values)
        for change, why in _ideas(evidence, random.Random(f"{state.seed}-{context.iteration}"), self.options.pairs):
            if whole and not fits({**tip.values, **change}):
                continue
            proposal = _proposal(evidence, change, why)
            if evidence.is_new(change, proposal.description):
                return proposal
        return None

    def _left_alone(self, tip: Program, base: Program, space: Sequence[Axis]) -> list[str]:
        """The constants that it would change if they declared a range; none where so few have none that it is meant."""
        known = {axis.name for axis in space}
        more = axes(tip, base, self.options.only, self.options.skip, undeclared=True)
        others = [axis.name for axis in more if axis.name not in known]
        return others if len(others) >= len(known) else []


@hookimpl
def autoexp_register_proposers(register: Callable[[str, Proposer], None], options: dict[str, dict[str, Any]]) -> None:
    register("search", Search(**options.get("search", {})))


def _ideas(evidence: Evidence, rng: random.Random, pairs: float) -> Iterator[Idea]:
    """Ideas, the most promising first; some were tried before. Ends when the space is exhausted."""
    steps = list(_steps(evidence))
    urgent = [idea for rank, idea in steps if rank < 2]
    trials = sum(trial.metric is not None for trial in evidence.told)
    trust = max(0.0, min(0.9, (trials - 2 * len(evidence.space)) / 20))
    if rng.random() < (trust / 2 if urgent else trust):
        yield from _refinements(evidence, rng, pairs)
    yield from (idea for _, idea in steps)
    if trials:
        yield from _refinements(evidence, rng, pairs)
    yield from _everything(evidence, rng)


def _steps(evidence: Evidence) -> list[tuple[int, Idea]]:
    """Moderate steps from the tip in directions that nobody went from here, with their rank (0 is best)."""
    names = sorted(evidence.space)
    random.Random(f"{evidence.state.seed}-order").shuffle(names)
    found: list[tuple[int, float, Idea]] = []
    for place, name in enumerate(names):
        axis, value = evidence.space[name], evidence.here[name]
        for way in (1, -1) if random.Random(f"{evidence.state.seed}-{name}").random() < 0.5 else (-1, 1):
            step = _step(evidence, axis, value, way)
            if step is not None:
                rank, worth, distance, why = step
                other = axis.beyond(value, way, min(distance, max(LONGEST, axis.stride)))
                if other is not None and evidence.safe(axis, other):
                    found.append((rank, float(place) if rank == 2 else worth, ({name: other}, why)))
    return [(rank, idea) for rank, _, idea in sorted(found, key=lambda item: item[:2])]


def _step(evidence: Evidence, axis: Axis, value: Constant, way: int) -> tuple[int, float, float, str] | None:
    """(rank, order within the rank, distance, why) of going `way` from here; None when somebody did."""
    name = axis.name
    moves = evidence.of(name)
    arrived = next((move for move in reversed(moves) if move.kept and move.after == value), None)
    from_here = [move for move in moves if move.before == value]
    gone = {evidence.direction(axis, value, move.after) for move in from_here}
    gone |= {
        evidence.direction(axis, value, values[name])
        for values in evidence.flying
        if name in values and values[name] != value
    }
    came = evidence.direction(axis, arrived.before, value) if arrived is not None else 0
    if way in gone or way == -came:
        return None
    if arrived is not None and arrived.gain is not None and axis.ordered:
        start, end = axis.unit(arrived.before), axis.unit(value)
        last = abs((end or 0.0) - (start or 0.0)) or axis.stride
        rank = 0 if arrived.gain >= CLEAR * evidence.typical else 3
        return rank, -arrived.gain, last * GROWTH, f"{_told(arrived)}, so this goes further the same way"
    back = next((move for move in reversed(from_here) if evidence.direction(axis, value, move.after) == -way), None)
    if back is not None and (back.gain is None or back.gain < 0):
        loss = abs(back.gain) if back.gain is not None else evidence.typical
        rank = 1 if loss >= CLEAR * evidence.typical else 3
        return rank, -loss, axis.stride, f"{_told(back)}, so this goes the other way"
    if back is not None:
        return 3, 0.0, axis.stride, f"{_told(back)}; this goes the other way"
    return 2, 0.0, axis.stride, f"no trial has moved {name} from {written(value)} this way; this is a moderate step"


def _refinements(evidence: Evidence, rng: random.Random, pairs: float) -> Iterator[Idea]:
    points = suggest(evidence, rng.getrandbits(32), times=4)
    two = rng.random() < pairs
    for point in points:
        names = [name for name in sorted(point) if point[name] != evidence.here[name]]
        names = [name for name in names if evidence.safe(evidence.space[name], point[name])]
        weights = {name: _weight(evidence, name) for name in names}
        order = sorted(names, key=lambda name: rng.random() ** (1 / weights[name]), reverse=True)
        for name in order:
            change = {name: point[name]}
            other = next((n for n in order if n != name), None)
            if two and other is not None:
                yield {**change, other: point[other]}, f"{_seen(evidence, name)}; {_seen(evidence, other)}"
            yield change, _seen(evidence, name)


def _weight(evidence: Evidence, name: str) -> float:
    """How often to refine a constant: more when it matters, less when it was moved in vain since."""
    moves = evidence.of(name)
    sizes = [abs(move.gain) for move in moves if move.gain is not None]
    matters = (sum(sizes) / len(sizes) / evidence.typical) if sizes and evidence.typical else 1.0
    vain = sum(1 for _ in itertools.takewhile(lambda move: not move.kept, reversed(moves)))
    return (0.2 + min(matters, 4.0)) / math.sqrt(1.0 + vain)


def _everything(evidence: Evidence, rng: random.Random) -> Iterator[Idea]:
    """Every combination of values, those that change least first, those that are known to fail last."""
    why = "the moderate steps from here have been tried; this value has not"
    names = sorted(evidence.space)
    rng.shuffle(names)
    values = {name: [v for v in evidence.space[name].values if v != evidence.here[name]] for name in names}
    for name in names:
        rng.shuffle(values[name])
    for careful in (True, False):
        for size in range(1, len(names) + 1):
            for group in itertools.combinations(names, size):
                for chosen in itertools.product(*(values[name] for name in group)):
                    change = dict(zip(group, chosen, strict=True))
                    if careful == all(evidence.safe(evidence.space[n], v) for n, v in change.items()):
                        yield change, why


def _proposal(evidence: Evidence, change: Mapping[str, Constant], why: str) -> Proposal:
    changes = sorted(change.items())
    words = [_change(name, evidence.here[name], value) for name, value in changes]
    said = [f"{name} = {written(value)}" for name, value in changes]
    return Proposal(
        status="ok",
        description="; ".join(words),
        change_plan=f"Set {', '.join(said)}. Why: {why}.",
        commit_description=", ".join(said),
        edits=tuple(SetConstant(name=name, value=value, path=evidence.space[name].path) for name, value in changes),
    )


def _change(name: str, before: Constant, after: Constant) -> str:
    text = f"{name} {written(before)} -> {written(after)}"
    if isinstance(before, str | bool) or isinstance(after, str | bool) or before == 0 or after == 0:
        return text
    return f"{text} (x{after / before:.3g})" if isinstance(after, float) else text


def _told(move: Move) -> str:
    """A move and what came of it, in words and numbers."""
    text = f"{move.name} {written(move.before)} -> {written(move.after)} (iteration {move.iteration})"
    if move.gain is None:
        return f"{text} failed"
    verb = "improved" if move.gain > 0 else "worsened"
    return f"{text} {verb} the metric by {abs(move.gain):.4g}{' and was kept' if move.kept else ''}"


def _seen(evidence: Evidence, name: str) -> str:
    """What the trials say about a constant."""
    moves = evidence.of(name)
    count = len(evidence.told)
    if not moves:
        return f"no trial has moved {name} yet; the estimator suggests this value after {count} trials"
    best = max(moves, key=lambda move: float("-inf") if move.gain is None else move.gain)
    kept = sum(move.kept for move in moves)
    tried = f"{name} was moved {len(moves)} times, kept {kept}"
    return f"{tried} ({_told(best)}); the estimator suggests this value after {count} trials"


def _explain(error: ValidationError) -> UsageError:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] != "extra_forbidden":
        return UsageError(f"[proposers.search] {key}{complaint(first)}", "edit autoexp.toml, then try again")
    near = difflib.get_close_matches(key, list(Options.model_fields), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(Options.model_fields)}"
    return UsageError(f"[proposers.search] unknown option {key}", hint)
