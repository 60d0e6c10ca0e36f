"""What was measured, on which machine, kept so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from autoexp.model.storage import write_json

QUERY = ("name", "driver_version", "clocks.max.sm", "clocks.sm", "power.limit", "temperature.gpu")


def machine(gpus: list[str]) -> dict[str, Any]:
    """Host, software, and the cards with these ids, one entry each."""
    facts: dict[str, Any] = {
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "gpus": [card(gpu) for gpu in gpus if gpu],
    }
    return facts


def card(gpu: str) -> dict[str, str]:
    """What the driver says of one card; empty where it says nothing."""
    command = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY, (value.strip() for value in said.splitlines()[0].split(",")), strict=False))


def identity(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be the same for two results to stand in one table: the host and the kinds of its cards."""
    return (facts["host"], facts["torch"], *sorted({gpu.get("name", "?") for gpu in facts["gpus"]}))


@dataclass
class Results:
    """A folder of JSON files, one for each finished part: its key (the arguments), its machine, its figures."""

    folder: Path
    here: dict[str, Any]

    def read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.keys() >= {"key", "machine", "result"} else None

    def reusable(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether the part was measured with the same arguments, here or elsewhere."""
        found = self.read(name)
        return found is not None and found["key"] == dict(key)

    def keep(self, name: str, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        write_json(self.folder / f"{name}.json", {"key": dict(key), "machine": self.here, "result": dict(result)})

    def forget(self, names: Iterable[str]) -> None:
        """Delete the results of these parts."""
        for name in names:
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def current(self, keys: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Name -> stored part, of those whose arguments are still the same."""
        return {name: found for name, key in keys.items() if self.reusable(name, key) and (found := self.read(name))}
