"""A person's proposals: from a file, a sentence, constants to set, a patch, or the edits in the checkout.

Each is tried before it is queued, on the program that the next candidate would start from.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from autoexp.errors import PreconditionError, ProposalError, UsageError
from autoexp.plugins.manager import parts, plugin_manager
from autoexp.runs.records import Constant, Edit, Patch, Proposal, SetConstant
from autoexp.session.background import live
from autoexp.session.snapshot import load as state_of
from autoexp.session.trying import Program, literal_paths, scratch, tried
from autoexp.spec.context import pick
from autoexp.workspace import inbox
from autoexp.workspace.constants import changed, literal, replaced, written
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.repository import PLAIN_DIFF, Repository
from autoexp.workspace.settings import load

SUBJECT = 72
"""Characters of a commit message's first line, at most."""
_SET = re.compile(r"^\s*([A-Za-z_]\w*)\s*=\s*(.+?)\s*$", re.DOTALL)


def from_file(file: Path) -> Proposal:
    """The proposal in a JSON file. Raises ProposalError when it is missing, unreadable or invalid."""
    try:
        return inbox.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ProposalError(f"cannot read {file}: {error.strerror}", "autoexp propose --schema") from error


def edits_of_sets(program: Program, assignments: Sequence[str]) -> list[Edit]:
    """The edits of `--set NAME=VALUE`. Raises UsageError for a malformed one, ProposalError for one that cannot be."""
    edits: list[Edit] = []
    for text in assignments:
        match = _SET.match(text)
        if match is None:
            raise UsageError(f"--set {text!r} is not NAME=VALUE", "autoexp propose --set MATRIX_LR=0.044")
        name = match[1]
        if any(isinstance(edit, SetConstant) and edit.name == name for edit in edits):
            raise UsageError(f"--set gives {name} twice", "autoexp propose --help")
        path, now = program.declaring(name)
        value = _value(name, match[2], now)
        replaced(program.repository.show(program.tip, path) or "", name, value)  # raises for another kind
        if value == now:
            raise ProposalError(f"{name} is {written(now)} already in {program.name}", "give it another value")
        edits.append(SetConstant(name=name, value=value))
    return edits


