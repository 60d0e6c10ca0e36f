"""The PluginManager: built-ins first, then every `autoexp` entry point. Both come in by the same hooks."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from autoexp.errors import UsageError
from autoexp.spec import hookspecs
from autoexp.spec.markers import PROJECT

STAGES = ("setup", "baseline", "propose", "apply", "commit", "train", "triage", "record", "decide")
BUILTINS = (
    *(f"autoexp.stages.{name}" for name in STAGES),
    "autoexp.proposers.search",
    "autoexp.proposers.agent",
    "autoexp.agents.opencode",
    "autoexp.agents.claude",
    "autoexp.agents.codex",
    "autoexp.agents.openai",
    "autoexp.agents.command",
    "autoexp.executors.local",
    "autoexp.decisions.improvement",
    "autoexp.decisions.margin",
    "autoexp.decisions.confirm",
    "autoexp.trackers.jsonl",
)
DISABLE = "AUTOEXP_DISABLE_PLUGINS"
"""Names of entry points not to load, with commas between; `*` for all."""
REGISTERING = {
    "proposers": "autoexp_register_proposers",
    "agents": "autoexp_register_agents",
    "executors": "autoexp_register_executors",
    "rules": "autoexp_register_decision_rules",
    "trackers": "autoexp_register_trackers",
}


def plugin_manager(builtins: Iterable[str] = BUILTINS) -> pluggy.PluginManager:
    """A manager with the built-in modules and all installed plugins.

    Raises UsageError when a plugin cannot be loaded, or implements a hook that does not exist.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in builtins:
        manager.register(importlib.import_module(name), name)
    disabled = [name.strip() for name in os.environ.get(DISABLE, "").split(",")]
    found = entry_points(group=PROJECT) if "*" not in disabled else ()
    loaded: dict[str, EntryPoint] = {}
    for point in found:
        if point.name not in disabled:
            _refuse_twins(loaded, point)
            if point.name in loaded:
                continue  # the same one, found twice: an editable install beside an old one
            loaded[point.name] = point
            try:
                plugin = point.load()
                manager.register(plugin, point.name)
                manager.check_pending()
            except Exception as error:  # whatever a third party's module raises when it is imported
                raise UsageError(
                    f"plugin {point.name!r} ({point.value}) cannot be loaded: {error}",
                    f"mend it, or: export {DISABLE}={point.name}",
                ) from error
            if point.dist is not None:
                _VERSIONS[point.name] = point.dist.version
    manager.check_pending()
    return manager


def _refuse_twins(loaded: Mapping[str, EntryPoint], point: EntryPoint) -> None:
    twin = loaded.get(point.name)
    if twin is not None and twin.value != point.value:
        owners = " and ".join(f"{p.dist.name if p.dist else 'unknown'} ({p.value})" for p in (twin, point))
        raise UsageError(
            f"two plugins are called {point.name!r}: {owners}", f"uninstall one, or: export {DISABLE}={point.name}"
        )


_VERSIONS: dict[str, str] = {}


def versions(manager: pluggy.PluginManager) -> dict[str, str]:
    """Third-party plugins and their versions; built-ins have autoexp's own."""
    names = [name for name, _ in manager.list_name_plugin() if not name.startswith("autoexp.")]
    return {name: _VERSIONS.get(name, "unknown") for name in sorted(names)}


def collect(manager: pluggy.PluginManager, hook: str, options: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """All parts that plugins register through a registering hook: name to (part, the plugin that owns it).

    Implementations are called one by one, so that one that raises does not silence the others.
    Raises UsageError for a name that is registered twice, naming both owners, and for one that raises.
    """
    found: dict[str, tuple[Any, str]] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        owner = implementation.plugin_name

        def register(name: str, part: Any, owner: str = owner) -> None:
            if name in found:
                raise UsageError(
                    f"{name!r} is registered twice, by {found[name][1]} and by {owner} ({hook})",
                    f"uninstall one, or: export {DISABLE}={owner}",
                )
            found[name] = (part, owner)

        arguments = {"register": register, "options": options}
        try:
            implementation.function(*(arguments[name] for name in implementation.argnames))
        except UsageError:
            raise
        except Exception as error:  # a third party's code
            raise UsageError(
                f"plugin {owner!r} failed in {hook}: {error!r}", f"mend it, or: export {DISABLE}={owner}"
            ) from error
    return found


def parts(manager: pluggy.PluginManager, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """As `collect`, for a kind of REGISTERING, without the owners."""
    return {name: part for name, (part, _) in collect(manager, REGISTERING[kind], options).items()}


def implementers(manager: pluggy.PluginManager, hook: str) -> list[str]:
    """Who implements a hook, in calling order: what answers first comes first."""
    return [implementation.plugin_name for implementation in reversed(getattr(manager.hook, hook).get_hookimpls())]
