"""Where `search` looks: the constants of a program that may change, and the values that each may take."""

from __future__ import annotations

import ast
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autoexp.runs.records import Constant
from autoexp.workspace.candidate import editable_files
from autoexp.workspace.constants import Declared, declared
from autoexp.workspace.repository import Repository
from autoexp.workspace.settings import Files

LEFT_ALONE = {
    "SEED", "SEEDS", "RANDOM", "TIME", "TIMEOUT", "BUDGET", "SECONDS", "MINUTES", "HOURS", "PATH", "DIR", "FILE",
    "URL", "HOST", "PORT", "VOCAB", "SEQ", "SEQUENCE", "CONTEXT", "EVAL", "VAL", "TEST", "DEVICES", "GPUS",
    "WORLD", "RANK", "WORKERS", "THREADS", "COUNT", "FLOPS", "PEAK", "VERSION", "EPS", "EPSILON", "LOG", "PRINT",
    "EVERY", "INTERVAL", "SAVE", "CHECKPOINT", "DEBUG", "VERBOSE", "CLASSES", "DTYPE", "EPOCHS", "EPOCH", "ITERS",
    "ITERATIONS",
}  # fmt: skip
"""Words in the names of constants that are no part of the experiment, or that would move its goal posts."""
LENGTHS = frozenset({"STEPS", "NUM_STEPS", "N_STEPS", "MAX_STEPS", "TOTAL_STEPS", "TRAIN_STEPS"})
"""How long to train: the budget's business."""
SEQUENCE = 2048
"""Tokens in a row where the program does not say; karpathy/autoresearch has it in the frozen file."""
FINE = 40
"""About as many values as an axis of integers has at most."""


@dataclass(frozen=True)
class Program:
    """The editable files at a commit: the constants, each with the file that has it, and the names that are used."""

    constants: Mapping[str, Declared]
    paths: Mapping[str, str]
    used: frozenset[str]
    files: tuple[str, ...]

    @property
    def values(self) -> dict[str, Constant]:
        return {name: constant.value for name, constant in self.constants.items()}


@dataclass(frozen=True)
class Axis:
    """A constant that may change. `values` are in order, `units` are their places between 0 and 1."""

    name: str
    path: str
    values: tuple[Constant, ...]
    units: tuple[float, ...]
    stride: float
    """A moderate step, in units."""
    ordered: bool = True
    """Whether more and less mean something: numbers, not words."""

    def unit(self, value: Constant) -> float | None:
        """The place of a value, which need not be one of `values`; None for an unknown word."""
        if value in self.values:
            return self.units[self.values.index(value)]
        if not self.ordered or isinstance(value, str):
            return None
        numbers = [float(v) for v in self.values]
        right = bisect_left(numbers, value)
        if right in (0, len(numbers)):
            return float(right > 0)
        low, high = numbers[right - 1], numbers[right]
        share = (float(value) - low) / (high - low)
        return self.units[right - 1] + share * (self.units[right] - self.units[right - 1])

    def nearest(self, unit: float) -> Constant:
        """The value at a place."""
        return self.values[min(range(len(self.values)), key=lambda i: abs(self.units[i] - unit))]

    def beyond(self, value: Constant, direction: int, distance: float) -> Constant | None:
        """The value that is `distance` units up (1) or down (-1), at least one step; None at the end of the axis."""
        here = self.unit(value)
        start = -1.0 if here is None else here
        rest = [i for i, u in enumerate(self.units) if (u - start) * direction > 1e-9 and self.values[i] != value]
        target = start + direction * distance
        return self.values[min(rest, key=lambda i: abs(self.units[i] - target))] if rest else None


def program(repository: Repository, commit: str, files: Files) -> Program:
    """What the editable Python files of a commit declare; of several that have a name, the first counts."""
    constants: dict[str, Declared] = {}
    paths: dict[str, str] = {}
    used: set[str] = set()
    editable = editable_files(repository, commit, files.editable, files.frozen)
    for path in editable:
        text = (repository.show(commit, path) or "") if path.endswith(".py") else ""
        for name, constant in declared(text).items():
            if name not in constants:
                constants[name], paths[name] = constant, path
        used |= _used(text)
    return Program(constants, paths, frozenset(used), tuple(editable))


def axes(
    tip: Program, base: Program, only: Iterable[str] = (), skip: Iterable[str] = (), undeclared: bool = False
) -> list[Axis]:
    """The space, by name. Declared ranges if there are any, else the numbers that look like choices of the author's;
    with `undeclared` both.

    Ranges that nobody declared are drawn around the values of the run's `base`, not of the moving tip.
    """
    only, skip = tuple(only), tuple(skip)
    chosen = {
        name: constant
        for name, constant in tip.constants.items()
        if (not only or _any(name, only)) and not _any(name, skip)
    }
    ranged = declares(tip)
    in_use = tip.used & chosen.keys() or chosen.keys()  # constants of a file that others import are used elsewhere
    found = []
    for name, constant in sorted(chosen.items()):
        anchor = base.constants.get(name, constant)
        if type(anchor.value) is not type(constant.value):
            anchor = constant
        declared_here = constant.low is not None or constant.choices is not None
        if ranged and (declared_here or not undeclared):
            axis = _declared(name, tip.paths[name], constant, anchor.value)
        elif name in in_use:
            axis = _imagined(name, tip.paths[name], anchor.value)
        else:
            axis = None
        if axis is not None and len(axis.values) > 1:
            found.append(axis)
    return found


