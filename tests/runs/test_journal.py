"""The journal: append, torn ends, damage, newer formats, a full disk, and old journals for ever."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoexp.errors import DiskFullError, JournalError
from autoexp.runs import journal
from autoexp.runs.events import FORMAT, Noted, RunCreated, SessionClosed, SetupDone
from autoexp.runs.journal import Journal, read
from autoexp.runs.records import Metric
from autoexp.runs.state import replay
from autoexp.session import views

JOURNALS = Path(__file__).parents[1] / "journals"
CREATED = RunCreated(run_id="r", branch="b", base="0" * 40, seed=0, metric=Metric())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "history.jsonl"
    journal.create(file, [CREATED])
    return file


def test_what_is_appended_is_read_back_in_order(path: Path) -> None:
    open_journal = Journal(path)
    events = [SetupDone(), Noted(text="line one\nline two \u2028 ü \x85"), Noted(text="")]
    for event in events:
        open_journal.append(event)
        assert open_journal.size == path.stat().st_size
    open_journal.close()
    assert read(path) == [CREATED, *events]


@pytest.mark.parametrize("text", ["\ud800", "a \udcff\n\x00b", "\udfff\ud83d"])
def test_no_text_of_an_event_keeps_it_out_of_the_journal(path: Path, text: str) -> None:
    """It would do so again on every resume, and the run could never go on."""
    open_journal = Journal(path)
    open_journal.append(Noted(text=text))
    open_journal.append(SessionClosed(reason="error", detail=text, hint=text))
    open_journal.close()
    _, noted, closed = read(path)
    told = "".join("?" if "\ud800" <= char <= "\udfff" else char for char in text)
    assert isinstance(noted, Noted) and noted.text == told
    assert isinstance(closed, SessionClosed) and closed.detail == told


def test_an_event_is_on_the_disk_when_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order counts: written, then fsynced, then told."""
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd))[1])
    open_journal = Journal(path)
    open_journal.append(SetupDone())
    assert synced == [path.stat().st_size]
    open_journal.close()


def test_a_journal_is_created_once(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        journal.create(path, [CREATED])
    assert path.read_bytes() == before


def test_a_torn_last_line_is_left_out_when_read_and_cut_off_when_opened(path: Path) -> None:
    """At every length that a crash may leave of the last line."""
    whole = path.read_bytes()
    line = journal.encode(SetupDone())
    for length in range(len(line)):
        path.write_bytes(whole + line[:length])
        assert read(path) == [CREATED]
        assert path.read_bytes() == whole + line[:length]  # a reader changes nothing
        open_journal = Journal(path)
        assert path.read_bytes() == whole
        open_journal.append(Noted(text="next"))
        open_journal.close()
        assert [event.type for event in read(path)] == ["run_created", "noted"]


@pytest.mark.parametrize(
    "damage", [b"\x00" * 20, b"{}", b"", b"not json", b'{"type": "setup_done"', b"[1]", b"\xff\xfe"]
)
def test_a_damaged_line_in_the_middle_is_refused_and_named(path: Path, damage: bytes) -> None:
    path.write_bytes(path.read_bytes() + damage + b"\n" + journal.encode(SetupDone()))
    before = path.read_bytes()
    with pytest.raises(JournalError, match="line 2") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        {**json.loads(CREATED.model_dump_json()), "format": FORMAT + 1},
        {**json.loads(CREATED.model_dump_json()), "format": FORMAT + 1, "metric": "another shape"},
        {**json.loads(CREATED.model_dump_json()), "a_field_of_tomorrow": 1},
    ],
)
def test_a_newer_releases_journal_is_refused_with_the_way_out(path: Path, line: dict[str, object]) -> None:
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(JournalError, match="newer release") as caught:
        read(path)
    assert "upgrade" in caught.value.hint


def test_an_event_of_a_newer_release_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"type": "invented_tomorrow", "at": 1.0}\n')
    with pytest.raises(JournalError, match="newer release"):
        read(path)


@pytest.mark.parametrize("content", [b"", b'{"type": "run_cre'])
def test_a_journal_without_a_whole_line_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty").write_bytes(content)
    with pytest.raises(JournalError, match="empty"):
        read(tmp_path / "empty")


