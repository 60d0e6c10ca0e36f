"""Real runs that end by their budget, and what their status says of it."""

from __future__ import annotations

from typing import Any

import pytest

from autoexp.errors import UsageError
from autoexp.runs import events as ev
from autoexp.runs.journal import read
from autoexp.runs.plan import next_stages
from autoexp.runs.records import Budget, Plan
from autoexp.runs.state import begin, reduce
from autoexp.session.planning import first_plan, limits
from autoexp.session.requests import Request, planned, post
from autoexp.session.status import status
from autoexp.testing import Scripted, proposal, replayed, run
from autoexp.workspace.paths import Workspace
from autoexp.workspace.settings import Settings, load

STAGES = (("setup", "baseline", "loop"), ("propose", "apply", "commit", "train", "triage", "record", "decide"))
WORSE = Scripted(*[proposal(LR=0.08 + n / 100) for n in range(1, 30)])


def closed(workspace: Workspace) -> ev.SessionClosed:
    found = replayed(workspace.run("test")).closed
    assert found is not None
    return found


def test_hours_end_a_run_and_more_of_them_go_on_with_it(workspace: Workspace) -> None:
    state = run(workspace, 0, WORSE, target=None, budget={"max_hours": 0.0005})
    paths = workspace.run("test")
    assert state.worked_seconds >= 0.0005 * 3600 and not state.open
    assert (closed(workspace).reason, closed(workspace).exit_code) == ("max_hours", 0)
    report = status(paths)
    assert (report.stop_reason, report.phase, report.target) == ("max_hours", "done", None)
    assert report.hint == "autoexp resume --max-hours 2"
    assert report.limits[0].used is not None and report.limits[0].used >= report.limits[0].limit == 0.0005
    assert report.ended is not None and report.ended.startswith("max_hours: ")

    done = state.completed
    again = run(workspace, None, WORSE)
    assert again.completed == done, "without more it ends at once"
    more = run(workspace, None, WORSE, budget={"max_hours": 0.0005})
    assert more.completed > done
    assert more.plan.budget.max_hours is not None and more.plan.budget.max_hours > 2 * 0.0005


def test_a_replay_opens_iterations_where_the_session_did(workspace: Workspace) -> None:
    run(workspace, 0, WORSE, target=None, budget={"max_hours": 0.0005})
    journal = read(workspace.run("test").journal)
    state = begin(journal[0])
    for event in journal[1:]:
        steps = {step.stage for step in next_stages(state, state.plan)}
        if isinstance(event, ev.Proposed):
            assert "propose" in steps
        if isinstance(event, ev.SessionClosed):
            assert not steps
        state = reduce(state, event)


def test_trainings_are_counted_and_on_a_resume_they_are_so_many_more(workspace: Workspace) -> None:
    state = run(workspace, 0, WORSE, target=None, budget={"max_trials": 3})
    assert (state.completed, state.trainings) == (2, 3)
    assert (closed(workspace).reason, closed(workspace).detail) == ("max_trials", "3 of 3 trainings")
    state = run(workspace, None, WORSE, budget={"max_trials": 2})
    assert (state.completed, state.trainings) == (4, 5)
    assert state.plan.budget.max_trials == 5
    state = run(workspace, 1, WORSE, budget={"max_trials": None})
    assert (state.completed, closed(workspace).reason) == (5, "done")
    assert state.plan.budget == Budget()


def test_workers_do_not_train_more_than_there_are(workspace: Workspace) -> None:
    state = run(workspace, 0, WORSE, target=None, budget={"max_trials": 6}, workers=3)
    assert (state.trainings, state.completed, closed(workspace).reason) == (6, 5, "max_trials")


def test_good_enough_ends_a_run(workspace: Workspace) -> None:
    ideas = Scripted(proposal(LR=0.5), proposal(LR=0.01), proposal(LR=0.2))
    state = run(workspace, 0, ideas, target=None, budget={"until": 1.04})
    assert (state.completed, closed(workspace).reason) == (2, "until")
    assert status(workspace.run("test")).hint == "autoexp resume --until none --loops 5"


