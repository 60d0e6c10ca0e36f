"""What is held out is held out whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from autoexp.model.datasets import Bundled, OwnText, pieces, split_of
from autoexp.model.errors import BadInput, Missing


def joined(batches: Iterable[list[str]]) -> str:
    return " ".join(piece for batch in batches for piece in batch)


def words(text: str) -> list[str]:
    return text.split()


def test_pieces_lose_no_word_and_keep_to_the_size(text: str) -> None:
    cut = list(pieces(text, 300))
    assert words(" ".join(cut)) == words(text)
    assert max(map(len, cut)) <= 300
    assert list(pieces("x" * 1000, 300)) == ["x" * 300] * 3 + ["x" * 100]


def test_bundled_holds_out_whole_addresses_spread_over_the_years() -> None:
    source = Bundled(500)
    addresses = list(source.addresses())
    assert len(addresses) == 233
    held_out = [number for number in range(233) if split_of(number) == "val"]
    years = [int(addresses[number][0][:4]) for number in held_out]
    assert len(held_out) == 19 and years[0] < 1800 and years[-1] > 2005
    expected = words(" ".join(addresses[number][1] for number in held_out))
    assert words(joined(source.documents("val"))) == expected
    training = words(joined(source.documents("train")))
    testing = words(joined(source.documents("test")))
    assert testing == words(" ".join(body for number, (_, body) in enumerate(addresses) if number % 12 == 0))
    assert len(training) + len(expected) + len(testing) == sum(len(words(body)) for _, body in addresses)


def own(path: Path) -> tuple[str, str, str]:
    source = OwnText(path, 400)
    return joined(source.documents("train")), joined(source.documents("val")), joined(source.documents("test"))


def test_one_text_file_is_held_out_in_places_spread_over_it(text_file: Path, text: str) -> None:
    train, *held_out = own(text_file)
    assert sum(len(words(each)) for each in (train, *held_out)) == len(words(text))
    for each in held_out:
        assert 0.03 < len(each) / len(text) < 0.2


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_documents_are_held_out_whole_whatever_their_order(tmp_path: Path, kind: str) -> None:
    documents = [f"document{number} says word{number} once." for number in range(300)]
    for name, order in (("a", documents), ("b", documents[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        if kind == "jsonl":
            (folder / "x.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in order))
        elif kind == "parquet":
            arrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.table({"text": order}), folder / "x.parquet", row_group_size=70)
        else:
            for number, each in enumerate(order):
                (folder / f"{number:03d}.txt").write_text(each)
    (train, *splits), (_, *again) = own(tmp_path / "a"), own(tmp_path / "b")
    held_out = []
    for split, other in zip(splits, again, strict=True):
        assert sorted(words(split)) == sorted(words(other))
        held_out.append({word for word in words(split) if word.startswith("document")})
        assert 8 <= len(held_out[-1]) <= 60
        assert not held_out[-1] & set(words(train))
        assert all(f"word{name.removeprefix('document')}" in words(split) for name in held_out[-1])
    assert not held_out[0] & held_out[1], "what no decision sees is no part of what decides"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nowhere"):
        OwnText(tmp_path / "nowhere", 400).fingerprint()
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match=r"no \.txt"):
        OwnText(tmp_path, 400).fingerprint()
    (tmp_path / "bad.jsonl").write_text('{"body": 1}\n')
    with pytest.raises(BadInput, match=r"bad\.jsonl"):
        own(tmp_path)
