"""The ALL_CAPS literals of a program: where they are, their ranges, and how to give one another value.

A range stands in the comment of the constant's line:

    MATRIX_LR = 0.04  # [0.005, 0.2] log; learning rate of the matrices
    DEPTH = 8  # [2, 16]; layers
    WINDOW_PATTERN = "SSSL"  # {"L", "SL", "SSSL"}; S short, L full
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass

from autoexp.errors import ProposalError
from autoexp.runs.records import Constant

_RANGE = re.compile(r"#\s*\[([^\[\],]+),([^\[\],]+)\]\s*(log)?")
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
    """The value of a number, string or bool, of a signed number, of a product or of a power of integers; else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = literal(node.operand)
        return -value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.Mult):
        left, right = literal(node.left), literal(node.right)
        if isinstance(left, int) and isinstance(right, int) and abs(left) < 1 << 32 and 0 <= right < 1 << 32:
            if isinstance(node.op, ast.Mult):
                return left * right
            return left**right if right <= 64 else None
    return None


def declared(source: str) -> dict[str, Declared]:
    """The constants assigned once, at the top level, on one line. {} for a source that does not parse."""
    try:
        tree = ast.parse(source)
        comments = {
            token.start[0]: token.string
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        return {}
    lines = source.split("\n")  # as the parser counts lines; str.splitlines knows more separators
    found: dict[str, Declared] = {}
    twice: set[str] = set()
    for node in tree.body:
        name, value = _assignment(node)
        if name is None or value is None or node.lineno != node.end_lineno:
            continue
        known = literal(value)
        if known is None or value.end_col_offset is None:
            continue
        if name in found:
            twice.add(name)
        row = lines[node.lineno - 1].encode()
        start = len(row[: value.col_offset].decode(errors="replace"))
        end = len(row[: value.end_col_offset].decode(errors="replace"))
        comment = comments.get(node.lineno, "")
        found[name] = Declared(name, known, node.lineno, start, end, *_space(comment), comment=comment)
    return {name: constant for name, constant in found.items() if name not in twice}


def replaced(source: str, name: str, value: Constant) -> str:
    """`source` with the constant's value replaced, the rest of its line untouched.

    Raises ProposalError when there is no such constant, or `value` is of another kind.
    """
    constants = declared(source)
    if name not in constants:
        known = ", ".join(sorted(constants)) or "none"
        raise ProposalError(f"there is no constant {name} at the top level (there are: {known})", "autoexp propose --help")
    constant = constants[name]
    if isinstance(value, str) != isinstance(constant.value, str) or isinstance(value, bool) != isinstance(constant.value, bool):
        raise ProposalError(f"{name} is {constant.value!r}; {value!r} is of another kind", "autoexp propose --help")
    lines = source.split("\n")
    row = lines[constant.line - 1]
    lines[constant.line - 1] = row[: constant.start] + written(value) + row[constant.end :]
    return "\n".join(lines)


def written(value: Constant) -> str:
    """A literal as a person would write it: large powers of two as 2**n, floats without noise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 4096 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    return repr(value)


def _assignment(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    target: ast.expr | None = None
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id):
        return target.id, getattr(node, "value", None)
    return None, None


def _space(comment: str) -> tuple[float | None, float | None, bool, tuple[Constant, ...] | None]:
    if match := _RANGE.match(comment):
        low, high = _parsed(match[1]), _parsed(match[2])
        if isinstance(low, int | float) and isinstance(high, int | float) and low < high:
            return low, high, bool(match[3]) and low > 0, None
    elif match := _CHOICES.match(comment):
        try:
            body = ast.parse(f"[{match[1]}]", mode="eval").body
        except (SyntaxError, ValueError):
            return None, None, False, None
        values = [literal(item) for item in body.elts] if isinstance(body, ast.List) else []
        if len(values) > 1 and all(value is not None for value in values):
            return None, None, False, tuple(value for value in values if value is not None)
    return None, None, False, None


def _parsed(text: str) -> Constant | None:
    try:
        return literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return None