def test_a_missing_journal_is_refused(tmp_path: Path) -> None:
    for opener in (read, Journal):
        with pytest.raises(JournalError, match="No such file"):
            opener(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_full_disk_leaves_the_old_content_and_once_freed_it_goes_on(path: Path) -> None:
    """By the limit on a file's size, which needs no root: the write is short, then refused."""
    before = path.read_bytes()
    open_journal = Journal(path)
    long = Noted(text="x" * 500)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for room in (0, 1, 100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
            with pytest.raises((DiskFullError, JournalError)) as caught:
                open_journal.append(long)
            assert "resume" in caught.value.hint
            assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    open_journal.append(long)
    open_journal.close()
    assert read(path) == [CREATED, long]


def test_no_space_left_on_the_device(small_disk: Path) -> None:
    """On a real file system that is full."""
    path = small_disk / "history.jsonl"
    journal.create(path, [CREATED])
    open_journal = Journal(path)
    (small_disk / "filler").write_bytes(b"x" * (small_disk / ".").stat().st_blksize)
    with (small_disk / "filler").open("ab", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(b"x" * 4096)
    with pytest.raises(DiskFullError, match="no space left") as caught:
        for _ in range(100):  # the journal's own last block has room for some
            before = path.read_bytes()
            open_journal.append(Noted(text="x" * 500))
    assert "free some space" in caught.value.hint
    assert path.read_bytes() == before
    (small_disk / "filler").unlink()
    open_journal.append(SetupDone())
    open_journal.close()
    assert read(path)[-1].type == "setup_done"


def test_a_kill_in_the_middle_of_appending_loses_no_told_event(path: Path) -> None:
    """A process appends and tells the number of each; after SIGKILL all that it told are there, whole."""
    program = (
        "import sys; from pathlib import Path\n"
        "from autoexp.runs.journal import Journal; from autoexp.runs.events import Noted\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(100000):\n"
        "    journal.append(Noted(text=str(n) + 'x' * 5000)); print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(200)]
        process.kill()
        told += [int(line) for line in process.stdout.read().splitlines()]
    found = [event.text.rstrip("x") for event in read(path) if isinstance(event, Noted)]
    assert found[: len(told)] == [str(n) for n in told]
    assert len(found) - len(told) in (0, 1)


@pytest.mark.parametrize("file", sorted(JOURNALS.glob("*.jsonl")), ids=lambda file: file.stem)
def test_an_old_journal_is_read_for_ever(file: Path) -> None:
    """Real journals of released formats; the summary beside each was written by the release that wrote the journal."""
    state = replay(read(file))
    expected = json.loads(file.with_suffix(".expected.json").read_text())
    trials = [trial.model_dump(mode="json", include=set(expected["trials"][0])) for trial in state.trials]
    assert trials == expected["trials"]
    assert (state.best.model_dump() if state.best else None) == expected["best"]
    assert views.results(state).splitlines() == expected["results"]
    for name in ("run_id", "branch", "base", "seed", "setup_done", "baseline_closed", "next_number", "stopping"):
        assert getattr(state, name) == expected[name]


def test_there_are_old_journals_to_read() -> None:
    assert {"keep-discard-crash-1"} <= {file.stem for file in JOURNALS.glob("*.jsonl")}


@pytest.mark.parametrize("how", ["removed", "replaced", "lengthened", "emptied"])
def test_a_journal_that_somebody_changes_while_it_is_open_is_put_back(path: Path, how: str) -> None:
    opened = Journal(path)
    opened.append(SetupDone())
    if how == "removed":
        path.unlink()
    elif how == "lengthened":
        with path.open("ab") as file:
            file.write(b'{"type":"noted","text":"forged"}\nand half a')
    elif how == "emptied":
        os.truncate(path, 0)
    else:
        replacement = path.with_name("other")
        replacement.write_text("nothing of a journal\n")
        os.replace(replacement, path)

    opened.append(Noted(text="still here"))

    assert [event.type for event in read(path)] == ["run_created", "setup_done", "noted"]