def _value(name: str, text: str, now: Constant) -> Constant:
    """A literal, or for a constant that holds text the bare words."""
    try:
        value = literal(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        value = None
    if isinstance(now, str) and not isinstance(value, str):
        return text
    if value is None:
        raise ProposalError(
            f"--set {name}={text}: that is no literal", f"write a number as 0.04, 1e-3 or 2**19 ({name} is {now!r})"
        )
    return value


def edit_of_patch(data: bytes, name: str) -> Patch:
    """The edit of `--patch`. Raises ProposalError for what cannot be one."""
    try:
        return Patch(op="patch", diff=data.decode())
    except (UnicodeDecodeError, ValidationError) as error:
        what = "it is empty" if not data.strip() else "it is not text in UTF-8"
        raise ProposalError(f"{name} is no patch: {what}", "git diff > my.diff") from error


def edits_of_checkout(program: Program) -> tuple[list[Edit], list[str]]:
    """(the user's uncommitted edit of the editable files, other edited files, which are not in it).

    Staged or not, and new files too. Where only constants were given other values, the edits say so: they then fit a
    program whose other lines have changed meanwhile, which a patch does not. Raises ProposalError when there is none.
    """
    repository = program.repository
    edited = repository.run("diff", "--name-only", "--no-renames", "-z", "HEAD").split("\0")
    new = repository.run("ls-files", "--others", "--exclude-standard", "-z").split("\0")
    wanted = [path for path in [*edited, *new] if path and program.editable(path)]
    others = [path for path in edited if path and not program.editable(path)]
    if not wanted:
        said = f" ({', '.join(others[:5])}: not editable)" if others else ""
        globs = ", ".join(program.settings.files.editable)
        raise ProposalError(
            f"there is no uncommitted edit of {globs}{said}", "edit it first, or: autoexp propose --set NAME=VALUE"
        )
    if not any(path in new for path in wanted) and (sets := _sets(repository, wanted)):
        return sets, others
    with scratch(repository, "HEAD", repository.root) as env:
        repository.run("update-index", "--add", "--remove", "--", *wanted, env=env)
        flags = ("--cached", "--binary", "--no-renames", *PLAIN_DIFF)
        diff = repository.run("diff", *flags, "HEAD", "--", *literal_paths(wanted), env=env)
    return [edit_of_patch((diff + "\n").encode(errors="surrogateescape"), "your edit")], others


def _sets(repository: Repository, paths: Sequence[str]) -> list[Edit]:
    """The checkout's edit as constants to set; [] when it is more than that."""
    edits: list[Edit] = []
    for path in paths:
        try:
            values = changed(repository.show("HEAD", path) or "", (repository.root / path).read_bytes().decode())
        except (OSError, UnicodeDecodeError):
            return []
        if not values:
            return []
        edits += [SetConstant(name=name, value=value, path=path) for name, value in values.items()]
    return edits


def composed(program: Program, text: str | None, edits: Sequence[Edit]) -> Proposal:
    """A proposal of a person's words, of edits, or of both. Raises as `tried`, and as `need_agent` for words alone."""
    words = " ".join((text or "").split())
    if edits:
        summary = tried(program, edits)
        plan = f"{words}\n\n{summary}" if words else summary
    else:
        need_agent(program)
        plan = (text or "").strip()
    title = words or summary
    try:
        return Proposal(
            status="ok", description=title, change_plan=plan, commit_description=_subject(title), edits=tuple(edits)
        )
    except ValidationError as error:
        raise ProposalError(
            f"this cannot be a proposal: {error.errors()[0]['msg']}", "autoexp propose --help"
        ) from error


def checked(program: Program, proposal: Proposal) -> Proposal:
    """A finished proposal (from a file). Raises as `composed`, and for one that is a question."""
    if proposal.status != "ok":
        raise ProposalError("a person's proposal must have status 'ok'", "autoexp propose --schema")
    if proposal.edits:
        tried(program, proposal.edits)
    else:
        need_agent(program)
    return proposal


def need_agent(program: Program) -> None:
    """Raise PreconditionError when nobody could turn words into edits."""
    by_hand = "autoexp propose --set NAME=VALUE, or --patch FILE"
    settings, plan = program.settings, program.state.plan
    agents = parts(plugin_manager(), "agents", settings.agents)
    names = dict.fromkeys(name for name in (*plan.proposers, settings.agent.name) if name in agents)
    problems = [agents[name].available() for name in names]
    if all(problems):
        named = problems[-1] if problems else pick(agents, settings.agent.name, "agent")
        raise PreconditionError(f"{named}: words alone need an agent to make the edits", by_hand)
    if not plan.stochastic:
        raise PreconditionError("the run asks no agent (--no-stochastic), and words alone need one", by_hand)


def _subject(text: str) -> str:
    return text if len(text) <= SUBJECT else text[: SUBJECT - 1].rsplit(" ", 1)[0] + "…"


# -- the queue --------------------------------------------------------------------------------------------------------


class Waiting(BaseModel):
    """A proposal that waits. `number` is what `--remove` takes; None for next_proposal.json."""

    model_config = ConfigDict(extra="forbid")
    number: int | None
    source: str
    path: str
    description: str
    problem: str = ""
    """Why it cannot be used as it is."""


class Placed(BaseModel):
    """What was queued, and when it will be used."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    path: str
    place: int
    waiting: int
    iteration: int
    """The first iteration that can use it."""
    live: bool
    when: str
    hint: str
    """The command that makes the run use it; '' when it will by itself."""
    not_included: list[str]
    """Edited files that are not editable and were left out."""
    proposal: Proposal


def propose(
    workspace: Workspace,
    paths: RunPaths,
    text: str | None = None,
    sets: Sequence[str] = (),
    patch: Path | None = None,
    from_diff: bool = False,
    file: Path | None = None,
) -> Placed:
    """Try a proposal, and queue it. Raises UsageError for a bad mix, else as `composed` and `checked`."""
    if file is not None and (text or sets or patch or from_diff):
        raise UsageError("--file is a whole proposal: it goes with no other", "autoexp propose --file proposal.json")
    if patch is not None and from_diff:
        raise UsageError("--patch and --from-diff are two patches: give one", "autoexp propose --help")
    if file is None and not (text and text.strip()) and not sets and patch is None and not from_diff:
        raise UsageError("nothing to propose", "autoexp propose --set NAME=VALUE, or --from-diff, or --patch FILE")
    program = Program(Repository(workspace), load(workspace), state_of(paths))
    others: list[str] = []
    if file is not None:
        proposal = checked(program, from_file(file))
    else:
        edits: list[Edit] = []
        if patch is not None:
            edits.append(edit_of_patch(_bytes(patch), str(patch)))
        if from_diff:
            mine, others = edits_of_checkout(program)
            edits += mine
        proposal = composed(program, text, [*edits, *edits_of_sets(program, sets)])
    path = inbox.add(paths, proposal)
    return _placed(paths, path, proposal, others)


def _bytes(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ProposalError(f"cannot read {file}: {error.strerror}", "git diff > my.diff") from error


def _placed(paths: RunPaths, path: Path, proposal: Proposal, others: list[str]) -> Placed:
    state, alive = state_of(paths), live(paths)
    queue = [item for item in waiting(paths) if not item.problem]  # what cannot be used is passed over
    place = next((n for n, item in enumerate(queue, 1) if item.path == str(path)), 1)
    asked = alive and state.next_number in state.asking  # its idea is an agent's, unless that fails
    iteration = state.next_number + place - (not asked)
    hint = ""
    target = state.plan.target
    if target is not None and iteration > target:
        # to a live run --loops adds; a dead one counts from what is completed
        more = iteration - (target if alive else state.completed)
        hint = f"autoexp resume --run-id {paths.run_id} --loops {more}"
        when = f"as iteration {iteration}, when the run does more than the {target} it was asked for"
    elif not alive:
        hint = f"autoexp resume --run-id {paths.run_id}"
        when = f"as iteration {iteration}, when the run goes on"
    else:
        when = f"as iteration {iteration}, when those before it are under way"
    if asked and place == 1:
        agent = state.asking[state.next_number].agent
        when += f" ({agent} is being asked for {state.next_number}: should it fail, as that)"
    return Placed(
        run_id=paths.run_id,
        path=str(path),
        place=place,
        waiting=len(queue),
        iteration=iteration,
        live=alive,
        when=when,
        hint=hint,
        not_included=others,
        proposal=proposal,
    )


def waiting(paths: RunPaths) -> list[Waiting]:
    """What waits, in the order in which it will be used."""
    asks = state_of(paths).plan.stochastic
    queue = [
        Waiting(
            number=item.number,
            source=item.source,
            path=str(item.path),
            description=item.proposal.description if item.proposal else "",
            problem=item.problem or ("" if asks or (item.proposal and item.proposal.edits) else inbox.NO_AGENT),
        )
        for item in inbox.queued(paths)
    ]
    first = [item for item in queue if item.source == "proposal_file"]
    rest = [item for item in queue if item.source != "proposal_file"]
    return [*first, *_override(paths), *rest]


def _override(paths: RunPaths) -> list[Waiting]:
    known = {"number": None, "source": "next_proposal", "path": str(paths.override)}
    try:
        proposal = inbox.parse(paths.override.read_bytes(), paths.override.name)
    except FileNotFoundError:
        return []
    except (OSError, ProposalError) as error:
        return [Waiting.model_validate({**known, "description": "", "problem": str(error)})]
    return [Waiting.model_validate({**known, "description": proposal.description})]


def remove(paths: RunPaths, number: int) -> Waiting:
    """Take a waiting proposal out, and return it. Raises ProposalError when there is no such number."""
    item = inbox.remove(paths, number)
    said = item.proposal.description if item.proposal else f"{item.path.name}, which could not be used"
    return Waiting(number=item.number, source=item.source, path=str(item.path), description=said, problem=item.problem)


def schema() -> str:
    """The JSON schema of a proposal, as it stands in schemas/proposal.schema.json."""
    return json.dumps(Proposal.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
