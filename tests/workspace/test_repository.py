"""Git beside the user: worktrees and refs of the run's own. Law 2 is kept here or nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from git import Git

from autoexp.errors import PreconditionError, RepositoryError
from autoexp.testing import TRAINER, git, make_workspace
from autoexp.workspace.paths import Workspace
from autoexp.workspace.repository import Change, Repository, candidate_ref, matches


@pytest.fixture
def repository(workspace: Workspace) -> Repository:
    return Repository(workspace)


@pytest.fixture
def tree(repository: Repository, tmp_path: Path) -> Path:
    """A worktree at the base commit."""
    path = tmp_path / "run" / "worktrees" / "0"
    repository.checkout(path, repository.head())
    return path


def user(root: Path) -> dict[str, object]:
    """Everything of the user's that must not change: HEAD, index, stash, branches, and every file with its times."""
    files = {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in root.rglob("*")
        if ".git" not in path.relative_to(root).parts
    }
    return {
        "head": (root / ".git" / "HEAD").read_text(),
        "index": (root / ".git" / "index").read_bytes(),
        "heads": git(root, "for-each-ref", "refs/heads", "refs/stash", "refs/tags"),
        "config": (root / ".git" / "config").read_text(),
        "files": files,
    }


def dirty(root: Path) -> None:
    """An edit, a staged edit, a staged new file, an untracked file."""
    (root / "train.py").write_text((root / "train.py").read_text() + "# mine\n")
    (root / "evaluate.py").write_text("# staged\n")
    (root / "new.py").write_text("# new\n")
    git(root, "add", "evaluate.py", "new.py")
    (root / "untracked.txt").write_text("precious")


# -- worktrees --------------------------------------------------------------------------------------------------------


def test_a_worktree_holds_exactly_the_commit(repository: Repository, tree: Path) -> None:
    assert sorted(os.listdir(tree)) == [".git", "autoexp.toml", "evaluate.py", "train.py"]
    assert (tree / "train.py").read_text() == TRAINER


def test_whatever_is_done_in_it_is_undone_by_the_next_checkout(repository: Repository, tree: Path) -> None:
    (tree / "train.py").write_text("broken")
    (tree / "evaluate.py").unlink()
    (tree / "junk").mkdir()
    (tree / "junk" / "x").write_text("x")
    (tree / ".gitignore").write_text("ignored\n")
    (tree / "ignored").write_text("x")
    git(tree, "init", "--quiet", "nested")
    git(tree, "add", "--all", "--", "train.py", "junk")
    repository.checkout(tree, repository.head())
    assert sorted(os.listdir(tree)) == [".git", "autoexp.toml", "evaluate.py", "train.py"]
    assert (tree / "train.py").read_text() == TRAINER


@pytest.mark.parametrize(
    "harm",
    [
        "rm -r .git",
        "rm -rf .git && git init --quiet",
        "rm -rf .git && mkdir .git",
        "echo nonsense > .git",
        "echo 'gitdir: ROOT/.git' > .git",
        "rm -rf * .git",
        "cd .. && rm -rf 0 && touch 0",
        "cd .. && rm -rf 0 && ln -s ROOT 0",
        'touch "$(git rev-parse --git-dir)/index.lock"',
        'touch "$(git rev-parse --git-dir)/HEAD.lock"',
        'rm -rf "$(git rev-parse --git-dir)"',
        'rm "$(git rev-parse --git-dir)/index"',
        'echo junk > "$(git rev-parse --git-dir)/index"',
        'echo junk > "$(git rev-parse --git-dir)/HEAD"',
        "git checkout --quiet -b somewhere",
        "chmod -R a-w .",
    ],
)
def test_a_damaged_worktree_is_mended_and_the_users_checkout_is_not_touched(
    workspace: Workspace, harm: str, repository: Repository
) -> None:
    """Without its .git file, git would take the worktree for a part of the checkout around it."""
    path = workspace.runs / "r" / "worktrees" / "0"
    repository.checkout(path, repository.head())
    dirty(workspace.root)
    harm = harm.replace("ROOT", str(workspace.root))
    subprocess.run(["sh", "-c", harm], cwd=path, check=True)
    before = user(workspace.root)
    outside = {name: seen for name, seen in before["files"].items() if not name.startswith("workflows")}  # type: ignore[attr-defined]
    repository.checkout(path, repository.head())
    assert (path / "train.py").read_text() == TRAINER
    assert sorted(os.listdir(path)) == [".git", "autoexp.toml", "evaluate.py", "train.py"]
    assert repository.changes(path, repository.head())[1] == []
    after = user(workspace.root)
    outside_after = {n: seen for n, seen in after["files"].items() if not n.startswith("workflows")}  # type: ignore[attr-defined]
    assert outside_after == outside
    assert {**after, "files": 0} == {**before, "files": 0}


