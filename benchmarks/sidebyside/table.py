"""The table: both sides, the ratio, the goal; and what a reader must know to believe it. All of it Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .results import identity

Parts = Mapping[str, Mapping[str, Any]]  # name -> the figures of a part
NONE = "–"
HEADER = ("", "reference", "autoexp", "ratio", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One line. `better` is higher or lower; a goal is a bound in that direction. Figures that are missing are None."""

    what: str
    reference: float | None
    ours: float | None
    show: Callable[[float], str]
    better: str = ""
    goal: float | None = None
    spread: str = ""  # of ours, beside it

    def ratio(self) -> float | None:
        """How many times as much ours is as the reference's."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    def met(self) -> bool | None:
        """Whether the goal is reached; None if there is none, or no figure."""
        if self.goal is None or self.ours is None:
            return None
        return self.ours >= self.goal if self.better == "higher" else self.ours <= self.goal

    def cells(self) -> list[str]:
        ratio, met = self.ratio(), self.met()
        bound = {"higher": "≥ ", "lower": "≤ "}.get(self.better, "")
        return [
            self.what,
            NONE if self.reference is None else self.show(self.reference),
            NONE if self.ours is None else self.show(self.ours) + self.spread,
            NONE if ratio is None else f"{ratio:.3g}",
            NONE if self.goal is None else bound + self.show(self.goal),
            NONE if met is None else "yes" if met else "NO",
        ]


def millions(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value < 1e8 else f"{value / 1e6:.0f} M"


def in_seconds(value: float) -> str:
    return f"{value:.1f} s"


def bits(value: float) -> str:
    return f"{value:.4f}"


def speed(value: float) -> str:
    return f"{millions(value)} tok/s" if value >= 1e5 else f"{value:,.0f} tok/s"


def rows(parts: Parts, goals: bool) -> list[Row]:
    """Every line that the finished parts give something for. Without `goals` (on a CPU) none is held to one."""

    def get(name: str, key: str) -> float | None:
        value = parts.get(name, {}).get(key)
        return None if value is None else float(value)

    def first(key: str, *names: str) -> float | None:
        return next((value for name in names if (value := get(name, key)) is not None), None)

    def mean(values: Sequence[float]) -> float | None:
        return statistics.fmean(values) if values else None

    def of(key: str, names: Sequence[str]) -> list[float]:
        return [value for name in names if (value := get(name, key)) is not None]

    masters = ("reference-warm", "reference-cold")
    seeds = sorted((name for name in parts if name.startswith("default-")), key=lambda name: int(name[8:]))
    warm = [name for name in seeds if name != "default-1"]
    scores = of("val_bpb", seeds)
    spread = f" ({len(scores)} seed{'s' * (len(scores) > 1)}"
    spread += f", {min(scores):.4f} to {max(scores):.4f})" if len(scores) > 1 else ")"
    beyond = "beyond_budget_seconds"
    low, high = "lower", "higher"
    spoken = [
        Row("tokens/s in training, its d8/512 and batch", first("tokens_per_second", *masters),
            get("same", "tokens_per_second"), speed, high, 2.0e6),
        Row("the same: parameters", first("num_params", *masters), get("same", "num_params"), millions),
        Row("the same: val_bpb at the budget", mean(of("val_bpb", masters)), get("same", "val_bpb"), bits, low),
        Row("wall time beyond the budget, first trial", get("reference-cold", beyond), get("default-1", beyond),
            in_seconds, low, 35.0),
        Row("wall time beyond the budget, later trials", get("reference-warm", beyond), mean(of(beyond, warm)),
            in_seconds, low, 12.0),
        Row("later trials through the executor: a process of its own", get("reference-warm", beyond),
            get("beyond-own", beyond), in_seconds, low, 12.0),
        Row("later trials through the executor: standing by", get("reference-warm", beyond),
            get("beyond-standby", beyond), in_seconds, low, 12.0),
        Row("of it before the first counted step", get("reference-warm", "startup_seconds"),
            mean(of("startup_seconds", warm)), in_seconds, low),
        Row("val_bpb, default train.py against master", mean(of("val_bpb", masters)), mean(scores), bits, low, 0.775,
            spread),
        Row("val_bpb, default train.py against mar8", get("mar8", "val_bpb"), mean(scores), bits, low, 0.775, spread),
        Row("tokens/s, default train.py against mar8", get("mar8", "tokens_per_second"),
            mean(of("tokens_per_second", seeds)), speed, high),
        Row("evaluation, default train.py against master", first("eval_seconds", *masters),
            mean(of("eval_seconds", warm or seeds)), in_seconds, low, 6.0),
        Row("evaluation, its d8/512", first("eval_seconds", *masters), get("same", "eval_seconds"), in_seconds, low,
            6.0),
        Row("data path alone", get("reference-data", "tokens_per_second"), get("data", "tokens_per_second"), speed,
            high, 50e6),
        Row("peak memory, its d8/512 (MiB)", first("peak_memory_mb", *masters), get("same", "peak_memory_mb"),
            lambda value: f"{value:,.0f}", low),
        Row("default train.py, 1 GPU (left) and 2 GPUs", get("scaling-1", "tokens_per_second"),
            get("scaling-2", "tokens_per_second"), speed, high),
    ]  # fmt: skip
    spoken = [row for row in spoken if row.reference is not None or row.ours is not None]
    return spoken if goals else [Row(r.what, r.reference, r.ours, r.show, r.better, None, r.spread) for r in spoken]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose columns are also straight in plain text: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *lines]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, lines)])


def whole(stored: Parts, said: Sequence[str], goals: bool) -> str:
    """Everything that is printed, from the stored entries and the notes."""
    parts = {name: part["result"] for name, part in stored.items()}
    lines = [row.cells() for row in rows(parts, goals)]
    blocks = [markdown(HEADER, lines), profile_table(parts), "\n".join(f"- {note}" for note in said)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def profile_table(parts: Parts) -> str:
    """Milliseconds a step by kind of kernel, a column for each profile; empty without one."""
    found = {name.removeprefix("profile-"): part for name, part in parts.items() if name.startswith("profile-")}
    if not found:
        return ""
    kinds = list(dict.fromkeys(kind for part in found.values() for kind in part["kinds"]))
    lines = [[kind, *(f"{part['kinds'].get(kind, 0.0):.2f}" for part in found.values())] for kind in kinds]
    waiting = [part["ms_per_step"] - part["busy_ms_per_step"] for part in found.values()]
    lines.append(["no kernel running", *(f"{value:.2f}" for value in waiting)])
    lines.append(["a step, by the wall", *(f"{part['ms_per_step']:.2f}" for part in found.values())])
    return markdown(["ms a step", *found], lines)


def notes(stored: Parts, wanted: Sequence[str]) -> list[str]:
    """What the table rests on, a line each. `stored` holds whole entries (key, machine, result) of the parts."""
    parts = {name: part["result"] for name, part in stored.items()}
    theirs = {name for name in parts if name.startswith(("reference", "mar8"))}
    said = [describe(facts) for facts in {identity(p["machine"]): p["machine"] for p in stored.values()}.values()]
    for side, names in (("reference", theirs), ("autoexp", parts.keys() - theirs)):
        if used := sorted({str(parts[name]["attention"]) for name in names if "attention" in parts[name]}):
            said.append(f"attention, {side}: {', '.join(used)}")
    if found := parts.get("rows"):
        if found["identical"]:
            said.append(f"validation rows: all {found['rows_ours']} are the same on both sides")
        else:
            said.append(
                f"VALIDATION ROWS DIFFER: {found['rows_same']} of the reference's {found['rows_reference']} and our "
                f"{found['rows_ours']} are the same, the first difference is at row {found['first_difference']}"
            )
    if "ids" in parts:
        said.append("tokenizer: the reference's own code encodes, decodes and counts a sample as ours does")
    said.append("bytes are counted by the reference's rule on both sides; the reference keeps its one seed")
    if "reference-cold" in parts and "same" in parts and not stored["same"]["key"]["cpu"]:
        sizes = [float(parts[name]["num_params"]) for name in ("reference-cold", "same")]
        if abs(sizes[0] - sizes[1]) > 1e5:  # the reference prints tenths of a million
            said.append(f"ARCHITECTURES DIFFER: {sizes[0]:.4g} and {sizes[1]:.4g} parameters")
    missing = [name for name in wanted if name not in stored]
    if missing:
        said.append(f"NOT COMPLETE: without {', '.join(missing)}")
    elif len({identity(part["machine"]) for part in stored.values()}) > 1:
        said.append("NOT COMPLETE: its parts come from different machines")
    elif not theirs:
        said.append("NOT COMPLETE: no --reference")
    else:
        said.append("complete: every part is from this one machine")
    return said


def describe(machine: Mapping[str, Any]) -> str:
    """A machine in one line."""
    cards = [
        ", ".join(
            value if key == "name" else f"{key.replace('.', ' ').replace('_', ' ')} {value}"
            for key, value in gpu.items()
        )
        for gpu in machine["gpus"]
    ]
    software = f"torch {machine['torch']}, Python {machine['python']}"
    return f"machine {machine['host']}: {'; '.join(card for card in cards if card) or 'no GPU'}; {software}"


def complete(said: Sequence[str]) -> bool:
    """Whether nothing is missing and both sides were asked the same, by the notes."""
    return said[-1].startswith("complete") and not any("DIFFER" in note for note in said)
