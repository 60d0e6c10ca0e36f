"""Third parties: a real package, installed for real, and everything that one can do wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import Lab

from autoexp.errors import UsageError
from autoexp.plugins.manager import (
    BUILTINS,
    DISABLE,
    REGISTERING,
    collect,
    implementers,
    parts,
    plugin_manager,
    versions,
)
from autoexp.runs import events as ev
from autoexp.runs.records import Proposal
from autoexp.runs.state import RunState
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.testing import (
    ProposerCases,
    Registering,
    Scripted,
    git,
    install,
    make_workspace,
    plugged,
    proposal,
    run,
)
from autoexp.workspace.paths import Workspace

DEMO = Path(__file__).parent / "plugins" / "autoexp-demo-plugin"


# -- a real package ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that sees this one's packages, with the demo plugin installed by pip."""
    if find_spec("hatchling") is None or find_spec("pip") is None:
        if os.environ.get("CI"):
            pytest.fail("in CI the demo plugin must be built: pip install hatchling pip")
        pytest.skip("building the demo plugin needs hatchling and pip in this environment")
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(DEMO, folder / "source")
    venv.create(folder / "venv", system_site_packages=True, symlinks=True)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    # this environment may be a virtual one itself, which a new one does not see
    (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(site), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "venv" / "bin" / "python"


def autoexp(python: Path, root: Path, *args: str) -> str:
    done = subprocess.run(
        [python, "-m", "autoexp", *args], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_an_installed_plugin_proposes_wraps_and_is_written_down(python: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "work")
    flags = ("--run-id", "r", "--loops", "2", "--proposer", "halve", "--no-background-train")
    autoexp(python, workspace.root, "start", *flags)
    status = json.loads(autoexp(python, workspace.root, "status", "--json"))
    assert status["iterations_completed"] == 2
    assert git(workspace.root, "log", "--format=%s", f"main..{status['branch']}") == "LR 0.04 -> 0.02\nLR 0.08 -> 0.04"
    log = (workspace.run("r").folder / "demo.log").read_text().splitlines()
    assert log == [f"{kind} {number}-1" for number in range(3) for kind in ("training_started", "training_ended")]
    created = json.loads(workspace.run("r").journal.read_text().splitlines()[0])
    assert created["plugins"] == {"demo": "1.2.3"}


def test_an_installed_plugin_is_listed_and_can_be_switched_off(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path / "work")
    listed = autoexp(python, workspace.root, "plugins")
    assert "demo" in listed
    assert "halve" in listed
    monkeypatch.setenv(DISABLE, "demo")
    assert "halve" not in autoexp(python, workspace.root, "plugins")


class TestHalve(ProposerCases):
    """The demo plugin's own test, as its author would write it."""

    def make(self) -> Any:
        source: dict[str, Any] = {"__name__": "autoexp_demo_plugin"}
        exec(compile((DEMO / "autoexp_demo_plugin.py").read_text(), "autoexp_demo_plugin", "exec"), source)
        return source["Halve"]()


class TestSearch(ProposerCases):
    """The built-in proposer is held to what third parties are held to."""

    def make(self) -> Any:
        return parts(plugin_manager(), "proposers", {})["search"]


# -- order ------------------------------------------------------------------------------------------------------------


class Own:
    """A stage of a third party; it answers for iteration 1 and leaves the others to the built-in."""

    @hookimpl
    def autoexp_propose(self, state: RunState, context: Context) -> ev.Event | None:
        if context.iteration != 1:
            return None
        return ev.Proposed(iteration=1, base=state.tip, proposal=proposal(LR=0.04, description="own"), proposer="own")


@pytest.mark.parametrize("first", ["built-in", "third party"])
def test_a_third_partys_stage_goes_before_the_built_in_in_both_orders(first: str) -> None:
    manager = plugin_manager(builtins=())
    own, builtin = Own(), sys.modules["autoexp.stages.propose"]
    order = [(builtin, "built-in"), (own, "third party")]
    for plugin, name in order if first == "built-in" else reversed(order):
        manager.register(plugin, name)
    assert implementers(manager, "autoexp_propose") == ["third party", "built-in"]


def test_an_answer_of_none_falls_through_to_the_built_in(workspace: Workspace) -> None:
    state = run(workspace, 2, Scripted(proposal(LR=0.5), proposal(LR=0.02)), plugins={"own": Own()})
    assert [(trial.proposer, trial.description) for trial in state.trials[1:]] == [
        ("own", "own"),
        ("under-test", "LR = 0.02"),
    ]


def test_a_hook_may_take_fewer_arguments(workspace: Workspace) -> None:
    class Small:
        @hookimpl
        def autoexp_decide(self, context: Context) -> ev.Event:
            return ev.Decided(iteration=context.iteration, decision="keep", why="all is well")

    state = run(workspace, 1, Scripted(proposal(LR=0.5)), plugins={"small": Small()})
    assert [trial.why for trial in state.trials] == ["all is well"] * 2


# -- mistakes ---------------------------------------------------------------------------------------------------------


class Idle:
    def propose(self, state: RunState, context: Context) -> Proposal | None:
        return None


@pytest.mark.parametrize("kind", list(REGISTERING))
def test_a_name_that_is_registered_twice_is_refused_with_both_owners_named(kind: str) -> None:
    taken = sorted(parts(plugin_manager(), kind, {}))
    assert taken, f"there is no built-in of kind {kind}"
    owner = collect(plugin_manager(), REGISTERING[kind], {})[taken[0]][1]
    with (
        plugged({"intruder": Registering(**{kind: {taken[0]: Idle()}})}),
        pytest.raises(UsageError, match="registered twice") as caught,
    ):
        parts(plugin_manager(), kind, {})
    assert repr(taken[0]) in str(caught.value)
    assert owner in str(caught.value)
    assert "intruder" in str(caught.value)
    assert f"export {DISABLE}=" in caught.value.hint


class Mistyped:
    @hookimpl
    def autoexp_propse(self, state: RunState) -> None:
        pass


class Inventive:
    @hookimpl
    def autoexp_propose(self, state: RunState, mood: str) -> None:
        pass


@pytest.mark.parametrize(("plugin", "said"), [(Mistyped(), "autoexp_propse"), (Inventive(), "mood")])
def test_a_mistyped_hook_or_argument_is_refused_at_load(plugin: object, said: str) -> None:
    with plugged({"clumsy": plugin}), pytest.raises(UsageError, match="plugin 'clumsy'") as caught:
        plugin_manager()
    assert said in str(caught.value)
    assert caught.value.hint.endswith(f"export {DISABLE}=clumsy")


def test_a_plugin_that_cannot_be_imported_is_named_and_every_command_says_how_to_go_on(lab: Lab) -> None:
    lab.plugin("crooked_plugin", "import a_module_that_is_not_there\n")
    said = lab.command("start", code=2)
    assert "plugin 'crooked_plugin'" in said
    assert "a_module_that_is_not_there" in said
    assert f"export {DISABLE}=crooked_plugin" in said
    lab.environ[DISABLE] = "crooked_plugin"
    lab.start(0)


class Raising:
    @hookimpl
    def autoexp_register_proposers(self, register: Any) -> None:
        raise KeyError("no licence")


def test_a_registering_hook_that_raises_names_its_plugin() -> None:
    with plugged({"moody": Raising()}), pytest.raises(UsageError, match=r"plugin 'moody' failed in .*no licence"):
        parts(plugin_manager(), "proposers", {})
    with plugged({"moody": Raising()}):
        assert parts(plugin_manager(), "rules", {})  # the other kinds are not concerned


def test_a_stage_that_raises_or_answers_with_the_wrong_event_ends_the_session_and_says_so(workspace: Workspace) -> None:
    class Wrong:
        @hookimpl
        def autoexp_setup(self) -> ev.Event:
            return ev.Noted(text="hello")

    class Bug:
        @hookimpl
        def autoexp_setup(self) -> None:
            raise ZeroDivisionError("a bug")

    with pytest.raises(UsageError, match="stage setup returned Noted instead of SetupDone"):
        run(workspace, plugins={"wrong": Wrong()}, proposer=Idle())
    with pytest.raises(ZeroDivisionError):
        run(workspace, plugins={"bug": Bug()}, proposer=Idle())
    log = workspace.run("test").log.read_text()
    assert "unexpected ZeroDivisionError: a bug" in log
    assert "autoexp_setup" in log  # with its traceback
    assert run(workspace, proposer=Idle()).setup_done


def test_a_part_that_does_not_exist_is_told_with_those_that_do(lab: Lab) -> None:
    for flag, known in (("--proposer", "scripted"), ("--executor", "local"), ("--rule", "improvement")):
        said = lab.command("start", flag, "nonesuch", "--no-background-train", code=2)
        assert "'nonesuch'" in said
        assert known in said
    assert lab.workspace.run_ids() == []


def test_all_plugins_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud.py").write_text("raise SystemError('imported')\n")
    install(tmp_path, {"loud": "loud"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(DISABLE, "*")
    assert versions(plugin_manager()) == {}
    assert {name for name, _ in plugin_manager().list_name_plugin()} == set(BUILTINS)
    monkeypatch.setenv(DISABLE, "other, loud")
    assert plugin_manager()


def test_a_plugins_version_is_known() -> None:
    with plugged({"known": Idle()}):
        assert versions(plugin_manager())["known"] == "1.0"
