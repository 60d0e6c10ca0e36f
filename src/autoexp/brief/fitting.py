"""The rule by which a brief is cut until it fits its limit. Pure; docs/explanation/briefs.md tells it in words.

What is fixed comes first. Every section is then given its floor, a share of the room, as far as it needs it; what is
left goes to the sections in their order, each taking what it needs. A section that got less than it needs loses its
end, part by part, says how much in its last line, and is named in the list of what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoexp.brief.counting import count, fit

PART_CHARACTERS = 2000
"""A longer line is shortened, and says by how much."""


@dataclass(frozen=True)
class Section:
    """Something that a brief tells. What matters most is its first part, so that the rest can go."""

    name: str
    title: str
    parts: tuple[str, ...]
    """Lines, or blocks of lines that make no sense halved."""
    share: float
    """Its floor, as a share of the room that the fixed texts leave."""
    unit: str = "lines"
    """What its parts are."""


@dataclass(frozen=True)
class Cut:
    """A section as it is told: `kept` of its parts."""

    section: Section
    kept: int

    @property
    def left_out(self) -> int:
        return len(self.section.parts) - self.kept

    @property
    def text(self) -> str:
        """'' when there is no room for even its first part."""
        if not self.kept:
            return ""
        lines = [f"## {self.section.title}", *self.section.parts[: self.kept]]
        if self.left_out:
            lines.append(_mark(self.section, self.left_out))
        return "\n".join(lines) + "\n\n"


@dataclass(frozen=True)
class Fitted:
    """A whole brief and what it came to."""

    text: str
    tokens: int
    cuts: tuple[Cut, ...]


def fitted(head: str, sections: Sequence[Section], tail: str, limit: int) -> Fitted:
    """`head`, the sections and `tail` in no more than `limit` tokens. The fixed texts must leave room for a list."""
    sections = [_clean(section) for section in sections if section.parts]
    head, tail = fit(head).rstrip("\n") + "\n\n", fit(tail).rstrip("\n") + "\n"
    costs = [[count(f"{part}\n") for part in section.parts] for section in sections]
    frames = [count(f"## {section.title}\n\n") for section in sections]
    sizes = [frame + sum(cost) for frame, cost in zip(frames, costs, strict=True)]
    fixed = count(head) + count(tail)
    if fixed + sum(sizes) <= limit:
        cuts = [Cut(section, len(section.parts)) for section in sections]
    else:
        longest = _listed([Cut(section, 0) for section in sections], limit)
        room = max(0, limit - fixed - len(longest.encode()))  # no text has more tokens than bytes
        grants = _granted(sizes, [section.share for section in sections], room)
        cuts = [
            Cut(section, _kept(section, cost, frame, grant))
            for section, cost, frame, grant in zip(sections, costs, frames, grants, strict=True)
        ]
    text = head + "".join(cut.text for cut in cuts) + _listed(cuts, limit) + tail
    return Fitted(text, count(text), tuple(cuts))


def _granted(sizes: Sequence[int], shares: Sequence[float], room: int) -> list[int]:
    """Tokens for each section: the floors, then the rest in order."""
    whole = sum(shares) or 1.0
    grants = [min(size, int(room * share / whole)) for size, share in zip(sizes, shares, strict=True)]
    spare = room - sum(grants)
    for index, size in enumerate(sizes):
        more = min(size - grants[index], spare)
        grants[index] += more
        spare -= more
    return grants


def _kept(section: Section, costs: Sequence[int], frame: int, grant: int) -> int:
    """How many parts fit into `grant` tokens, with the mark that tells of the others."""
    if frame + sum(costs) <= grant:
        return len(costs)
    left = grant - frame - len(_mark(section, len(costs)).encode()) - 1
    kept = 0
    for cost in costs:
        if cost > left:
            break
        left -= cost
        kept += 1
    return kept


def _mark(section: Section, left_out: int) -> str:
    return f"[… {left_out} of {len(section.parts)} {section.unit} left out]"


def _listed(cuts: Sequence[Cut], limit: int) -> str:
    """The list of what was left out; '' when nothing was."""
    lines = [
        f"- {cut.section.title}: {cut.left_out} of {len(cut.section.parts)} {cut.section.unit}"
        for cut in cuts
        if cut.left_out
    ]
    return "\n".join([f"## Left out, to fit into {limit} tokens", *lines]) + "\n\n" if lines else ""


def _clean(section: Section) -> Section:
    parts = tuple("\n".join(_short(line) for line in fit(part).split("\n")) for part in section.parts)
    return Section(section.name, _short(fit(section.title)), parts, section.share, section.unit)


def _short(line: str) -> str:
    line = line.replace("\x00", "").replace("\r", "")
    if len(line) <= PART_CHARACTERS:
        return line
    return f"{line[:PART_CHARACTERS]} [… {len(line) - PART_CHARACTERS} more characters]"
