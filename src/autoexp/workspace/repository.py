"""Git, beside the user and never on top of them: worktrees and refs of the run's own, through GitPython.

Nothing here touches the user's checkout, index, stash or HEAD. A worktree's git commands name their git directory,
so that a worktree whose `.git` file was deleted can never be mistaken for the checkout around it.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
MESSAGE_LIMIT = 10_000
"""Characters of a commit message: it is an argument of a command, and those have limits."""
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
"""No look at the checkout may refresh the user's index, no command may wait for an answer, messages are in English."""
_PLAIN = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3")
"""A diff as `git apply` reads it, whatever the user's configuration says of diffs."""
REGULAR = ("100644", "100755")


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
    """Whether a path is named by one of the globs; a glob that names a folder covers what is in it."""
    return any(fnmatch.fnmatchcase(path, glob) or path.startswith(glob.rstrip("/") + "/") for glob in globs)


class Repository:
    """The git repository of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        """Raises PreconditionError when there is no git, or no repository."""
        for name in _INHERITED:  # set in a git hook, they would point every command at the wrong place
            os.environ.pop(name, None)
        self.root = workspace.root
        # Git() would expand `$NAME` in its folder, and run in the process's own when that is not there: -C says where
        self._git = Git("/")
        self.common = Path(self.run("rev-parse", "--path-format=absolute", "--git-common-dir"))

    # -- asking ---------------------------------------------------------------------------------------------------

    def run(self, *args: str, env: Mapping[str, str] | None = None, at: Path | None = None) -> str:
        """The output of a git command. Raises RepositoryError with git's own words."""
        command = ["git", "-C", str(at or self.root), *args]
        try:
            return str(self._git.execute(command, env={**_QUIET, **(env or {})}, strip_newline_in_stdout=True))
        except GitCommandNotFound as error:
            raise PreconditionError("git is not on PATH", "install git, then: autoexp doctor") from error
        except CommandError as error:
            said = str(error.stderr).strip().removeprefix("stderr: ").strip("' \n")
            raise RepositoryError(f"git {args[0]} failed: {said or error.status}", "autoexp doctor") from error

    def _try(self, *args: str, env: Mapping[str, str] | None = None) -> str | None:
        try:
            return self.run(*args, env=env)
        except RepositoryError:
            return None

    def head(self) -> str:
        """The commit that is checked out. Raises PreconditionError when there is none yet."""
        commit = self.resolve("HEAD")
        if commit is None:
            raise PreconditionError(f"{self.root} has no commit yet", "git add -A && git commit -m start")
        return commit

    def resolve(self, name: str) -> str | None:
        """The full hash of a commit; None when there is no such."""
        return self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")

    def show(self, commit: str, path: str) -> str | None:
        """A file's text at a commit; None when it is not there."""
        return self._try("cat-file", "blob", f"{commit}:{path}")

    def files(self, commit: str) -> list[str]:
        """All paths of a commit."""
        return [path for path in self.run("ls-tree", "-r", "-z", "--name-only", commit).split("\0") if path]

    def diff(self, base: str, commit: str) -> str:
        return self.run("diff", *_PLAIN, base, commit)

    def uncommitted(self, paths: Sequence[str]) -> str:
        """The user's uncommitted edits of these paths, as a patch."""
        text = self.run("diff", *_PLAIN, "HEAD", "--", *paths)
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

    def checkout(self, path: Path, commit: str, link: Sequence[str] = ()) -> None:
        """Make `path` a worktree that holds exactly `commit`, plus symbolic links to the workspace's `link` paths.

        Whatever state it was left in, it is mended or made anew. Raises RepositoryError.
        """
        try:
            env = self._worktree_env(path)
            if env is None:
                raise RepositoryError("not a worktree of this run")
            self.run("checkout", "--quiet", "--force", "--detach", commit, env=env, at=path)
            self.run("clean", "--quiet", "-ffdx", env=env, at=path)
        except RepositoryError:
            self.remove_worktree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # no hooks of the user's (post-checkout): they are written for the user's checkout
            self.run(
                "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--force", "--detach", str(path), commit
            )
        for name in link:
            target = self.root / name
            if target.exists() and not (path / name).exists():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).symlink_to(target)

    def remove_worktree(self, path: Path) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
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
        return {"GIT_DIR": str(folder), "GIT_WORK_TREE": str(path), "GIT_CONFIG_COUNT": "1"} | {
            "GIT_CONFIG_KEY_0": "core.hooksPath",
            "GIT_CONFIG_VALUE_0": "/dev/null",
        }

    # -- candidates -----------------------------------------------------------------------------------------------

    def changes(self, path: Path, base: str, ignore: Sequence[str] = ()) -> tuple[str, list[Change]]:
        """What differs between `base` and the files of a worktree, committed or not: (tree, changes).

        The tree holds every change. Files that .gitignore names do not count.
        """
        with self._index(path) as env:
            self.run("read-tree", base, env=env, at=path)
            excluded = [f":(exclude,top,literal){name}" for name in ignore]
            self.run("add", "--all", "--", ":/", *excluded, env=env, at=path)
            raw = self.run("diff-index", "--cached", "--no-renames", "-z", base, env=env, at=path)
            tree = self.run("write-tree", env=env, at=path)
        fields = [field for field in raw.split("\0") if field]
        return tree, [Change(name, entry.split()[1]) for entry, name in zip(fields[::2], fields[1::2], strict=True)]

    def apply_patch(self, path: Path, diff: str) -> None:
        """Apply a unified diff to the files of a worktree, wholly or not at all.

        Raises RepositoryError with git's reason.
        """
        env = self._worktree_env(path)
        if env is None:
            raise RepositoryError(f"{path} is not a worktree of this run", "autoexp resume")
        with tempfile.NamedTemporaryFile(suffix=".diff") as file:
            file.write(diff.encode() if diff.endswith("\n") else diff.encode() + b"\n")
            file.flush()
            try:
                self.run("apply", "--whitespace=nowarn", file.name, env=env, at=path)
            except RepositoryError:  # agents count lines badly; but counting anew takes `--- next/file` for a line
                self.run("apply", "--whitespace=nowarn", "--recount", file.name, env=env, at=path)

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

    def exclude(self, patterns: Sequence[str]) -> None:
        """Have git ignore the run's own files, through .git/info/exclude: nothing of the user's is edited."""
        file = self.common / "info" / "exclude"
        lines = file.read_text().splitlines() if file.exists() else []
        missing = [pattern for pattern in patterns if pattern not in lines]
        if missing:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join([*lines, *missing]) + "\n")

    @contextmanager
    def _index(self, path: Path) -> Iterator[dict[str, str]]:
        """A throw-away index for a worktree: the user's and the worktree's own are not used."""
        env = self._worktree_env(path)
        if env is None:
            raise RepositoryError(f"{path} is not a worktree of this run", "autoexp resume")
        with tempfile.TemporaryDirectory(prefix="autoexp-index-") as folder:
            yield {**env, "GIT_INDEX_FILE": str(Path(folder) / "index")}
