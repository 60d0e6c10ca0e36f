"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from autoexp.errors import AutoexpError, DiskFullError
from autoexp.workspace.files import tail, write_atomic


def test_it_writes_text_and_bytes_into_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "text", "ü\n")
    write_atomic(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_text() == "ü\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_bytes_that_were_no_text_come_back_and_no_text_is_refused(tmp_path: Path) -> None:
    latin = b"# caf\xe9\n"
    write_atomic(tmp_path / "latin", latin.decode(errors="surrogateescape"))
    assert (tmp_path / "latin").read_bytes() == latin
    write_atomic(tmp_path / "lone", "a\ud800\udfffb")
    assert (tmp_path / "lone").read_text() == "a\ufffd\ufffdb"


def test_a_reader_sees_the_old_or_the_new_file_and_never_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [b"a" * 300_000, b"b" * 200_000]
    write_atomic(path, contents[0])
    done = threading.Event()
    seen = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes() in contents)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        write_atomic(path, contents[number % 2])
    done.set()
    reader.join()
    assert seen
    assert all(seen)


@pytest.mark.parametrize("durable", [True, False])
def test_only_what_is_to_be_durable_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd))[1])
    write_atomic(tmp_path / "file", "text", durable=durable)
    assert (tmp_path / "file").read_text() == "text"
    assert synced == ([4] if durable else [])


def test_others_may_read_it_as_far_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    path = small_disk / "file"
    write_atomic(path, "old")
    with pytest.raises(DiskFullError, match="no space left") as caught:
        write_atomic(path, b"x" * 1_000_000)
    assert "free some space" in caught.value.hint
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["file"]
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_any_other_failure_is_told_in_the_systems_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AutoexpError, match=r"cannot write .*(Not a directory|File exists)"):
        write_atomic(tmp_path / "file" / "below", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AutoexpError, match="Is a directory"):
        write_atomic(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(
    ("content", "size", "said"),
    [
        (b"hello", 100, "hello"),
        (b"hello", 3, "llo"),
        (b"", 10, ""),
        (b"a\x00b", 10, "ab"),
        ("ü".encode() * 2, 3, "\ufffdü"),
    ],
)
def test_the_end_of_a_file_is_text_whatever_is_in_it(tmp_path: Path, content: bytes, size: int, said: str) -> None:
    (tmp_path / "log").write_bytes(content)
    assert tail(tmp_path / "log", size) == said
    assert tail(tmp_path / "none", size) == ""


def test_a_pipe_in_a_files_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert tail(tmp_path / "pipe", 10) == ""
