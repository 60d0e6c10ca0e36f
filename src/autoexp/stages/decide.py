"""decide: keep, discard, or crash, or another look first. The branch and the tables are views of it, brought up to date
by the session.
"""

from __future__ import annotations

from autoexp.runs import budget
from autoexp.runs.events import Decided, Event, LookAgain, NoiseCarried
from autoexp.runs.measuring import seed_of
from autoexp.runs.records import Trial
from autoexp.runs.state import Iteration, RunState
from autoexp.spec.cases import case_of, earlier_noise, judging
from autoexp.spec.context import Context
from autoexp.spec.markers import hookimpl
from autoexp.spec.ports import Case, Verdict

MOST_LOOKS = 30
"""Trainings of one iteration, whatever a rule asks for."""


@hookimpl(trylast=True)
def autoexp_decide(state: RunState, context: Context) -> Event | None:
    """A trial without a number is a crash, or was stopped; an unchanged program is never an improvement; the rule
    decides the rest, now or after another training of the candidate or of the best.
    """
    iteration = state.open[context.iteration]
    trial = iteration.trial
    assert trial is not None  # record comes before decide
    if trial.metric is None:
        stopped = trial.status == "stopped"
        evidence = iteration.outcome.evidence if stopped and iteration.outcome is not None else None
        why = trial.reason or trial.status
        return Decided(
            iteration=trial.iteration, decision="discard" if stopped else "crash", why=why, evidence=evidence
        )
    if trial.iteration and trial.commit == trial.base and state.best is not None:
        why = f"the program is unchanged ({state.metric.name} {trial.metric:.6f})"
        return Decided(iteration=trial.iteration, decision="discard", why=why)
    rule = context.rule()
    judge = judging(rule)
    if judge is None:
        decision, why = rule.decide(trial, state.best, state.trials, state.metric)
        return Decided(iteration=trial.iteration, decision=decision, why=why)
    if state.carried is None:
        machine = state.measurements[-1].machine if state.measurements else ""
        noise, runs = earlier_noise(state, context, machine)
        return NoiseCarried(noise=noise, runs=runs)
    case = case_of(state, context, trial, _may_look(state, iteration, context))
    return _answered(state, iteration, case, judge(case))


def _may_look(state: RunState, iteration: Iteration, context: Context) -> bool:
    """Not when the run is to end, when trainings are not selected, or when the last look came to nothing."""
    failed = iteration.again is not None and (iteration.outcome is None or iteration.outcome.status != "success")
    selected = iteration.number == 0 or "train" in context.plan.loop
    over = state.stopping or budget.reached(state, state.plan) is not None
    return selected and not failed and not over and iteration.attempt < MOST_LOOKS


def _answered(state: RunState, iteration: Iteration, case: Case, verdict: Verdict) -> Event:
    trial = case.trial
    if verdict.look is not None and case.may_look:
        target = case.best_trial if verdict.look == "incumbent" else trial
        if target is not None:
            return _look(state, iteration, target, verdict)
    decision, why = verdict.decision, verdict.why
    return Decided(iteration=trial.iteration, decision=decision, why=why, evidence=verdict.evidence)


def _look(state: RunState, iteration: Iteration, target: Trial, verdict: Verdict) -> LookAgain:
    number = len({each.seed for each in state.measured(target.source, target.commit)}) + 1
    return LookAgain(
        iteration=iteration.number,
        of="incumbent" if verdict.look == "incumbent" else "candidate",
        commit=target.commit,
        source=target.source,
        seed=seed_of(state.seed, number),
        why=verdict.why,
    )
