"""The rule that cuts a brief: never over the limit, nothing dropped silently, floors kept."""

from __future__ import annotations

import random
import re

import pytest

from autoexp.brief.counting import count
from autoexp.brief.fitting import PART_CHARACTERS, Section, fitted

ALPHABETS = ("abc de\n", "0123456789", "日本語のテスト", "\ud800\x00\r\n\u2028\x0b", "🙂é", "    \t", "_{}()[]=+-*/")
CHARACTERS = "".join(ALPHABETS)
WEIGHTS = [1 / len(alphabet) for alphabet in ALPHABETS for _ in alphabet]  # each alphabet comes as often


def words(luck: random.Random, length: int) -> str:
    return "".join(luck.choices(CHARACTERS, WEIGHTS, k=length))


@pytest.mark.parametrize("seed", range(40))
def test_it_never_exceeds_the_limit_and_says_what_it_left_out(seed: int) -> None:
    luck = random.Random(seed)
    limit = luck.choice([1000, 4000, 30_000])
    sections = [
        Section(
            f"s{number}",
            words(luck, 30),
            tuple(words(luck, luck.choice([0, 10, 100, 5000])) for _ in range(luck.choice([0, 1, 50, 300]))),
            luck.choice([0.01, 0.1, 0.5]),
        )
        for number in range(luck.randint(0, 8))
    ]
    found = fitted("head\n" * luck.randint(1, 20), sections, "tail", limit)
    assert found.tokens == count(found.text) <= limit
    assert found.text == fitted(found.text.split("\n\n")[0], sections, "tail", limit).text, "the same again"
    for cut in found.cuts:
        assert cut.kept + cut.left_out == len(cut.section.parts)
        if cut.left_out:
            assert f"- {cut.section.title}: {cut.left_out} of {len(cut.section.parts)} lines" in found.text


def test_everything_is_in_it_when_there_is_room() -> None:
    found = fitted("head", [Section("a", "A", ("one", "two"), 0.5), Section("b", "B", (), 0.5)], "tail", 1000)
    assert found.text == "head\n\n## A\none\ntwo\n\ntail\n"


def test_floors_are_kept_and_the_rest_goes_in_order() -> None:
    lines = tuple(f"line {number} of many" for number in range(1000))
    sections = [Section(name, name, lines, share) for name, share in (("first", 0.2), ("second", 0.2), ("third", 0.6))]
    kept = [cut.kept for cut in fitted("head", sections, "tail", 4000).cuts]
    assert 2.0 < kept[2] / kept[0] < 4.0 and kept[0] == pytest.approx(kept[1], abs=3)
    small = [Section("first", "first", lines, 0.2), Section("third", "third", ("short",), 0.8)]
    wide = fitted("head", small, "tail", 4000)
    assert wide.cuts[1].left_out == 0
    assert wide.tokens > 3800, "what one does not need, another gets"
    assert re.search(r"\n\[… \d+ of 1000 lines left out\]\n", wide.text)


def test_a_part_stays_whole_and_a_long_line_is_shortened_in_the_open() -> None:
    blocks = tuple(f"begin {number}\n" + "word " * 200 + "\nend" for number in range(20))
    text = fitted("head", [Section("a", "A", blocks, 1.0, "blocks")], "tail", 1500).text
    assert text.count("begin") == text.count("\nend") > 0
    long = fitted("head", [Section("a", "A", ("x" * 5000,), 1.0)], "tail", 30_000).text
    assert "x" * PART_CHARACTERS + f" [… {5000 - PART_CHARACTERS} more characters]" in long


def test_counts_of_whole_lines_add_up_and_are_no_more_than_the_bytes() -> None:
    luck = random.Random(7)
    for _ in range(200):
        one, other = (words(luck, luck.randint(0, 400)).replace("\r", "") + "\n" for _ in range(2))
        assert count(one + other) == count(one) + count(other)
        assert count(one) <= len(one.encode(errors="replace"))
    assert count("a" * 100_000) > 0 and count("") == 0