def test_a_worktree_whose_git_file_names_another_worktree_is_made_anew(
    repository: Repository, workspace: Workspace, tree: Path, tmp_path: Path
) -> None:
    """Else its HEAD and index, which may be the user's, would be written."""
    mine = tmp_path / "mine"
    git(workspace.root, "worktree", "add", "--quiet", "-b", "mine", str(mine))
    (mine / "train.py").write_text("# mine\n")
    git(mine, "add", "train.py")
    pointer = (mine / ".git").read_text()
    index = (workspace.root / ".git" / "worktrees" / "mine" / "index").read_bytes()
    (tree / ".git").write_text(pointer)
    repository.checkout(tree, repository.head())
    assert (tree / ".git").read_text() != pointer
    assert repository.changes(tree, repository.head())[1] == []
    assert git(mine, "symbolic-ref", "HEAD") == "refs/heads/mine"
    assert (workspace.root / ".git" / "worktrees" / "mine" / "index").read_bytes() == index


READ_ONLY = """
import sys
from pathlib import Path
from autoexp.errors import RepositoryError
from autoexp.workspace.paths import Workspace
from autoexp.workspace.repository import Repository

root, tree = Path(sys.argv[1]), Path(sys.argv[1]).parent / "tree"
repository = Repository(Workspace(root))
repository.checkout(tree, repository.head())
(tree / "left" / "deep").mkdir(parents=True)
(tree / "left" / "deep" / "file").touch()
(tree / "left" / "link").symlink_to(root)
for folder in (tree / "left" / "deep", tree / "left"):
    folder.chmod(0)
repository.checkout(tree, repository.head())
assert not (tree / "left").exists() and (tree / "train.py").exists()
(tree / "x").mkdir()
(tree / "x" / "y").touch()
(tree / "x").chmod(0o500)
Path.chmod = lambda self, mode: None  # as for a folder of another user's
try:
    repository.checkout(tree, repository.head())
except RepositoryError as error:
    print(error)
"""