def test_a_plateau_ends_a_run_and_a_resume_gives_it_as_many_again(workspace: Workspace) -> None:
    ideas = Scripted(proposal(LR=0.5), proposal(LR=0.01), *WORSE.proposals)
    state = run(workspace, 0, ideas, target=None, budget={"plateau": 3})
    assert (state.completed, closed(workspace).reason) == (5, "plateau")
    assert run(workspace, None, ideas).completed == 8
    assert status(workspace.run("test")).hint == "autoexp resume"


def test_a_stop_and_a_target_have_their_own_words(workspace: Workspace) -> None:
    run(workspace, 1, WORSE, budget={"max_trials": 9})
    assert status(workspace.run("test")).stop_reason == "done"
    post(workspace.run("test"), Request(kind="stop"))
    run(workspace, None, WORSE, run_id="other", loop=("propose",), target=1)
    assert status(workspace.run("other")).stop_reason == "pending"


# -- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "loops", "target"),
    [({}, None, 0), ({}, 3, 3), ({"max_hours": 8}, None, None), ({"max_hours": 8}, 3, 3), ({"until": 0.0}, 0, 0)],
)
def test_without_loops_the_budget_says_when_it_ends(budget: dict[str, Any], loops: Any, target: Any) -> None:
    assert first_plan(Settings(), STAGES, loops, {"budget": budget}).target == target
    settings = Settings(budget=Budget.model_validate(budget))
    assert first_plan(settings, STAGES, loops, {}).target == target


def test_flags_go_before_settings_and_can_lift_them(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with workspace.settings.open("a") as file:
        file.write('\n[budget]\nmax_hours = 8\nplateau = "none"\nuntil = 0.95\n')
    monkeypatch.setenv("AUTOEXP_BUDGET__MAX_COST", "5.00")
    settings = load(workspace)
    assert settings.budget == Budget(max_hours=8, until=0.95, max_cost=5)
    plan = first_plan(
        settings, STAGES, None, {"budget": limits({"max_hours": "none", "max_trials": "7", "until": None})}
    )
    assert plan.budget == Budget(max_trials=7, until=0.95, max_cost=5)


def test_a_setting_that_is_no_limit_is_named(workspace: Workspace) -> None:
    with workspace.settings.open("a") as file:
        file.write("\n[budget]\nmax_hours = -1\n")
    with pytest.raises(UsageError, match=r"autoexp\.toml: budget\.max_hours must be greater than 0"):
        load(workspace)


@pytest.mark.parametrize("flags", [{"max_hours": "soon"}, {"max_trials": "2.5"}, {"max_cost": "-1"}, {"until": "nan"}])
def test_a_flag_that_is_no_limit_is_named(flags: dict[str, str]) -> None:
    (name, text) = next(iter(flags.items()))
    with pytest.raises(UsageError) as caught:
        limits(flags)
    flag = f"--{name.replace('_', '-')}"
    assert str(caught.value).startswith(f"{flag} {text}: ")
    assert caught.value.hint.startswith(f"autoexp start {flag} ")


USED = {"max_hours": 7.5, "max_trials": 40, "max_cost": 1.25, "max_tokens": 1000, "plateau": 4}


@pytest.mark.parametrize(
    ("before", "limits", "loops", "completed", "after"),
    [
        (Plan(target=None), {"max_hours": 2.0}, None, 30, Plan(target=None, budget=Budget(max_hours=9.5))),
        (Plan(target=100), {"max_trials": 5}, None, 30, Plan(target=100, budget=Budget(max_trials=45))),
        (Plan(target=30), {"max_cost": 1.0}, None, 30, Plan(target=None, budget=Budget(max_cost=2.25))),
        (Plan(target=30), {"plateau": 5}, 2, 30, Plan(target=32, budget=Budget(plateau=5))),
        (Plan(target=None), {}, 2, 30, Plan(target=32)),
        (Plan(target=None, budget=Budget(max_hours=8)), {"until": 0.9}, None, 30, None),
        (Plan(target=30, budget=Budget(max_hours=8)), {"max_hours": None}, None, 30, Plan(target=30)),
    ],
)
def test_what_a_resume_makes_of_a_plan(
    before: Plan, limits: dict[str, Any], loops: int | None, completed: int, after: Plan | None
) -> None:
    after = after or Plan(target=None, budget=Budget(max_hours=8, until=0.9))
    request = Request(kind="resume", loops=loops, changes={"budget": limits} if limits else {})
    assert planned(before, request, completed, True, USED) == after
    assert planned(before, request, completed, False, USED) == after
