"""The brief of a run's next call, for people who want to see it. Reads; changes nothing."""

from __future__ import annotations

from autoexp.brief.build import Brief, propose_brief
from autoexp.plugins.manager import parts, plugin_manager
from autoexp.runs.records import chosen
from autoexp.session.snapshot import load
from autoexp.spec.ports import edits_files
from autoexp.workspace import settings as settings_module
from autoexp.workspace.paths import RunPaths, Workspace
from autoexp.workspace.repository import Repository


def next_brief(workspace: Workspace, paths: RunPaths) -> Brief:
    """What an agent that is asked for the next idea is sent.

    Raises JournalError when the journal cannot be read, UsageError for bad settings.
    """
    settings, state = settings_module.load(workspace), load(paths)
    proposing = [number for number, iteration in sorted(state.open.items()) if iteration.stage == "propose"]
    number = proposing[0] if proposing else state.next_number
    talks = at_once = False
    if proposing or settings.agent.edits_at_once:
        agents = parts(plugin_manager(), "agents", settings.agents)
        turn = chosen(state.plan.proposers, state.seed, number)
        names = [name for name in (turn, *state.plan.proposers, settings.agent.name) if name in agents]
        talks = turn in agents and state.talk(number, turn) is not None
        at_once = settings.agent.edits_at_once and bool(names) and edits_files(agents[names[0]])
    return propose_brief(state, number, settings, workspace, paths, Repository(workspace), talks, at_once)
