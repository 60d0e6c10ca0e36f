"""What a candidate's source says about itself."""

from __future__ import annotations

import hashlib

import pytest
from git import Git

from autoexp.testing import git
from autoexp.workspace.candidate import described, editable_texts
from autoexp.workspace.paths import Workspace
from autoexp.workspace.repository import Repository


def test_many_files_are_read_by_one_process(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as each would be by itself: empty, without a last line end, in another encoding, of any name."""
    folder = workspace.root / "many"
    folder.mkdir()
    texts = {f"many/{n}.py": f"A_{n} = {n}\n".encode() for n in range(100)}
    texts |= {"many/a b\n.py": b"", "many/open.py": b"x", "many/café.py": b"# caf\xe9\n\n", "many/nul": b"\0\n"}
    for name, data in texts.items():
        (workspace.root / name).write_bytes(data)
    git(workspace.root, "add", "--all")
    git(workspace.root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--message=many")
    repository, calls, real = Repository(workspace), [], Git.execute

    def execute(self: Git, command: list[str], **options: object) -> object:
        calls.append(command)
        return real(self, command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Git, "execute", execute)
    found = editable_texts(repository, "HEAD", ["many"])
    assert len(calls) == 2
    assert {name: text.encode(errors="surrogateescape") for name, text in found.items()} == {
        name: data.removesuffix(b"\n") for name, data in texts.items()
    }
    assert all(repository.show("HEAD", name) == text for name, text in list(found.items())[-6:])


def test_the_hash_of_a_program_is_the_one_that_old_journals_hold(workspace: Workspace) -> None:
    repository = Repository(workspace)
    text = (workspace.root / "train.py").read_text().removesuffix("\n")
    source, constants = described(repository, "HEAD", ["train.py"])
    assert source == hashlib.sha256(f"train.py\0{len(text)}\0{text}".encode()).hexdigest()
    assert constants == {"LR": 0.08, "DEPTH": 4}
