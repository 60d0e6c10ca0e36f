"""The ALL_CAPS literals of a program: where they are, their ranges, and how to give one another value.

A range stands in the comment of the constant's line:

    MATRIX_LR = 0.04  # [0.005, 0.2] log; learning rate of the matrices
    DEPTH = 8  # [2, 16]; layers
    WINDOW_PATTERN = "SSSL"  # {"L", "SL", "SSSL"}; S short, L full
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from autoexp.errors import ProposalError
from autoexp.runs.records import Constant

_RANGE = re.compile(r"#\s*\[([^\[\],]+),([^\[\],]+)\]\s*(log)?")
_INTEGER_BITS = 128
_CHOICES = re.compile(r"#\s*\{(.*)\}")


@dataclass(frozen=True)
class Declared:
    """A constant as it stands in the source. `low`/`high` or `choices` are None where the comment declares none."""

    name: str
    value: Constant
    line: int
    start: int
    end: int
    """Columns of the value's text in its line, in characters."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Constant, ...] | None = None
    comment: str = ""


def literal(node: ast.expr) -> Constant | None:
    """The value of a number, string or bool, of a signed number, of a product or of a power of integers; else None.

    None also for what no journal or search could hold: text that is no Unicode, integers of more than 128 bits, a
    number of hundreds of signs.
    """
    try:
        value = _literal(node)
    except (RecursionError, MemoryError, ValueError):
        return None
    if isinstance(value, str):
        return None if re.search("[\ud800-\udfff]", value) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if value is None or value.bit_length() > _INTEGER_BITS else value


def _literal(node: ast.expr) -> Constant | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        return -value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.Mult):
        left, right = _literal(node.left), _literal(node.right)
        if isinstance(left, int) and isinstance(right, int) and abs(left) < 1 << 32 and 0 <= right < 1 << 32:
            if isinstance(node.op, ast.Mult):
                return left * right
            return left**right if right <= 64 else None
    return None


def declared(source: str) -> dict[str, Declared]:
    """The constants assigned once, at the top level, on one line. {} for a source that does not parse."""
    text = source.removeprefix("\ufeff")  # a byte order mark is legal in a file, not in a string to parse
    try:
        tree = ast.parse(text)
        comments = {
            token.start[0]: token.string
            for token in tokenize.generate_tokens(io.StringIO(text, newline=None).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError):
        return {}
    lines = _lines(text)
    times = Counter(_assigned(tree))
    found: dict[str, Declared] = {}
    for node in tree.body:
        name, value = _assignment(node)
        if name is None or value is None or node.lineno != node.end_lineno or times[name] > 1:
            continue
        known = literal(value)
        if known is None or value.end_col_offset is None:
            continue
        row = lines[node.lineno - 1].encode()
        mark = len(source) - len(text) if node.lineno == 1 else 0
        start = mark + len(row[: value.col_offset].decode())  # the parser counts bytes
        end = mark + len(row[: value.end_col_offset].decode())
        comment = comments.get(node.lineno, "")
        found[name] = Declared(name, known, node.lineno, start, end, *_space(comment, known), comment=comment)
    return found


def replaced(source: str, name: str, value: Constant) -> str:
    """`source` with the constant's value replaced, the rest of its line untouched.

    Raises ProposalError when there is no such constant, or `value` is of another kind.
    """
    constants = declared(source)
    if name not in constants:
        known = ", ".join(sorted(constants)) or "none"
        what = f"there is no constant {name} at the top level (there are: {known})"
        raise ProposalError(what, "autoexp propose --help")
    constant = constants[name]
    if not _alike(value, constant.value):
        raise ProposalError(f"{name} is {constant.value!r}; {value!r} is of another kind", "autoexp propose --help")
    whole = isinstance(constant.value, int) and isinstance(constant.low, int) and isinstance(constant.high, int)
    if whole and isinstance(value, float):
        raise ProposalError(f"{name} is a whole number ({constant.value}), not {value!r}", "autoexp propose --help")
    if isinstance(value, float) and not math.isfinite(value):
        raise ProposalError(f"{name} cannot be {value!r}: there is no such literal", "autoexp propose --help")
    lines = _lines(source)
    row = lines[constant.line - 1]
    lines[constant.line - 1] = row[: constant.start] + written(value) + row[constant.end :]
    return "".join(lines)


def changed(old: str, new: str) -> dict[str, Constant]:
    """The constants whose values alone turn `old` into `new`; {} when anything else differs, or nothing does."""
    before, after = declared(old), declared(new)
    if before.keys() != after.keys() or _masked(old, before) != _masked(new, after):
        return {}
    return {name: after[name].value for name in before if after[name].value != before[name].value}


def _masked(source: str, constants: dict[str, Declared]) -> str:
    """The source without the constants' values."""
    lines = source.rstrip("\n").split("\n")
    for constant in constants.values():
        row = lines[constant.line - 1]
        lines[constant.line - 1] = row[: constant.start] + row[constant.end :]
    return "\n".join(lines)


def written(value: Constant) -> str:
    """A literal as a person would write it: large powers of two as 2**n, floats without noise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 4096 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    return repr(value)


def _lines(source: str) -> list[str]:
    """Lines with their ends, as the parser counts them; str.splitlines knows more separators."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source)


def _assigned(node: ast.AST) -> Iterator[str]:
    """Every name that the module itself binds, as often as it does so. Functions and classes have their own."""
    ahead = list(ast.iter_child_nodes(node))
    while ahead:  # no recursion: an expression may be nested deeper than Python's stack
        child = ahead.pop()
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store | ast.Del):
            yield child.id
        ahead += ast.iter_child_nodes(child)


def _alike(a: Constant, b: Constant) -> bool:
    """Whether both are strings, both bools, or both numbers."""
    return isinstance(a, str) == isinstance(b, str) and isinstance(a, bool) == isinstance(b, bool)


def _assignment(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    target: ast.expr | None = None
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id):
        return target.id, getattr(node, "value", None)
    return None, None


def _space(comment: str, value: Constant) -> tuple[float | None, float | None, bool, tuple[Constant, ...] | None]:
    if match := _RANGE.match(comment):
        low, high = _parsed(match[1]), _parsed(match[2])
        if isinstance(value, str | bool) or not isinstance(low, int | float) or not isinstance(high, int | float):
            return None, None, False, None
        if low < high:
            return low, high, bool(match[3]) and low > 0, None
    elif match := _CHOICES.match(comment):
        try:
            body = ast.parse(f"[{match[1]}]", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None, None, False, None
        values = [literal(item) for item in body.elts] if isinstance(body, ast.List) else []
        choices = tuple(dict.fromkeys(item for item in values if item is not None and _alike(item, value)))
        if len(values) == len(choices) > 1:
            return None, None, False, choices
    return None, None, False, None


def _parsed(text: str) -> Constant | None:
    try:
        return literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
