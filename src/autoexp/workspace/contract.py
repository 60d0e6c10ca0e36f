"""Whether a program's model can be judged by others than itself: read from its text, nothing of it is run.

The contract of a train.py: it imports the trainer package, and has either `build_model(vocab_size, seq_len, dtype)` or
`class GPT` with the arguments `(vocab_size, seq_len)` and perhaps `init_weights(dtype)`. What that makes has a method
`logits(ids)`: token ids (rows, tokens) to scores of the next token at every place, (rows, tokens, vocab).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

PACKAGE = "autoexp.model"
BUILDER, MODEL, LOGITS = "build_model", "GPT", "logits"


def script_of(command: Sequence[str]) -> str | None:
    """The path of the program that `python program.py` runs, relative to the commit; None for any other command."""
    python, *arguments = command
    script = arguments[0] if arguments else ""
    plain = re.fullmatch(r"[^-/.][^\0]*\.py", script) is not None and ".." not in script.split("/")
    return script if plain and re.fullmatch(r"python[\d.]*", python.rsplit("/", 1)[-1]) else None


def can_be_judged(text: str) -> bool:
    """Whether the program keeps the contract, as far as its text tells. False for what is no Python."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    builds = any(isinstance(node, ast.FunctionDef) and node.name == BUILDER for node in body)
    answers = any(_answers(node) for node in classes if builds or node.name == MODEL)
    return answers and any(_imports(node) for node in body)


def _answers(node: ast.ClassDef) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == LOGITS for part in node.body)


def _imports(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module is not None and (node.module == PACKAGE or node.module.startswith(f"{PACKAGE}."))
    return isinstance(node, ast.Import) and any(name.name.startswith(PACKAGE) for name in node.names)
