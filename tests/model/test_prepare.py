"""Preparing data: once, whole, whatever interrupts it."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autoexp.model.datasets import HELD_OUT_OF, OwnText, split_of
from autoexp.model.errors import Missing
from autoexp.model.packing import Packer
from autoexp.model.prepare import PIECE_CHARACTERS_PER_TOKEN
from autoexp.model.prepared import find_prepared, read_prepared
from autoexp.model.tokenizer import Tokenizer

from .conftest import command, environment

PREPARE = ("-m", "autoexp.model.prepare", "--profile", "cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def big_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.txt"
    path.write_text("\n\n".join([text] * 5))
    return path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, big_text: Path) -> Path:
    run = command(*PREPARE, "--dataset", big_text, "--json", AUTOEXP_CACHE=tmp_path_factory.mktemp("whole"))
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts["ready"] is True and facts["train"]["rows"] > 100
    return Path(facts["data_dir"])


def test_rows_are_what_the_tokenizer_made_of_the_text(bundled_data: Path) -> None:
    data = read_prepared(bundled_data)
    assert data is not None and data.vocab_size == 512 and data.seq_len == 128
    tokenizer = Tokenizer.load(bundled_data / "tokenizer.json")
    for split in ("train", "val"):
        rows = data.rows(split)
        assert (rows[:, 0] == tokenizer.bos).all() and rows.max() < 512
        assert data.meta[split]["bytes"] == data.token_bytes()[rows[:, 1:]].sum()
    assert "fellow" in tokenizer.decode(data.rows("train")[:300].ravel().tolist()).lower()
    assert not np.isin(data.rows("train"), range(tokenizer.bos + 1, 512)).any()


def test_second_time_changes_nothing(uninterrupted: Path, big_text: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()}
    cache = uninterrupted.parents[1]
    run = command(*PREPARE, "--dataset", big_text, AUTOEXP_CACHE=cache)
    assert run.returncode == 0 and str(uninterrupted) in run.stdout
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()} == before
    check = command(*PREPARE, "--dataset", big_text, "--check", AUTOEXP_CACHE=cache)
    assert (check.returncode, check.stdout.strip()) == (0, str(uninterrupted))


@pytest.mark.parametrize("moment", [".tokenizer.json.*", ".train.rows.*", "train.rows"])
def test_killed_and_started_again_gives_the_same(
    tmp_path: Path, big_text: Path, uninterrupted: Path, moment: str
) -> None:
    arguments = (*PREPARE, "--dataset", big_text)
    killed = subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment(AUTOEXP_CACHE=tmp_path), stdout=subprocess.DEVNULL
    )
    folder = tmp_path / "prepared" / uninterrupted.name
    while killed.poll() is None and not any(folder.glob(moment)):
        time.sleep(0.0005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert folder.is_dir()
    if not (folder / "meta.json").exists():  # else the last instant was missed, and all is there
        assert command(*arguments, "--check", AUTOEXP_CACHE=tmp_path).returncode == 3
    run = command(*arguments, AUTOEXP_CACHE=tmp_path)
    assert run.returncode == 0, run.stderr
    assert contents(folder) == contents(uninterrupted)


def test_two_at_once_end_in_one_whole_folder(tmp_path: Path, big_text: Path, uninterrupted: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, *map(str, (*PREPARE, "--dataset", big_text))],
            env=environment(AUTOEXP_CACHE=tmp_path),
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert contents(tmp_path / "prepared" / uninterrupted.name) == contents(uninterrupted)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 3), (b"\xff\xfe\xff", 1), (b"too short", 1)],
)
def test_errors_are_two_lines(tmp_path: Path, content: bytes | None, code: int) -> None:
    path = tmp_path / "some.txt"
    if content is not None:
        path.write_bytes(content)
    run = command(*PREPARE, "--dataset", path, AUTOEXP_CACHE=tmp_path / "cache")
    assert run.returncode == code
    assert len(run.stderr.splitlines()) == 2 and "some.txt" in run.stderr


def test_out_is_used_and_foreign_files_are_left_alone(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    run = command(*PREPARE, "--dataset", text_file, "--out", tmp_path)
    assert run.returncode == 1 and "precious" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    run = command(*PREPARE, "--dataset", text_file, "--out", tmp_path / "here")
    assert run.returncode == 0 and read_prepared(tmp_path / "here") is not None


def test_a_torn_folder_is_not_ready_and_the_newest_ready_one_is_found(bundled_data: Path, tmp_path: Path) -> None:
    cache = str(bundled_data.parents[1])
    assert find_prepared("cpu", {"AUTOEXP_CACHE": cache}).folder == bundled_data
    with pytest.raises(Missing):
        find_prepared("h100", {"AUTOEXP_CACHE": cache})
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in contents(bundled_data).items():
        (copy / name).write_bytes(content[:-1] if name == "val.rows" else content)
    assert read_prepared(copy) is None
    with pytest.raises(Missing, match="AUTOEXP_DATA"):
        find_prepared("cpu", {"AUTOEXP_DATA": str(copy)})


def test_the_test_split_of_ones_own_text_is_of_documents_that_are_in_no_other(tmp_path: Path) -> None:
    documents = [f"The document {number} says {'word ' * 40}and {number} again." for number in range(400)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    source = OwnText(tmp_path / "text.jsonl", int(PIECE_CHARACTERS_PER_TOKEN * 128))
    run = command(*PREPARE, "--dataset", tmp_path / "text.jsonl", "--out", tmp_path / "here", AUTOEXP_CACHE=tmp_path)
    assert run.returncode == 0, run.stderr
    data = read_prepared(tmp_path / "here")
    assert data is not None and data.has("test")
    tokenizer = Tokenizer.load(data.folder / "tokenizer.json")
    of = {split: {text for batch in source.documents(split) for text in batch} for split in ("train", "val", "test")}
    assert not of["test"] & (of["train"] | of["val"])
    for split in ("val", "test"):
        expected = np.stack(
            list(Packer(data.seq_len + 1).rows(map(tokenizer.encode_documents, source.documents(split))))
        )
        assert np.array_equal(data.rows(split), expected)
    test = data.rows("test")
    assert data.meta["test"]["bytes"] == data.token_bytes()[test[:, 1:]].sum()
    assert data.meta["sha256"].keys() >= {"val.rows", "test.rows"}


def test_a_text_with_too_little_for_it_has_no_test_split(tmp_path: Path) -> None:
    """That validates and trains as before."""
    documents = [f"The document {number} says {'word ' * 60}and {number} again." for number in range(4000)]
    split = [split_of(number_of(each) + HELD_OUT_OF // 2) for each in documents]
    kept = [text for text, of in zip(documents, split, strict=True) if of != "test"]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in kept[:400]))
    run = command(*PREPARE, "--dataset", tmp_path / "text.jsonl", "--out", tmp_path / "here", AUTOEXP_CACHE=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "there is too little text for a test split" in run.stdout
    data = read_prepared(tmp_path / "here")
    assert data is not None and not data.has("test") and not (data.folder / "test.rows").exists()


def test_a_test_split_of_documents_that_validate_counts_as_none(tiny_data: Path, tmp_path: Path) -> None:
    """As an older release has made it: the data is ready as it was, and only an audit wants it prepared again."""
    for name, content in contents(tiny_data).items():
        (tmp_path / name).write_bytes(content)
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["made_from"]["source"]["test"] = "rest of val"
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    data = read_prepared(tmp_path)
    assert data is not None and not data.has("test") and data.has("val")
    with pytest.raises(Missing, match="no test split of its own documents"):
        data.rows("test")


def number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def test_of_the_bundled_texts_it_is_addresses_of_its_own(bundled_data: Path) -> None:
    data = read_prepared(bundled_data)
    assert data is not None and data.has("test")
    seen = {row.tobytes() for split in ("train", "val") for row in data.rows(split)}
    assert len(data.rows("test")) > data.eval_rows
    assert not seen & {row.tobytes() for row in data.rows("test")}


def test_data_without_a_test_split_is_read_and_has_none(tiny_data: Path, tmp_path: Path) -> None:
    """As releases before it was made have prepared it."""
    for name, content in contents(tiny_data).items():
        if name != "test.rows":
            (tmp_path / name).write_bytes(content)
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta["test"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    data = read_prepared(tmp_path)
    assert data is not None and not data.has("test")
    with pytest.raises(Missing, match="no test split"):
        data.rows("test")
