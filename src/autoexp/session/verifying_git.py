"""Of `verify`: every candidate's commit is there, under its ref, with the files that were recorded, and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

from autoexp.errors import RepositoryError
from autoexp.runs import events as ev
from autoexp.runs.state import RunState
from autoexp.workspace.objects import Objects
from autoexp.workspace.repository import REGULAR, Repository, matches, refs

AT_A_TIME = 500
"""Commits whose files are in memory at a time."""


class Expected:
    """What the journal says of a commit. The globs are those that were in force when it was made."""

    def __init__(self, commit: str, ref: str, source: str, parent: str, editable: Sequence[str], frozen: Sequence[str]):
        self.commit, self.ref, self.source, self.parent = commit, ref, source, parent
        self.editable, self.frozen = editable, frozen

    def may_change(self, path: str) -> bool:
        return matches(path, self.editable) and not matches(path, self.frozen)


def expected(events: Sequence[ev.Event]) -> list[Expected]:
    """Of every commit that the journal names."""
    editable: Sequence[str] = ("train.py",)
    frozen: Sequence[str] = ()
    sources: dict[int, str] = {}
    bases: dict[int, str] = {}
    found = []
    for event in events:
        match event:
            case ev.RunCreated():
                files = event.settings.get("files", {})
                editable, frozen = files.get("editable", editable), files.get("frozen", frozen)
            case ev.SessionOpened() if event.judged:
                editable = event.judged.get("files.editable", editable)
                frozen = event.judged.get("files.frozen", frozen)
            case ev.BaselineOpened():
                found.append(Expected(event.commit, event.ref, event.source, "", editable, frozen))
            case ev.Proposed():
                bases[event.iteration] = event.base
                sources.pop(event.iteration, None)
            case ev.Applied():
                sources[event.iteration] = event.source
            case ev.Committed():
                source, base = sources.get(event.iteration, ""), bases.get(event.iteration, "")
                parent = base if base != event.commit else ""
                found.append(Expected(event.commit, event.ref, source, parent, editable, frozen))
            case ev.CheckOpened() | ev.CheckGrown():
                programs = event.programs if isinstance(event, ev.CheckOpened) else (event.program,)
                found += [Expected(p.commit, "", p.source, "", editable, frozen) for p in programs if p.removed]
    return found


def commits(
    repository: Repository, events: Sequence[ev.Event], state: RunState
) -> Iterator[tuple[Literal["holds", "note"], str]]:
    """Raises RepositoryError for the first commit that is not what the journal says."""
    wanted = expected(events)
    held = repository.held(refs(state.run_id))
    for each in wanted:
        if each.ref and held.get(each.ref) != each.commit:
            there = f"holds {held[each.ref][:7]}" if each.ref in held else "is gone"
            raise RepositoryError(f"{each.ref} {there}; the journal has {each.commit[:7]}", "autoexp log")
    objects = Objects(repository)
    base = objects.commits([state.base])[state.base]
    if base is None:
        raise RepositoryError(f"the commit that the run began with is gone: {state.base}", "git fsck")
    for start in range(0, len(wanted), AT_A_TIME):
        part = wanted[start : start + AT_A_TIME]
        found = objects.commits([each.commit for each in part])
        for each in part:
            commit = found[each.commit]
            if commit is None:
                raise RepositoryError(f"the commit {each.commit} is gone ({each.ref})", "git fsck")
            if each.parent and commit.parents != (each.parent,):
                raise RepositoryError(f"{each.commit[:7]} is no child of its base {each.parent[:7]}", "autoexp log")
        objects.load_trees([commit.tree for commit in (base, *found.values()) if commit is not None])
        _compare(objects, part, {name: commit.tree for name, commit in found.items() if commit is not None}, base.tree)
        objects.forget_blobs()
    if state.best is not None and held.get(f"{refs(state.run_id)}/best") not in (None, state.best.commit):
        raise RepositoryError(f"{refs(state.run_id)}/best is not the best, {state.best.commit[:7]}", "autoexp resume")
    yield "holds", f"{len(wanted)} candidates, each the recorded program and nothing else changed"


def _compare(objects: Objects, part: Sequence[Expected], trees: dict[str, str], base: str) -> None:
    files = {}
    for each in part:
        for path, mode in objects.changed(base, trees[each.commit]):
            if not each.may_change(path) or mode not in REGULAR:
                raise RepositoryError(f"{each.commit[:7]} changes {path}, which is not editable", "autoexp log")
        if each.source:
            files[each.commit] = {
                path: blob for path, blob in objects.files(trees[each.commit]).items() if each.may_change(path)
            }
    texts = objects.texts({blob for chosen in files.values() for blob in chosen.values()})
    for each in part:
        if not each.source:
            continue
        digest = hashlib.sha256()
        for path, blob in files[each.commit].items():
            digest.update(f"{path}\0{len(texts[blob])}\0{texts[blob]}".encode(errors="replace"))
        if digest.hexdigest() != each.source:
            raise RepositoryError(f"the files of {each.commit[:7]} do not hash to the recorded source", "autoexp log")
