"""Downloads from a server that breaks the line, resumes, and once sends rubbish."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from autoexp.model import climbmix
from autoexp.model.packing import Packer
from autoexp.model.prepare import main
from autoexp.model.prepared import read_prepared
from autoexp.model.shards import damage
from autoexp.model.tokenizer import Tokenizer

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


class Server(ThreadingHTTPServer):
    """Serves files by name. What it does wrong: `cut` ends answers after so many bytes, `rubbish` is sent once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.rubbish: set[str] = set()
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        asked = self.headers.get("Range")
        self.server.requests.append((name, asked))
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        if name in self.server.rubbish:
            self.server.rubbish.discard(name)
            middle = len(content) // 2
            content = content[: middle - 500] + b"\x00" * 1000 + content[middle + 500 :]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0  # type: ignore[index]
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.cut is None else start + self.server.cut
        self.wfile.write(content[start:end])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(text: str, tmp_path: Path) -> Iterator[Server]:
    serving = Server()
    paragraphs = text.split("\n\n")
    third = len(paragraphs) // 3
    for index, number in enumerate((0, 1, climbmix.VAL_SHARD)):
        path = tmp_path / "served.parquet"
        texts = paragraphs[index * third : (index + 1) * third]
        parquet.write_table(arrow.table({"text": texts}), path, row_group_size=200)
        serving.files[climbmix.shard_name(number)] = path.read_bytes()
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(climbmix, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


def run(server: Server, cache: Path, *more: str) -> int:
    return main(
        [
            "--dataset",
            "climbmix",
            "--profile",
            "cpu",
            "--shards",
            "2",
            "--url",
            server.url,
            "--cache",
            str(cache),
            *more,
        ]
    )


def shards(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "climbmix").iterdir()}


def test_a_line_that_breaks_again_and_again_is_resumed(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut = 20_000
    assert run(server, cache, "--json") == 0
    assert shards(cache) == server.files
    resumed = [asked for _, asked in server.requests if asked]
    assert "bytes=20000-" in resumed and len(resumed) > 3
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["dataset"] == "climbmix" and facts["val"]["rows"] <= 512

    server.requests.clear()
    assert run(server, cache) == 0
    assert server.requests == []


def test_a_server_without_ranges_sends_it_all_again(server: Server, cache: Path) -> None:
    (cache / "climbmix").mkdir(parents=True)
    (cache / "climbmix" / "shard_00000.parquet.part").write_bytes(b"an old beginning")
    server.ranges = False
    assert run(server, cache) == 0
    assert shards(cache) == server.files


@pytest.mark.parametrize("ranges", [True, False])
def test_a_damaged_shard_is_named_and_fetched_again(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str], ranges: bool
) -> None:
    server.ranges = ranges
    server.rubbish = {"shard_00001.parquet"}
    assert run(server, cache) == 0
    assert "shard_00001.parquet came damaged" in capsys.readouterr().out
    assert shards(cache) == server.files


def test_a_shard_cut_off_on_disk_is_named_and_fetched_again(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "climbmix").mkdir(parents=True)
    for name, content in server.files.items():
        (cache / "climbmix" / name).write_bytes(content[:-100] if name == "shard_00000.parquet" else content)
    assert run(server, cache) == 0
    assert "shard_00000.parquet is damaged" in capsys.readouterr().out
    assert Counter(name for name, _ in server.requests) == {"shard_00000.parquet": 1}
    assert shards(cache) == server.files


def test_a_leftover_longer_than_the_shard_is_thrown_away(server: Server, cache: Path) -> None:
    (cache / "climbmix").mkdir(parents=True)
    longer = server.files["shard_00000.parquet"] + b"more"
    (cache / "climbmix" / "shard_00000.parquet.part").write_bytes(longer)
    assert run(server, cache) == 0
    assert shards(cache) == server.files


def test_shards_of_the_reference_are_used_where_they_lie(server: Server, cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "home" / ".cache" / "autoresearch" / "data"
    elsewhere.mkdir(parents=True)
    for name, content in server.files.items():
        (elsewhere / name).write_bytes(content)
    assert run(server, cache) == 0
    assert server.requests == [] and not (cache / "climbmix").exists()


def test_only_the_damaged_shard_of_the_reference_is_fetched(
    server: Server, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "home" / ".cache" / "autoresearch" / "data"
    elsewhere.mkdir(parents=True)
    for name, content in server.files.items():
        (elsewhere / name).write_bytes(content[:-100] if name == "shard_00001.parquet" else content)
    assert run(server, cache) == 0
    assert f"{elsewhere / 'shard_00001.parquet'} is damaged" in capsys.readouterr().out
    assert [name for name, _ in server.requests] == ["shard_00001.parquet"]
    assert (elsewhere / "shard_00001.parquet").stat().st_size < len(server.files["shard_00001.parquet"])


@pytest.mark.parametrize(
    ("table", "reason"),
    [({"text": [""] * 9}, "no text"), ({"body": ["words"]}, "text"), ({"text": [b"\xff\xfe"]}, "UTF8|UTF-8|utf8")],
)
def test_a_file_without_text_is_damaged(tmp_path: Path, table: dict[str, list[object]], reason: str) -> None:
    columns = arrow.table(table)
    if columns.schema.field(0).type == arrow.binary():  # written as text, though it is none
        columns = arrow.table({"text": columns["text"].combine_chunks().view(arrow.string())})
    parquet.write_table(columns, tmp_path / "x.parquet")
    assert re.search(reason, damage(tmp_path / "x.parquet") or "")


def test_what_is_not_there_is_told_in_two_lines(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del server.files["shard_00001.parquet"]
    assert run(server, cache) == 3
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2 and "shard_00001.parquet" in error[0]
    server.shutdown()
    server.server_close()
    assert run(server, cache) == 3


def test_validation_rows_are_the_references_and_the_test_split_is_what_comes_after_them(
    server: Server, cache: Path, text: str, tmp_path: Path
) -> None:
    """The reference packs the validation shard from its start, so many rows as it evaluates."""
    parquet.write_table(arrow.table({"text": 5 * text.split("\n\n")}), tmp_path / "val.parquet", row_group_size=200)
    server.files[climbmix.shard_name(climbmix.VAL_SHARD)] = (tmp_path / "val.parquet").read_bytes()
    assert run(server, cache) == 0
    data = read_prepared(next((cache / "prepared").glob("climbmix-cpu-*")))
    assert data is not None and data.has("test")
    tokenizer = Tokenizer.load(data.folder / "tokenizer.json")
    batches = climbmix.ClimbMix(cache, 2, server.url).documents("val")
    expected = np.stack(list(Packer(data.seq_len + 1).rows(map(tokenizer.encode_documents, batches))))
    val, test = data.rows("val"), data.rows("test")
    assert len(val) == data.eval_rows == 512
    assert np.array_equal(val, expected[:512])
    assert 50 < len(test) <= 512
    assert np.array_equal(test, expected[512 : 512 + len(test)])


def test_a_shard_that_validation_takes_whole_leaves_no_test_split(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read again for validation, as the reference does; what comes then was validated on already."""
    assert run(server, cache) == 0
    data = read_prepared(next((cache / "prepared").glob("climbmix-cpu-*")))
    assert data is not None and not data.has("test")
    assert not (data.folder / "test.rows").exists()
    assert "there is too little text for a test split" in capsys.readouterr().out
