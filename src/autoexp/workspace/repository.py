"""Git, beside the user and never on top of them: worktrees and refs of the run's own, through GitPython.

Nothing here touches the user's checkout, index, stash or HEAD. A worktree's git commands name their git directory,
so that a worktree whose `.git` file was deleted can never be mistaken for the checkout around it.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from git import Git
from git.exc import CommandError, GitCommandNotFound

from autoexp.errors import PreconditionError, RepositoryError
from autoexp.workspace.paths import Workspace

NOBODY = {"GIT_AUTHOR_NAME": "autoexp", "GIT_COMMITTER_NAME": "autoexp"} | {
    "GIT_AUTHOR_EMAIL": "autoexp@localhost",
    "GIT_COMMITTER_EMAIL": "autoexp@localhost",
}
"""The identity of candidate commits where the user has none; these commits are the tool's, not theirs."""
_INHERITED = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|PREFIX|OBJECT_DIRECTORY|COMMON_DIR|NAMESPACE|EXTERNAL_DIFF|\w+_PATHSPECS|TRACE\w*)"
)
"""Variables that would point every command at the wrong place (a git hook sets them), or change what it says."""
MESSAGE_LIMIT = 10_000
"""Characters of a commit message: it is an argument of a command, and those have limits."""
_OWN = ("-c", "core.hooksPath=/dev/null", "-c", "core.safecrlf=false", "-c", "core.sparseCheckout=false")
"""Hooks are written for the user's checkout and commits, and none sees what is done here; nor is it refused. And a
candidate is whole: a file that a sparse checkout leaves out could be edited unseen."""
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
"""No look at the checkout may refresh the user's index, no command may wait for an answer, messages are in English."""
PLAIN_DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3")
"""A diff as `git apply` reads it, whatever the user's configuration says of diffs."""
_ABSOLUTE = ("-c", "worktree.useRelativePaths=false")
"""A worktree and its repository name each other in full, as `_worktree_env` compares them."""
REGULAR = ("100644", "100755")
_SAME_NAMES = re.compile(r"^(?:diff --git (.+) \1|--- (?!/dev/null)(.+?)(?:\t.*)?\n\+\+\+ \2(?:\t.*)?)$", re.MULTILINE)
"""Both sides of a diff have one name: it was made under `diff.noprefix`."""


@dataclass(frozen=True)
class Change:
    """One path that differs: `mode` is git's, '000000' when the file is gone."""

    path: str
    mode: str


def refs(run_id: str) -> str:
    """Where a run keeps its candidates and its best."""
    return f"refs/autoexp/{run_id}"


def candidate_ref(run_id: str, iteration: int, attempt: int) -> str:
    return f"{refs(run_id)}/{iteration:04d}-{attempt}"


def tree_ref(run_id: str, iteration: int, attempt: int) -> str:
    """What holds the edited tree of an attempt until it is committed."""
    return f"{candidate_ref(run_id, iteration, attempt)}-tree"


def matches(path: str, globs: Sequence[str]) -> bool:
    """Whether a path is named by one of the globs; a glob that names a folder covers what is in it.

    `*` and `?` stay within one folder, `**/` is any number of folders.
    """
    return any(_pattern(glob).fullmatch(path) is not None for glob in globs)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    glob = posixpath.normpath(glob)
    if glob == ".":
        return re.compile(".*", re.DOTALL)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^]/]*\])", glob)
    # every second part is a wildcard
    said = [_wildcard(part, words) if place % 2 else re.escape(part) for place, part in enumerate(parts)]
    return re.compile("".join(said) + "(?:/.*)?", re.DOTALL)


def _wildcard(part: str, words: Mapping[str, str]) -> str:
    if part in words:
        return words[part]
    letters = part[1:-1].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("&", "\\&")
    try:
        said = f"[^/{letters[1:]}]" if letters.startswith("!") else f"(?!/)[{letters.replace('^', chr(92) + '^')}]"
        re.compile(said)
    except re.error:  # `[z-a]`: no range, so it is taken word for word
        return re.escape(part)
    return said


