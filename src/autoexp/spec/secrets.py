"""What must not be seen: secrets in the environment, in settings, in what programs print."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SECRET_NAMES = re.compile(
    r"(?<![A-Z])(?:(?:API|ACCESS|AUTH|PRIVATE)?(?:KEY|TOKEN)S?|[A-Z]*(?:SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?))(?![A-Z])",
    re.IGNORECASE,
)
"""Names of variables that hold secrets, by whole words: HF_TOKEN and PGPASSWORD, not TOKENIZERS_PARALLELISM."""
AGENT_NAMES = re.compile(
    r"(ANTHROPIC|CLAUDE|OPENAI|CODEX|OPENCODE|OPENROUTER)_\w+|CLAUDECODE|AUTOEXP_AGENTS?__\w+", re.IGNORECASE
)
"""Variables that are there for agents. Their values may hold keys under any name, so no training gets one."""
_HOLDS_ONE = re.compile(SECRET_NAMES.pattern + "|authorization", re.IGNORECASE)
_A_NAME = re.compile(r"[A-Z][A-Z0-9_]*|\{\w+:[^{}]*\}|\$\{?\w+\}?")
"""A variable's name, or a reference to one, says where a secret is. It is none."""
SHORTEST = 8
"""Characters. What is shorter would be found in all sorts of words."""
_PATTERNS = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\b(?:ghp|gho|ghs|github_pat|hf|glpat|xox[abprs])[_-][A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)
_BEARER = re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"']{0,100}:)[^\s/@\"']{1,500}@", re.IGNORECASE)
"""`https://ada:her-password@proxy`: of proxies, registries and databases."""
GONE = "[redacted]"


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without `secrets`, without those of the environment, and without what looks like one."""
    text = _PATTERNS.sub(GONE, without(text, secrets))
    return _IN_URL.sub(rf"\1{GONE}@", _BEARER.sub(rf"\1{GONE}", text))


def without(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without `secrets` and those of the environment: what merely looks like one stays."""
    found = {*_of_environment(), *(secret for secret in secrets if len(secret) >= SHORTEST)}
    for secret in sorted(found, key=len, reverse=True):  # the longer first: one may begin with another
        for form in (secret, json.dumps(secret)[1:-1]):
            text = text.replace(form, GONE)
    return text


def secrets_in(table: Any, held: bool = False) -> Iterator[str]:
    """The values in a table, of settings or of a configuration, whose keys say that they are secret."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from secrets_in(value, _HOLDS_ONE.search(str(key)) is not None)
    elif isinstance(table, list | tuple):
        for value in table:
            yield from secrets_in(value, held)
    elif isinstance(table, str) and held and len(table) >= SHORTEST and not _A_NAME.fullmatch(table):
        yield table


def secrets_in_file(path: Path) -> list[str]:
    """As `secrets_in`, for a file with JSON (comments and all) or TOML; nothing where it cannot be read."""
    try:
        text = path.expanduser().read_text(errors="replace")
    except OSError:
        return []
    return list(secrets_in_text(text))


def secrets_in_text(text: str) -> Iterator[str]:
    try:
        yield from secrets_in(json.loads(text))
    except (ValueError, RecursionError):
        try:
            yield from secrets_in(tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError):
            # JSON with comments, say: each `"key": "value"` is looked at for itself
            for key, value in re.findall(r'"([^"\n]+)"\s*:\s*"([^"\n]+)"', text):
                yield from secrets_in({key: value})


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET_NAMES.search(name):
            yield value
        elif AGENT_NAMES.fullmatch(name) and value.lstrip().startswith("{"):  # a whole configuration
            yield from secrets_in_text(value)