def test_a_read_only_folder_that_a_trainer_left_does_not_block_the_slot(workspace: Workspace) -> None:
    """Seen as an ordinary user: root may write everywhere."""
    mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if mortal and subprocess.run([*mortal, "true"], capture_output=True).returncode:
        pytest.skip("giving up root's rights needs setpriv")
    said = subprocess.run(
        [*mortal, sys.executable, "-c", READ_ONLY, str(workspace.root)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"cannot remove {workspace.root.parent}/tree: y: Permission denied\n"


def test_untracked_data_is_linked_into_each_worktree(repository: Repository, workspace: Workspace, tree: Path) -> None:
    (workspace.root / "data").mkdir()
    (workspace.root / "data" / "shard").write_text("tokens")
    for _ in range(2):
        repository.checkout(tree, repository.head(), link=["data", "missing", "train.py"])
        assert (tree / "data").is_symlink()
        assert (tree / "data" / "shard").read_text() == "tokens"
        assert not (tree / "train.py").is_symlink()
        assert not (tree / "missing").exists()
    assert repository.changes(tree, repository.head(), ignore=["data"])[1] == []
    repository.remove_worktree(tree)
    assert (workspace.root / "data" / "shard").read_text() == "tokens"


@pytest.mark.parametrize(
    "name", ["with space", "$HOME", "it's", 'say "hi"', "ünï", "back\\slash", "-dash", "semi;colon"]
)
def test_paths_of_any_kind(tmp_path: Path, name: str) -> None:
    workspace = make_workspace(tmp_path / name / "work")
    repository = Repository(workspace)
    path = tmp_path / name / "tree"
    repository.checkout(path, repository.head())
    assert f"worktree {path}" in repository.run("worktree", "list", "--porcelain").split("\n")
    (path / "train.py").write_text("x = 1\n")
    (path / f"{name}.py").write_text("y = 1\n")
    made, changes = repository.changes(path, repository.head())
    assert {change.path for change in changes} == {"train.py", f"{name}.py"}
    assert repository.show(made, f"{name}.py") == "y = 1"


# -- what changed -----------------------------------------------------------------------------------------------------


def test_every_kind_of_change_is_seen_with_its_mode(repository: Repository, tree: Path) -> None:
    base = repository.head()
    assert repository.changes(tree, base) == (repository.run("rev-parse", f"{base}^{{tree}}"), [])
    (tree / "train.py").write_text("x\n")
    (tree / "evaluate.py").unlink()
    (tree / "autoexp.toml").unlink()
    (tree / "autoexp.toml").symlink_to("/etc/passwd")
    (tree / "new").mkdir()
    (tree / "new" / "file.py").write_text("x\n")
    (tree / "new" / "file.py").chmod(0o755)
    changes = repository.changes(tree, base)[1]
    assert set(changes) == {
        Change("train.py", "100644"),
        Change("evaluate.py", "000000"),
        Change("autoexp.toml", "120000"),
        Change("new/file.py", "100755"),
    }


def test_a_change_that_was_committed_or_staged_in_the_worktree_counts_all_the_same(
    repository: Repository, tree: Path
) -> None:
    """An agent may well commit its work."""
    base = repository.head()
    (tree / "train.py").write_text("x\n")
    git(tree, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--all", "--message=by an agent")
    (tree / "evaluate.py").write_text("y\n")
    git(tree, "add", "evaluate.py")
    assert {change.path for change in repository.changes(tree, base)[1]} == {"train.py", "evaluate.py"}


def test_ignored_files_do_not_count_but_a_tracked_one_always_does(repository: Repository, tree: Path) -> None:
    (repository.common / "info" / "exclude").write_text("*.log\ntrain.py\n")
    (tree / "x.log").write_text("x")
    (tree / "train.py").write_text("x\n")
    assert [change.path for change in repository.changes(tree, repository.head())[1]] == ["train.py"]


LINES = b"a\r\nb\r\n"


@pytest.mark.parametrize(
    ("attribute", "config", "content"),
    [
        ("*.txt text", {}, LINES),
        ("*.txt text eol=crlf", {}, b"a\r\nb\n"),
        ("*.txt text", {"core.safecrlf": "true"}, LINES),
        ("*.txt filter=up", {"filter.up.clean": "tr a-z A-Z"}, LINES),
        ("*.txt filter=up", {"filter.up.clean": "tr a-z A-Z", "filter.up.smudge": "tr a-z b-za"}, LINES),
        ("*.txt filter=up", {"filter.up.smudge": "tr a-z b-za"}, LINES),
        ("*.txt ident", {}, b"$Id: by hand $\n"),
    ],
)
def test_a_file_that_git_would_store_otherwise_than_it_is_counts_only_when_it_is_touched(
    workspace: Workspace, tmp_path: Path, attribute: str, config: dict[str, str], content: bytes
) -> None:
    root = workspace.root
    for name in ("old.txt", "with space.txt", "touched.txt"):
        (root / name).write_bytes(content)
    commit = ("-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--message=x")
    git(root, "add", "--all")
    git(root, *commit)
    (root / ".gitattributes").write_text(f"{attribute}\n")
    git(root, "add", ".gitattributes")
    git(root, *commit)
    for name, value in config.items():
        git(root, "config", name, value)
    repository, path = Repository(workspace), tmp_path / "tree"
    base = repository.head()
    repository.checkout(path, base)
    assert repository.changes(path, base) == (repository.run("rev-parse", f"{base}^{{tree}}"), [])
    (path / "touched.txt").write_bytes(b"another\n")
    (path / "train.py").write_text("x = 1\n")
    made, changes = repository.changes(path, base)
    assert {change.path for change in changes} == {"touched.txt", "train.py"}
    assert set(repository.run("diff", "--name-only", base, made).split("\n")) == {"touched.txt", "train.py"}


def test_looking_for_changes_takes_four_processes(
    repository: Repository, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done for each candidate: what is converted is looked at only where something is."""
    (tree / "train.py").write_text("x = 1\n")
    repository.changes(tree, repository.head())
    base, seen, real = repository.head(), [], Git.execute

    def execute(self: Git, command: list[str], **options: object) -> object:
        seen.append(command[command.index("-C") + 2])
        return real(self, command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Git, "execute", execute)
    repository.changes(tree, base)
    assert seen == ["read-tree", "add", "diff-index", "write-tree"]


def test_the_indexes_of_the_user_and_of_the_worktree_are_not_used(
    repository: Repository, workspace: Workspace, tree: Path
) -> None:
    before = user(workspace.root)
    own = (repository.common / "worktrees" / "0" / "index").read_bytes()
    (tree / "train.py").write_text("x\n")
    repository.changes(tree, repository.head())
    assert user(workspace.root) == before
    assert (repository.common / "worktrees" / "0" / "index").read_bytes() == own


PATCH = """\
--- a/train.py
+++ b/train.py
@@ -4,3 +4,3 @@
 
-LR = 0.08  # [0.0001, 1.0] log; learning rate
+LR = 0.5  # [0.0001, 1.0] log; learning rate
 DEPTH = 4  # [1, 12]; layers
"""


def test_a_patch_is_applied_to_the_worktree_only(repository: Repository, workspace: Workspace, tree: Path) -> None:
    before = user(workspace.root)
    repository.apply_patch(tree, PATCH.rstrip("\n"))
    assert "LR = 0.5  #" in (tree / "train.py").read_text()
    assert user(workspace.root) == before


@pytest.mark.parametrize(
    "patch",
    [
        "nonsense",
        PATCH.replace("-LR = 0.08", "-LR = 0.09"),
        PATCH.replace("train.py", "none.py"),
        PATCH.replace("train.py", "../escape.py"),
        PATCH + PATCH.replace("train.py", "none.py"),
        "--- /dev/null\n+++ b/../escape.py\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/.git/hooks/x\n@@ -0,0 +1 @@\n+x\n",
    ],
)
def test_a_patch_that_does_not_fit_or_leads_out_changes_nothing(repository: Repository, tree: Path, patch: str) -> None:
    with pytest.raises(RepositoryError, match="git apply failed"):
        repository.apply_patch(tree, patch)
    assert repository.changes(tree, repository.head())[1] == []
    assert not (tree.parent / "escape.py").exists()


@pytest.mark.parametrize("header", ["", "diff --git train.py train.py\n"])
def test_a_patch_made_without_prefixes_is_applied(repository: Repository, tree: Path, header: str) -> None:
    """As `git diff` makes it under diff.noprefix, with names that -p1 would take for others."""
    repository.apply_patch(tree, header + PATCH.replace("a/train", "train").replace("b/train", "train"))
    assert "LR = 0.5  #" in (tree / "train.py").read_text()
    (tree / "in").mkdir()
    (tree / "in" / "train.py").write_text(TRAINER)
    (tree / "train.py").write_text(TRAINER)
    repository.apply_patch(tree, PATCH.replace("a/train", "in/train").replace("b/train", "in/train"))
    assert "LR = 0.5  #" in (tree / "in" / "train.py").read_text()
    assert (tree / "train.py").read_text() == TRAINER


def test_outside_of_a_worktree_nothing_is_applied_or_compared(repository: Repository, workspace: Workspace) -> None:
    before = user(workspace.root)
    for call in (
        lambda: repository.apply_patch(workspace.root, PATCH),
        lambda: repository.changes(workspace.root, repository.head()),
    ):
        with pytest.raises(RepositoryError, match="not a worktree"):
            call()
    assert user(workspace.root) == before


# -- candidates -------------------------------------------------------------------------------------------------------


def candidate(repository: Repository, tree: Path, text: str = "x = 1\n") -> str:
    (tree / "train.py").write_text(text)
    return repository.changes(tree, repository.head())[0]


def test_a_candidate_is_a_child_of_its_base_held_by_its_ref(repository: Repository, tree: Path) -> None:
    base, ref = repository.head(), candidate_ref("r", 1, 1)
    commit = repository.commit(candidate(repository, tree), [base], "An idea\n\nin two lines", ref)
    assert repository.resolve(ref) == commit
    assert repository.run("rev-parse", f"{commit}^@") == base
    assert repository.run("log", "-1", "--format=%B", commit).strip() == "An idea\n\nin two lines"
    assert repository.show(commit, "train.py") == "x = 1"
    repository.run("gc", "--quiet", "--prune=now")
    assert repository.resolve(commit) == commit


def test_committing_again_gives_the_same_commit(repository: Repository, tree: Path) -> None:
    """After a crash between the commit and its event, another second later."""
    base, ref, made = repository.head(), candidate_ref("r", 1, 1), candidate(repository, tree)
    first = repository.commit(made, [base], "m", ref)
    before = repository.run("rev-parse", f"{first}^{{tree}}")
    os.environ["GIT_COMMITTER_DATE"] = "2030-01-01T00:00:00Z"
    try:
        assert repository.commit(made, [base], "m", ref) == first
        other = repository.commit(candidate(repository, tree, "x = 2\n"), [base], "m", ref)
    finally:
        del os.environ["GIT_COMMITTER_DATE"]
    assert other != first
    assert repository.resolve(ref) == other
    assert before == made


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"user.name": "Ada", "user.email": "ada@example.org"},
        {"commit.gpgsign": "true", "gpg.program": "/bin/false"},
        {"user.useConfigOnly": "true"},
        {"commit.template": "/none", "core.editor": "/bin/false", "diff.external": "/bin/false"},
        {"diff.noprefix": "true", "color.ui": "always", "core.quotePath": "true", "core.autocrlf": "true"},
    ],
)
def test_the_users_configuration_neither_stops_nor_signs_a_candidate(
    workspace: Workspace, tmp_path: Path, settings: dict[str, str]
) -> None:
    for name, value in settings.items():
        git(workspace.root, "config", name, value)
    for hook in ("pre-commit", "commit-msg", "post-checkout", "reference-transaction", "post-commit"):
        file = workspace.root / ".git" / "hooks" / hook
        file.write_text(f"#!/bin/sh\necho {hook} >> {tmp_path}/hooked\nexit 1\n")
        file.chmod(0o755)
    repository, path = Repository(workspace), tmp_path / "tree"
    for _ in range(2):
        repository.checkout(path, repository.head())
    commit = repository.commit(candidate(repository, path), [repository.head()], "m", candidate_ref("r", 1, 1))
    author = repository.run("log", "-1", "--format=%an", commit)
    assert author == settings.get("user.name", "autoexp")
    assert "gpgsig" not in repository.run("cat-file", "commit", commit)
    assert "diff --git" in repository.diff(repository.head(), commit)
    assert repository.advance("a/b", commit) == ""
    assert not (tmp_path / "hooked").exists()


# -- the run branch ---------------------------------------------------------------------------------------------------


def child(repository: Repository, parent: str, word: str) -> str:
    tree = repository.run("rev-parse", f"{parent}^{{tree}}")
    return repository.commit(tree, [parent], word, f"refs/autoexp/test/{word}")


def test_a_branch_is_made_and_only_fast_forwards(repository: Repository) -> None:
    base = repository.head()
    one = child(repository, base, "one")
    two = child(repository, one, "two")
    assert repository.advance("a/b", base) == ""
    assert repository.advance("a/b", two) == ""
    assert repository.resolve("refs/heads/a/b") == two
    assert repository.advance("a/b", two) == ""
    assert "commits of its own" in repository.advance("a/b", one)
    assert "commits of its own" in repository.advance("a/b", child(repository, base, "aside"))
    assert repository.resolve("refs/heads/a/b") == two


def test_a_branch_that_is_checked_out_anywhere_is_left_alone(
    repository: Repository, workspace: Workspace, tmp_path: Path
) -> None:
    base = repository.head()
    next_one = child(repository, base, "next")
    before = user(workspace.root)
    assert repository.advance("main", base) == ""
    assert "checked out" in repository.advance("main", next_one)
    git(workspace.root, "branch", "elsewhere")
    git(workspace.root, "worktree", "add", "--quiet", str(tmp_path / "mine"), "elsewhere")
    assert "checked out" in repository.advance("elsewhere", next_one)
    after = user(workspace.root)
    assert (after["head"], after["index"], after["files"]) == (before["head"], before["index"], before["files"])
    assert repository.resolve("refs/heads/elsewhere") == base


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_excluding_adds_each_pattern_once_and_keeps_what_is_there(repository: Repository, workspace: Workspace) -> None:
    file = workspace.root / ".git" / "info" / "exclude"
    file.write_text("# mine\n*.bak")
    repository.exclude(["/a/", "/b"])
    repository.exclude(["/b", "/c"])
    assert file.read_text().splitlines() == ["# mine", "*.bak", "/a/", "/b", "/c"]
    file.unlink()
    file.parent.rmdir()
    repository.exclude(["/a/"])
    assert file.read_text() == "/a/\n"


def test_excluding_never_rewrites_what_is_there(repository: Repository, workspace: Workspace) -> None:
    """It may be in any encoding, and somebody else may be adding to it."""
    file = workspace.root / ".git" / "info" / "exclude"
    file.write_bytes(b"caf\xe9\r\n/b\r\nlast")
    before = file.stat().st_ino
    repository.exclude(["/a/", "/b"])
    assert file.read_bytes() == b"caf\xe9\r\n/b\r\nlast\n/a/\n"
    assert file.stat().st_ino == before


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"])
def test_variables_of_a_git_hook_around_us_do_not_lead_astray(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    other = make_workspace(tmp_path / "other", LR=0.5)
    places = {"GIT_DIR": other.root / ".git", "GIT_WORK_TREE": other.root, "GIT_INDEX_FILE": other.root / "index"}
    monkeypatch.setenv(variable, str(places[variable]))
    repository = Repository(workspace)
    assert repository.head() != git(other.root, "rev-parse", "HEAD")
    repository.checkout(tmp_path / "tree", repository.head())
    assert "LR = 0.08" in (tmp_path / "tree" / "train.py").read_text()


def test_without_a_commit_or_a_repository_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="is no git repository") as caught:
        Repository(Workspace(tmp_path))
    assert caught.value.hint == f"git init {tmp_path}"
    git(tmp_path, "init", "--quiet")
    with pytest.raises(PreconditionError, match="no commit yet") as caught:
        Repository(Workspace(tmp_path)).head()
    assert "git commit" in caught.value.hint


def test_without_git_the_way_out_is_told(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PreconditionError, match="git is not on PATH"):
        Repository(workspace)


@pytest.mark.parametrize("name", ["", "-x", "--help", "a b", "a..b", "HEAD^", ":/The", "$(touch x)", "no-such"])
def test_a_name_is_never_taken_for_an_option(repository: Repository, name: str) -> None:
    if name in ("HEAD^", ":/The"):
        repository.resolve(name)
    else:
        assert repository.resolve(name) is None
        assert name == "no-such" or not repository.valid_branch(name)


@pytest.mark.parametrize(
    ("path", "globs", "matched"),
    [
        ("train.py", ["train.py"], True),
        ("a/train.py", ["train.py"], False),
        ("train.py", ["*.py"], True),
        ("eval/harness.py", ["*.py"], False),
        ("eval/harness.py", ["**/*.py"], True),
        ("train.py", ["**/*.py"], True),
        ("a/b/c.py", ["a/**/c.py"], True),
        ("a/c.py", ["a/**/c.py"], True),
        ("a/b/c.py", ["a/*.py"], False),
        ("a/b/c.py", ["a/**"], True),
        ("a/b/c.py", ["*/b"], True),
        ("a/b.py", ["a?b.py"], False),
        ("train2.py", ["train[0-9].py"], True),
        ("train2.py", ["train[!0-9].py"], False),
        ("a/b", ["a[!x]b"], False),
        ("train[1].py", ["train[[]1].py"], True),
        ("[z-a]", ["[z-a]"], True),
        ("train.py", ["./train.py"], True),
        ("src/a.py", [".//src/./"], True),
        ("src/a.py", ["."], True),
        ("trainxpy", ["train.py"], False),
        ("src/a/b.py", ["src"], True),
        ("src/a/b.py", ["src/"], True),
        ("source.py", ["src"], False),
        ("Train.py", ["train.py"], False),
        ("train.py", [], False),
        ("train.pyc", ["train.py"], False),
    ],
)
def test_globs_name_files_and_folders(path: str, globs: list[str], matched: bool) -> None:
    assert matches(path, globs) is matched


@pytest.mark.parametrize("flag", ["--skip-worktree", "--assume-unchanged"])
def test_a_file_that_git_was_told_not_to_look_at_is_restored_too(repository: Repository, tree: Path, flag: str) -> None:
    text = (tree / "evaluate.py").read_text()
    subprocess.run(["git", "update-index", flag, "evaluate.py"], cwd=tree, check=True)
    (tree / "evaluate.py").write_text("an easier evaluation\n")

    repository.checkout(tree, repository.head())

    assert (tree / "evaluate.py").read_text() == text


def test_attributes_that_were_left_behind_do_not_change_what_is_checked_out(repository: Repository, tree: Path) -> None:
    (tree / ".gitattributes").write_text("* text eol=crlf\n")
    (tree / "train.py").unlink()

    repository.checkout(tree, repository.head())

    assert b"\r" not in (tree / "train.py").read_bytes()
    assert repository.changes(tree, repository.head())[1] == []


def test_a_sparse_worktree_is_whole_again(repository: Repository, tree: Path) -> None:
    text = (tree / "evaluate.py").read_text()
    subprocess.run(["git", "sparse-checkout", "set", "--no-cone", "/*", "!evaluate.py"], cwd=tree, check=True)
    (tree / "evaluate.py").write_text("an easier evaluation\n")

    assert [change.path for change in repository.changes(tree, repository.head())[1]] == ["evaluate.py"]
    repository.checkout(tree, repository.head())

    assert (tree / "evaluate.py").read_text() == text


def test_a_worktree_that_git_was_killed_in_making_is_made(repository: Repository, tree: Path) -> None:
    """`git worktree add` locks what it makes until it is done."""
    folder = Path((tree / ".git").read_text().strip().removeprefix("gitdir: "))
    (folder / "locked").write_text("initializing\n")
    shutil.rmtree(tree)

    repository.checkout(tree, repository.head())

    assert (tree / "train.py").exists()
