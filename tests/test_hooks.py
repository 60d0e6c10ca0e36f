"""Every hook is documented, typed, dated, and used by a built-in."""

from __future__ import annotations

import inspect
import typing
from types import FunctionType

import pytest

from autoexp.plugins.manager import REGISTERING, STAGES, plugin_manager
from autoexp.spec import hookspecs

HOOKS = {name: part for name, part in vars(hookspecs).items() if name.startswith("autoexp_")}


@pytest.fixture(scope="module")
def manager() -> typing.Any:
    return plugin_manager()


@pytest.mark.parametrize("name", HOOKS)
def test_it_says_what_it_is_for_and_since_when(name: str) -> None:
    said = inspect.getdoc(HOOKS[name])
    assert said is not None
    assert len(said.split()) > 5
    assert "Since 0." in said or "Since 1." in said


@pytest.mark.parametrize("name", HOOKS)
def test_it_is_typed(name: str) -> None:
    hook: FunctionType = HOOKS[name]
    assert set(inspect.signature(hook).parameters) == set(hook.__annotations__) - {"return"}
    assert "return" in hook.__annotations__


@pytest.mark.parametrize("name", [name for name in HOOKS if name != "autoexp_register_commands"])
def test_a_built_in_implements_it_by_the_same_door(name: str, manager: typing.Any) -> None:
    assert [i for i in getattr(manager.hook, name).get_hookimpls() if i.plugin_name.startswith("autoexp.")]


def test_the_command_line_implements_the_hook_for_commands() -> None:
    from autoexp.cli import app

    manager = plugin_manager([f"autoexp.cli.{name}" for name in app.BUILTINS])
    assert len(manager.hook.autoexp_register_commands.get_hookimpls()) >= len(app.BUILTINS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_hook_takes_the_state_and_the_context_and_its_built_in_is_tried_last(
    stage: str, manager: typing.Any
) -> None:
    hook = getattr(manager.hook, f"autoexp_{stage}")
    assert hook.spec.opts["firstresult"]
    assert list(hook.spec.argnames) == ["state", "context"]
    (builtin,) = hook.get_hookimpls()
    assert builtin.trylast
    assert builtin.plugin_name == f"autoexp.stages.{stage}"


def test_every_hook_is_a_stage_or_registers_something() -> None:
    stages = {f"autoexp_{stage}" for stage in STAGES}
    assert set(HOOKS) == stages | set(REGISTERING.values()) | {"autoexp_register_commands"}