class Repository:
    """The git repository of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        """Raises PreconditionError when there is no git, or no repository."""
        for name in [name for name in os.environ if _INHERITED.fullmatch(name)]:
            del os.environ[name]
        self.root = workspace.root
        # Git() would expand `$NAME` in its folder, and run in the process's own when that is not there: -C says where
        self._git = Git("/")
        try:
            self.common = Path(self.run("rev-parse", "--path-format=absolute", "--git-common-dir"))
        except RepositoryError as error:
            said = str(error).removeprefix("git rev-parse failed: ").partition("\n")[0]
            raise PreconditionError(f"{self.root} is no git repository: {said}", f"git init {self.root}") from error

    # -- asking ---------------------------------------------------------------------------------------------------

    def run(self, *args: str, env: Mapping[str, str] | None = None, at: Path | None = None) -> str:
        """The output of a git command, less a newline at its end. Raises RepositoryError with git's own words."""
        said = self._raw(*args, env=env, at=at)
        return said.removesuffix(b"\n").decode(errors="surrogateescape")

    def _raw(
        self, *args: str, env: Mapping[str, str] | None = None, at: Path | None = None, feed: bytes = b""
    ) -> bytes:
        """The output of a git command to which `feed` is typed."""
        command = ["git", *_OWN, "-C", str(at or self.root), *args]
        environ = {**_QUIET, **(env or {})}
        try:
            with tempfile.TemporaryFile() if feed else nullcontext() as typed:
                if typed is not None:
                    typed.write(feed)
                    typed.seek(0)
                said = self._git.execute(
                    command, istream=typed, env=environ, stdout_as_string=False, strip_newline_in_stdout=False
                )
        except GitCommandNotFound as error:
            raise PreconditionError("git is not on PATH", "install git, then: autoexp doctor") from error
        except CommandError as error:
            words = str(error.stderr).strip().removeprefix("stderr: ").strip("' \n")
            name = next(word for word in args if not word.startswith("-") and "=" not in word)
            raise RepositoryError(f"git {name} failed: {words or error.status}", "autoexp doctor") from error
        assert isinstance(said, bytes)
        return said

    def _try(self, *args: str, env: Mapping[str, str] | None = None) -> str | None:
        try:
            return self.run(*args, env=env)
        except RepositoryError:
            return None

    def head(self) -> str:
        """The commit that is checked out. Raises PreconditionError when there is none yet."""
        commit = self.resolve("HEAD")
        if commit is None:
            raise PreconditionError(
                f"{self.root} has no commit yet", "autoexp init . (or: git add -A && git commit -m start)"
            )
        return commit

    def resolve(self, name: str) -> str | None:
        """The full hash of a commit; None when there is no such."""
        return self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")

    def show(self, commit: str, path: str) -> str | None:
        """A file's text at a commit; None when it is not there."""
        return self._try("cat-file", "blob", f"{commit}:{path}")

    def files(self, commit: str) -> list[str]:
        """All paths of a commit."""
        return list(self.blobs(commit))

    def blobs(self, commit: str) -> dict[str, str]:
        """All paths of a commit, with the names of their blobs."""
        lines = (line.split("\t", 1) for line in self.run("ls-tree", "-r", "-z", commit).split("\0") if line)
        return {path: entry.split()[2] for entry, path in lines}

    def texts(self, blobs: Sequence[str]) -> list[str]:
        """The texts of blobs, as `show` gives them, by one process for all; '' for one that is not there."""
        read = self.objects(blobs)
        return [read[blob][1].removesuffix(b"\n").decode(errors="surrogateescape") for blob in blobs]

    def objects(self, names: Sequence[str]) -> dict[str, tuple[str, bytes]]:
        """(kind, bytes) of objects, by one process for all; ("missing", b"") of one that is not there."""
        raw = self._raw("cat-file", "--batch", feed="".join(f"{name}\n" for name in names).encode()) if names else b""
        found, place = {}, 0
        for name in names:
            end = raw.index(b"\n", place)
            words = raw[place:end].split()
            place = end + 1
            if words[-1] == b"missing":  # a submodule's commit
                found[name] = "missing", b""
                continue
            size = int(words[2])
            found[name] = words[1].decode(), raw[place : place + size]
            place += size + 1
        return found

    def held(self, prefix: str) -> dict[str, str]:
        """The refs below `prefix`, each with what it points at."""
        lines = self.run("for-each-ref", "--format=%(refname) %(objectname)", f"{prefix}/").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def read(self, commit: str, path: str) -> bytes | None:
        """A file's bytes at a commit; None when it is not there."""
        try:
            return self._raw("cat-file", "blob", f"{commit}:{path}")
        except RepositoryError:
            return None

    def tree_with(self, commit: str, files: Mapping[str, bytes | None]) -> str:
        """The tree of `commit` with other contents of these files; None removes one. No worktree is touched."""
        with tempfile.TemporaryDirectory(prefix="autoexp-index-") as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.run("read-tree", commit, env=env)
            modes = self._modes(commit, list(files))
            for path, data in files.items():
                if data is None:
                    self.run("update-index", "--force-remove", "--", path, env=env)
                    continue
                file = Path(folder) / "blob"
                file.write_bytes(data)
                blob = self.run("hash-object", "-w", "--no-filters", "--", str(file))
                entry = f"{modes.get(path, REGULAR[0])},{blob},{path}"
                self.run("update-index", "--add", "--cacheinfo", entry, env=env)
            return self.run("write-tree", env=env)

    def _modes(self, commit: str, paths: Sequence[str]) -> dict[str, str]:
        listed = self.run("ls-tree", "-r", "-z", commit).split("\0")
        entries = (line.split("\t", 1) for line in listed if line)
        return {path: entry.split()[0] for entry, path in entries if path in paths}

    def run_ids(self) -> set[str]:
        """The runs that have refs here. All worktrees of the user's share one repository, and so these."""
        named = self.run("for-each-ref", "--format=%(refname)", "refs/autoexp/").split("\n")
        return {name.split("/")[2] for name in named if name}

    def diff(self, base: str, commit: str, paths: Sequence[str] = ()) -> str:
        """What changed between two commits; with `paths` in these files only."""
        literal = [f":(top,literal){path}" for path in paths]
        return self.run("diff", *PLAIN_DIFF, base, commit, "--", *literal)

    def growth(self, base: str, commit: str) -> int:
        """Lines that a commit has more than `base`; what is no text counts as nothing."""
        rows = (line.split("\t") for line in self.run("diff", "--numstat", "--no-ext-diff", base, commit).splitlines())
        return sum(int(row[0]) - int(row[1]) for row in rows if row[0].isdigit() and row[1].isdigit())

    def uncommitted(self, paths: Sequence[str]) -> str:
        """The user's uncommitted edits of these paths, as a patch."""
        text = self.run("diff", *PLAIN_DIFF, "HEAD", "--", *paths)
        return text + "\n" if text else ""

    def is_ancestor(self, older: str, newer: str) -> bool:
        return self._try("merge-base", "--is-ancestor", older, newer) is not None

    def valid_branch(self, name: str) -> bool:
        return self._try("check-ref-format", "--branch", name) is not None

    @cache  # noqa: B019 - a repository lives as long as its session
    def identity(self) -> dict[str, str]:
        """Nothing when the user has a name and an address, else the tool's own as environment variables."""
        known = self._try("var", "GIT_COMMITTER_IDENT") is not None and self._try("var", "GIT_AUTHOR_IDENT") is not None
        return {} if known else NOBODY

    # -- worktrees ------------------------------------------------------------------------------------------------

    def checkout(self, path: Path, commit: str, link: Sequence[str] = (), exactly: bool = False) -> None:
        """Make `path` a worktree that holds `commit`, plus symbolic links to the workspace's `link` paths.

        Whatever state it was left in, it is mended or made anew; with `exactly` it is then compared, file by file.
        Raises RepositoryError.
        """
        try:
            env = self._worktree_env(path)
            if env is None:
                raise RepositoryError("not a worktree of this run")
            # a new index: the old one may say of an edited file that it is not to be looked at (--skip-worktree)
            Path(env["GIT_DIR"], "index").unlink(missing_ok=True)
            self.run("read-tree", commit, env=env, at=path)
            # before the checkout: a .gitattributes that was left here would change what is checked out
            self.run("clean", "--quiet", "-ffdx", env=env, at=path)
            self.run("checkout", "--quiet", "--force", "--detach", commit, env=env, at=path)
            if exactly and self.changes(path, commit)[1]:
                raise RepositoryError("its files are not the commit's")
        except RepositoryError:
            self.remove_worktree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # forced twice: git may have been killed while it made the one before, which is then locked
            add = ("worktree", "add", "--quiet", "--force", "--force", "--detach")
            self.run(*_ABSOLUTE, *add, str(path), commit)
        for name in link:
            target = self.root / name
            if target.exists() and not (path / name).exists():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).symlink_to(target)

    def remove_worktree(self, path: Path) -> None:
        """Remove whatever is there, read-only folders too. Raises RepositoryError that names what stays."""
        try:
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.exists():
                _remove(path)
        except OSError as error:
            raise RepositoryError(
                f"cannot remove {path}: {error.filename}: {error.strerror}", f"rm -r {path}, then: autoexp resume"
            ) from error
        self.run("worktree", "prune")

    def _worktree_env(self, path: Path) -> dict[str, str] | None:
        """GIT_DIR and GIT_WORK_TREE of a worktree; None when it is none, or git was killed in it (a lock is left)."""
        try:
            pointer = (path / ".git").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        folder = Path(pointer.removeprefix("gitdir: "))
        if path.is_symlink() or folder.parent != self.common / "worktrees" or not folder.is_dir():
            return None
        if any(folder.glob("*.lock")):
            return None
        try:  # it may be another's: a worktree of the user's has its HEAD and its index in there
            back = Path((folder / "gitdir").read_text().removesuffix("\n"))
        except (OSError, UnicodeDecodeError):
            return None
        if back != path / ".git" and back != path.parent.resolve() / path.name / ".git":
            return None
        return {"GIT_DIR": str(folder), "GIT_WORK_TREE": str(path)}

    # -- candidates -----------------------------------------------------------------------------------------------

    def changes(self, path: Path, base: str, ignore: Sequence[str] = ()) -> tuple[str, list[Change]]:
        """What differs between `base` and the files of a worktree, committed or not: (tree, changes).

        The tree holds every change. Files that .gitignore names do not count, nor do those that nobody touched but
        that git would store otherwise than they are (un-normalised line ends, filters).
        """
        with self._index(path) as env:
            self.run("read-tree", base, env=env, at=path)
            excluded = [f":(exclude,top,literal){name}" for name in ignore]
            self.run("add", "--all", "--", ":/", *excluded, env=env, at=path)
            raw = self._differing(base, env, path)
            same = self._untouched(path, base, raw)
            if same:
                lines = "".join(f"{mode} {blob}\t{name}\0" for name, (mode, _, blob, _) in raw.items() if name in same)
                feed = lines.encode(errors="surrogateescape")
                self._raw("update-index", "-z", "--index-info", env=env, at=path, feed=feed)
            tree = self.run("write-tree", env=env, at=path)
        return tree, [Change(name, mode) for name, (_, mode, _, _) in raw.items() if name not in same]

    def with_only(self, base: str, tree: str, paths: Sequence[str]) -> str:
        """The tree of `base` with these paths as they are in `tree`: all other differences are undone."""
        entries = (line.split("\t", 1) for line in self.run("ls-tree", "-r", "-z", tree).split("\0") if line)
        wanted = set(paths)
        lines = "".join(f"{entry}\t{path}\0" for entry, path in entries if path in wanted)
        with tempfile.TemporaryDirectory(prefix="autoexp-index-") as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.run("read-tree", base, env=env)
            feed = lines.encode(errors="surrogateescape")
            self._raw("update-index", "-z", "--index-info", env=env, feed=feed)
            return self.run("write-tree", env=env)

    def staged(self, base: str, env: Mapping[str, str]) -> list[Change]:
        """What differs between `base` and an index that `env` names."""
        return [Change(name, mode) for name, (_, mode, _, _) in self._differing(base, env, None).items()]

    def _differing(self, base: str, env: Mapping[str, str], at: Path | None) -> dict[str, tuple[str, str, str, str]]:
        """path: (mode, mode now, blob, blob now) of what differs between `base` and the index."""
        raw = self.run("diff-index", "--cached", "--no-renames", "-z", base, env=env, at=at)
        fields = [field for field in raw.split("\0") if field]
        found = {}
        for entry, name in zip(fields[::2], fields[1::2], strict=True):
            before, after, old, new, _ = entry.removeprefix(":").split()
            found[name] = (before, after, old, new)
        return found

    def _untouched(self, path: Path, base: str, raw: Mapping[str, tuple[str, str, str, str]]) -> set[str]:
        """Those of the paths that differ whose files are, byte for byte, what a checkout of `base` would make."""
        same, unsure = set(), []
        for name, (before, after, old, new) in raw.items():
            if before != after or after not in REGULAR:
                continue
            try:
                data = (path / name).read_bytes()
            except OSError:
                continue
            blob = _blob(data, old)
            if blob == old:
                same.add(name)
            elif blob != new or self._one_way():  # else nothing is converted, and it is as different as it looks
                unsure.append((name, data))
        if unsure:
            with tempfile.TemporaryDirectory(prefix="autoexp-pristine-") as folder, self._index(path) as env:
                env["GIT_WORK_TREE"] = folder
                self.run("read-tree", base, env=env, at=Path(folder))
                feed = "".join(f"{name}\0" for name, _ in unsure).encode(errors="surrogateescape")
                self._raw("checkout-index", "--quiet", "-z", "--stdin", env=env, at=Path(folder), feed=feed)
                same |= {name for name, data in unsure if (Path(folder) / name).read_bytes() == data}
        return same

    @cache  # noqa: B019 - a repository lives as long as its session
    def _one_way(self) -> bool:
        """Whether a filter is configured that changes files as they are checked out, and not back."""
        found = (self._try("config", "--name-only", "--get-regexp", r"^filter\.") or "").split("\n")
        parts = [name.rpartition(".") for name in found]
        back = {name for name, _, kind in parts if kind in ("clean", "process")}
        return any(kind == "smudge" and name not in back for name, _, kind in parts)

    def apply_patch(self, path: Path, diff: str) -> None:
        """Apply a unified diff to the files of a worktree, wholly or not at all.

        Raises RepositoryError with git's reason.
        """
        env = self._worktree_env(path)
        if env is None:
            raise RepositoryError(f"{path} is not a worktree of this run", "autoexp resume")
        self.patch(diff, env, path)

    def patch(self, diff: str, env: Mapping[str, str], at: Path | None = None, cached: bool = False) -> None:
        """Apply a unified diff to the worktree that `env` names, or to its index. Raises as `apply_patch`."""
        flags = ["--whitespace=nowarn", *(["--cached"] if cached else [])]
        tries = [["-p0"], []] if _SAME_NAMES.search(diff) else [[]]
        first = None
        with tempfile.NamedTemporaryFile(suffix=".diff") as file:
            file.write(diff.encode() if diff.endswith("\n") else diff.encode() + b"\n")
            file.flush()
            # agents count lines badly; but counting anew takes `--- next/file` for a line, so it comes last
            for more in (*tries, *([*strip, "--recount"] for strip in tries)):
                try:
                    self.run("apply", *flags, *more, file.name, env=env, at=at)
                except RepositoryError as error:
                    first = first or error
                else:
                    return
        assert first is not None
        raise first

    def commit(self, tree: str, parents: Sequence[str], message: str, ref: str) -> str:
        """A commit of `tree`, held by `ref`. The same one again when the ref already holds it.

        It is made without index, hooks and signing: these are for the user's own commits.
        """
        existing = self._try("rev-parse", "--verify", "--quiet", f"{ref}^{{tree}}")
        if existing == tree and self.run("rev-parse", f"{ref}^@").split() == list(parents):
            return self.run("rev-parse", ref)
        flags = [flag for parent in parents for flag in ("-p", parent)]
        commit = self.run("commit-tree", tree, *flags, "-m", message[:MESSAGE_LIMIT], env=self.identity())
        self.run("update-ref", ref, commit)
        return commit

    def hold(self, ref: str, commit: str) -> None:
        """Point a ref of the run's own at a commit."""
        if self._try("rev-parse", "--verify", "--quiet", ref) != commit:
            self.run("update-ref", ref, commit)

    def advance(self, branch: str, commit: str, mark: str | None = None) -> str:
        """Move a run branch forward until it holds `commit`'s files, creating it if need be.

        A branch that somebody has checked out, or that has commits of its own, is left alone: returns why, else ''.
        `mark` is a ref that remembers where we left the branch. A best that does not descend from the one before
        (it was tried at the same time, by another worker) is then joined by a merge that takes its files.
        """
        name = f"refs/heads/{branch}"
        tip = self.resolve(name)
        new = commit
        if tip is not None and not self.is_ancestor(tip, commit):
            if mark is None or tip != self.resolve(mark):
                return f"branch {branch} has commits of its own"
            tree = self.run("rev-parse", f"{commit}^{{tree}}")
            if tree == self.run("rev-parse", f"{tip}^{{tree}}"):
                return ""
            new = self.commit(tree, [tip, commit], f"Take the files of {commit[:7]}", f"{mark}-{commit[:12]}")
        if tip not in (None, new) and f"branch {name}" in self.run("worktree", "list", "--porcelain").split("\n"):
            return f"branch {branch} is checked out"
        if tip != new:
            self.run("update-ref", name, new, *([tip] if tip else []))
        if mark is not None:
            self.hold(mark, new)
        return ""

    def describe(self, branch: str, text: str, ours: str) -> None:
        """The description of a branch (`git config branch.<name>.description`). One that does not begin with `ours`
        is somebody's, and stays.
        """
        name = f"branch.{branch}.description"
        known = self._try("config", "--get", name)
        if known != text and (known is None or known.startswith(ours)):
            self._try("config", name, text)

    def exclude(self, patterns: Sequence[str]) -> None:
        """Have git ignore the run's own files, through .git/info/exclude: nothing of the user's is edited."""
        file = self.common / "info" / "exclude"
        known = file.read_bytes() if file.exists() else b""  # in any encoding
        missing = [pattern for pattern in patterns if pattern.encode() not in known.splitlines()]
        if missing:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as end:  # one write at its end: somebody else may be writing too
                start = "" if known.endswith(b"\n") or not known else "\n"
                end.write((start + "".join(f"{pattern}\n" for pattern in missing)).encode())

    @contextmanager
    def _index(self, path: Path) -> Iterator[dict[str, str]]:
        """A throw-away index for a worktree: the user's and the worktree's own are not used."""
        env = self._worktree_env(path)
        if env is None:
            raise RepositoryError(f"{path} is not a worktree of this run", "autoexp resume")
        with tempfile.TemporaryDirectory(prefix="autoexp-index-") as folder:
            yield {**env, "GIT_INDEX_FILE": str(Path(folder) / "index")}


def _blob(data: bytes, like: str) -> str:
    """The name that git gives these bytes, by the hash that `like` is made with."""
    made = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    made.update(b"blob %d\0" % len(data) + data)
    return made.hexdigest()


def _remove(folder: Path) -> None:
    """Remove a tree. A trainer may have left folders that nobody may write to, or list: they are opened first."""
    try:
        shutil.rmtree(folder)
    except OSError:
        folder.chmod(0o700)
        for place, folders, _ in os.walk(folder):
            for name in folders:
                if not (Path(place) / name).is_symlink():
                    (Path(place) / name).chmod(0o700)
        shutil.rmtree(folder)
