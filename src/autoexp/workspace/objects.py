"""Many commits, trees and files at once: git's objects by one process for hundreds of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from autoexp.workspace.repository import Repository

TREE = "40000"


@dataclass(frozen=True)
class Commit:
    """What it holds, and what it came from."""

    tree: str
    parents: tuple[str, ...]


class Objects:
    """The objects of a repository, each read once."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.trees: dict[str, list[tuple[str, str, str]]] = {}
        """Of each tree its entries: (mode, name, object)."""
        self._files: dict[str, dict[str, str]] = {}
        self._texts: dict[str, str] = {}

    def commits(self, names: Collection[str]) -> dict[str, Commit | None]:
        """Each of these commits; None where it is not there."""
        found: dict[str, Commit | None] = {}
        for name, (kind, data) in self._read(names).items():
            if kind != "commit":
                found[name] = None
                continue
            head = data.partition(b"\n\n")[0].decode(errors="replace").splitlines()
            words = [line.split(" ", 1) for line in head]
            tree = next(rest for word, rest in words if word == "tree")
            found[name] = Commit(tree, tuple(rest for word, rest in words if word == "parent"))
        return found

    def load_trees(self, names: Collection[str]) -> None:
        """Read these trees and all below them."""
        left = {name for name in names if name not in self.trees}
        while left:
            for name, (kind, data) in self._read(left).items():
                self.trees[name] = list(_entries(data, len(name) // 2)) if kind == "tree" else []
            below = {blob for name in left for mode, _, blob in self.trees[name] if mode == TREE}
            left = {name for name in below if name not in self.trees}

    def files(self, tree: str) -> dict[str, str]:
        """Path to blob of everything below a tree that was loaded, in git's order."""
        known = self._files.get(tree)
        if known is None:
            known = {}
            for mode, name, blob in self.trees[tree]:
                if mode == TREE:
                    known |= {f"{name}/{path}": each for path, each in self.files(blob).items()}
                else:
                    known[name] = blob
            if len(self._files) < 10_000:
                self._files[tree] = known
        return known

    def changed(self, one: str, other: str, folder: str = "") -> Iterator[tuple[str, str]]:
        """(path, its mode in `other`, 000000 when it is gone) of what differs. What is the same is not gone into."""
        if one == other:
            return
        before = {name: (mode, blob) for mode, name, blob in self.trees.get(one, [])}
        after = {name: (mode, blob) for mode, name, blob in self.trees.get(other, [])}
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name), after.get(name)
            if old == new:
                continue
            trees = [each[1] if each is not None and each[0] == TREE else "" for each in (old, new)]
            if any(trees):
                yield from self.changed(trees[0], trees[1], f"{folder}{name}/")
            files = [each if each is not None and each[0] != TREE else None for each in (old, new)]
            if files[0] != files[1]:
                yield f"{folder}{name}", files[1][0] if files[1] is not None else "000000"

    def texts(self, blobs: Collection[str]) -> dict[str, str]:
        """The texts of blobs, as `Repository.texts` gives them."""
        wanted = [blob for blob in blobs if blob not in self._texts]
        self._texts |= dict(zip(wanted, self.repository.texts(wanted), strict=True))
        return self._texts

    def forget_blobs(self) -> None:
        self._texts.clear()

    def _read(self, names: Collection[str]) -> dict[str, tuple[str, bytes]]:
        return self.repository.objects(list(dict.fromkeys(names)))


def _entries(data: bytes, size: int) -> Iterator[tuple[str, str, str]]:
    """A tree's entries; an object's name takes `size` bytes."""
    place = 0
    while place < len(data):
        space = data.index(b" ", place)
        end = data.index(b"\0", space)
        mode, name = data[place:space].decode(), data[space + 1 : end].decode(errors="surrogateescape")
        yield mode, name, data[end + 1 : end + 1 + size].hex()
        place = end + 1 + size