def declares(source: Program) -> bool:
    """Whether the program says anywhere what may be searched."""
    return any(c.low is not None or c.choices is not None for c in source.constants.values())


def fits(values: Mapping[str, Constant]) -> bool:
    """Whether a step holds a whole number of device batches, which such programs assert before they train."""
    total, rows = values.get("TOTAL_BATCH_SIZE"), values.get("DEVICE_BATCH_SIZE")
    length = values.get("MAX_SEQ_LEN", SEQUENCE)
    if not (isinstance(total, int) and isinstance(rows, int) and isinstance(length, int)):
        return True
    return rows > 0 and length > 0 and total % (rows * length) == 0


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _used(text: str) -> set[str]:
    try:
        nodes = list(ast.walk(ast.parse(text.removeprefix("\ufeff"))))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _declared(name: str, path: str, constant: Declared, anchor: Constant) -> Axis | None:
    if constant.choices is not None:
        return _choices(name, path, constant.choices)
    if constant.low is None or constant.high is None or isinstance(anchor, str | bool):
        return None
    low, high = constant.low, constant.high
    if isinstance(anchor, int) and float(low).is_integer() and float(high).is_integer():
        binary = all(_power(int(v)) for v in (anchor, low, high)) and (constant.log or anchor >= 64)
        return _integers(name, path, int(low), int(high), log=constant.log, binary=binary)
    return _floats(name, path, float(low), float(high), log=constant.log)


def _imagined(name: str, path: str, value: Constant) -> Axis | None:
    """A sensible range around a value, for a program that declares none."""
    words = set(name.split("_"))
    if words & LEFT_ALONE or name in LENGTHS or isinstance(value, str):
        return None
    if isinstance(value, bool):
        return _choices(name, path, (False, True))
    rate = bool(words & {"LR", "RATE"})
    if isinstance(value, int):
        if value < 1:
            return None
        binary = _power(value) and (value >= 16 or bool(words & {"BATCH", "DIM", "HEADS", "HEAD", "WIDTH", "CHANNELS"}))
        multiple = min(64, value & -value)  # a width of 768 stays a multiple of 64
        return _integers(name, path, max(1, value // 2), 2 * value, log=value > FINE, binary=binary, multiple=multiple)
    if value == 0.0:
        return _floats(name, path, 0.0, 0.2, log=False)
    if value < 0.0:
        return _floats(name, path, 2 * value, value / 2, log=False)
    if 0.8 < value < 1.0 and not rate:  # what is left to 1 is what matters: momentum, the betas of Adam
        return _floats(name, path, 1 - 2 * (1 - value), 1 - (1 - value) / 2, log=False)
    wide = 4.0 if rate else 2.0
    high = value * wide if rate or value > 1.0 else min(1.0, value * wide)
    return _floats(name, path, value / wide, high, log=True)


def _power(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _choices(name: str, path: str, values: tuple[Constant, ...]) -> Axis:
    ordered = not any(isinstance(value, str | bool) for value in values)
    if ordered:
        values = tuple(sorted(values, key=float))
    count = max(1, len(values) - 1)
    return Axis(name, path, values, tuple(i / count for i in range(len(values))), 1 / count, ordered)


def _integers(name: str, path: str, low: int, high: int, *, log: bool, binary: bool = False, multiple: int = 1) -> Axis:
    if binary:
        powers = [2**n for n in range(64) if low <= 2**n <= high]
        return _choices(name, path, tuple(powers))
    multiple = multiple if high - low >= 4 * multiple else 1
    if (high - low) // multiple <= FINE or multiple > 1:
        first = -(-low // multiple)
        values = [n * multiple for n in range(first, high // multiple + 1)]
    else:
        values = sorted({int(_rounded(_between(low, high, i / FINE, log), 2)) for i in range(FINE + 1)} | {low, high})
    values = values[:: max(1, len(values) // FINE)]
    units = _units([float(v) for v in values], log)
    step = 1 / max(1, len(values) - 1)
    return Axis(name, path, tuple(values), units, step if len(values) <= 20 else 0.13)


def _floats(name: str, path: str, low: float, high: float, *, log: bool) -> Axis:
    """Numbers that a person would write: two significant digits on a logarithmic axis, else a round step."""
    if log:
        digits = 2 if high / low > 1.5 else 3
        raw = [_between(low, high, i / 600, log=True) for i in range(601)]
        stride = min(0.34, max(0.1, math.log(1.4) / math.log(high / low)))
    else:
        rough = (high - low) / 50
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= rough * (1 - 1e-9))
        raw = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)] + [low, high]
        digits, stride = 5, 0.13
    values = sorted({v for value in raw if low <= (v := _rounded(value, digits)) <= high})
    return Axis(name, path, tuple(values), _units(values, log), stride)


def _between(low: float, high: float, share: float, log: bool) -> float:
    return float(low * (high / low) ** share) if log else low + (high - low) * share


def _units(values: list[float], log: bool) -> tuple[float, ...]:
    places = [math.log(value) for value in values] if log else values
    width = (places[-1] - places[0]) or 1.0
    return tuple((place - places[0]) / width for place in places)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
