"""Events in words, one line each, for runner.log and the terminal."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from autoexp.runs import budget
from autoexp.runs import events as ev
from autoexp.runs.records import Plan


def write_line(log: Path, text: str, level: str = "INFO") -> str:
    """Append a line to runner.log, and return it. A log that cannot be written stops nobody."""
    line = f"[{time.strftime('%Y-%m-%dT%H:%M:%S')}] [{level}] {text}"
    with suppress(OSError), log.open("a", encoding="utf-8", errors="replace") as file:
        file.write(line + "\n")
    return line


def told(event: ev.Event) -> str:
    """What happened, in one line."""
    match event:
        case ev.RunCreated():
            return f"run {event.run_id} created: branch {event.branch}, base {event.base[:7]}, seed {event.seed}"
        case ev.PlanMade():
            plan = event.plan
            stages = ",".join(plan.stages)
            who = plan.proposer if plan.stochastic else "the fallback, no agent is asked (until resume --stochastic)"
            return f"plan: {stages}; {_goal(plan)}; proposer {who}; rule {plan.rule}"
        case ev.StopRequested():
            return "stop requested: no new iteration will be opened"
        case ev.SessionOpened():
            return f"session opened: pid {event.pid} on {event.host}"
        case ev.SessionClosed():
            return f"session closed: {event.reason}" + (f": {event.detail}" if event.detail else "")
        case ev.SetupDone():
            return "setup: done"
        case ev.StageSkipped():
            return f"{_number(event.iteration)} {event.stage}: skipped, it is not selected"
        case ev.BaselineOpened():
            return f"baseline: {event.commit[:7]}, the unchanged program"
        case ev.ProbeOpened():
            return f"{_number(event.iteration)} probe: {_short(event.why)}: {event.commit[:7]} is trained once more"
        case ev.Excused():
            which = f" (not counted: {', '.join(map(str, event.iterations))})" if event.iterations else ""
            return f"it is not the candidates{which}: {_short(event.why, 500)}"
        case ev.Proposed():
            return f"{_number(event.iteration)} propose: {_short(event.proposal.description)} ({event.proposer})"
        case ev.Applied():
            return f"{_number(event.iteration)} apply: {event.status}: {_short(event.summary)}"
        case ev.Committed():
            return f"{_number(event.iteration)} commit: {event.commit[:7]}"
        case ev.TrainingStarted():
            isolated = ", isolated" if event.isolated else ""
            return f"{_number(event.iteration)} train: started{isolated}, attempt {event.attempt}, in {event.folder}"
        case ev.TrainingEnded():
            result = event.outcome
            number = f"{result.metric:.6f}" if result.metric is not None else _short(result.reason)
            return f"{_number(event.iteration)} train: {result.status}: {number}"
        case ev.Triaged():
            return f"{_number(event.iteration)} triage: {event.action}" + (
                f": {_short(event.reason)}" if event.reason else ""
            )
        case ev.Recorded():
            return f"{_number(event.trial.iteration)} record: {event.trial.status}"
        case ev.Decided():
            return f"{_number(event.iteration)} decide: {event.decision}: {_short(event.why)}"
        case ev.LookAgain():
            what = "the candidate" if event.of == "candidate" else "the best"
            again = f"train {what} again with seed {event.seed}" if event.iteration else f"again with seed {event.seed}"
            return f"{_number(event.iteration)} decide: {again}: {_short(event.why)}"
        case ev.NoiseCarried():
            known = event.noise.deviation
            found = f"{known:.6f} from {', '.join(event.runs)}" if known is not None else "nothing from earlier runs"
            return f"noise of a training: {found}"
        case ev.AgentAsked():
            once = f"try {event.number} of {event.tries}, at most {event.timeout_seconds:g} s"
            return f"{_number(event.iteration)} {event.stage}: {event.agent} is asked ({once})"
        case ev.AgentCalled():
            took = f"{event.seconds:.0f} s"
            if event.input_tokens is not None or event.output_tokens is not None:
                took += f", {event.input_tokens or 0} + {event.output_tokens or 0} tokens"
            if event.cost_usd is not None:
                took += f", ${event.cost_usd:.4f}"
            said = f": {_short(event.problem)}" if event.problem else ""
            return f"{_number(event.iteration)} {event.stage}: {event.agent} was asked ({took}){said}"
        case ev.GuidanceGiven():
            return f"steering: {_short(event.text, 500)}"
        case ev.GuidanceWithdrawn():
            return f"steering: guidance {event.number} is withdrawn"
        case ev.QuestionAsked():
            return f"{_number(event.iteration)} propose: {event.by} asks (need_input): {_short(event.text, 500)}"
        case ev.QuestionAnswered():
            return f"steering: question {event.number} is answered: {_short(event.answer, 500)}"
        case ev.IdeaHad():
            return f"{_number(event.iteration)} propose: an idea for later: {_short(event.text)}"
        case ev.IdeaTried():
            return f"{_number(event.iteration)} propose: it takes up idea {event.number}"
        case ev.IdeaDropped():
            return f"steering: idea {event.number} is dropped"
        case ev.LessonLearned():
            return f"{_number(event.iteration)} propose: learned: {_short(event.text)}"
        case ev.CheckOpened():
            names = ", ".join(program.name for program in event.programs)
            return f"{event.key}: {names} with {len(event.seeds)} seed" + ("s" if len(event.seeds) != 1 else "")
        case ev.CheckGrown():
            return f"{event.key}: {event.program.name} too: {_short(event.program.description)}"
        case ev.CheckStarted():
            return f"{event.key} train: started, attempt {event.job.attempt}, in {event.job.folder}"
        case ev.CheckEnded():
            result = event.outcome
            number = f"{result.metric:.6f}" if result.metric is not None else _short(result.reason)
            again = f" ({event.action})" if event.action != "proceed" else ""
            return f"{event.key} train: {result.status}: {number}{again}"
        case ev.CheckClosed():
            return f"{event.key}: {event.verdict.finding}: {_short(event.verdict.words, 500)}"
        case ev.BestSimplified():
            numbers = ", ".join(map(str, event.removed))
            return f"best: {event.commit[:7]}, {event.of[:7]} without the changes of {numbers}: {_short(event.why)}"
        case ev.Noted():
            return f"note: {_short(event.text, 500)}"


def _goal(plan: Plan) -> str:
    """'iterations up to 5', and what else may end them."""
    limits = [f"{name} {limit:g}" for name in budget.LIMITS if (limit := getattr(plan.budget, name, None)) is not None]
    until = f"iterations up to {plan.target}" if plan.target is not None else "iterations until the budget ends them"
    return until + (f" ({', '.join(limits)})" if limits else "")


def _number(iteration: int) -> str:
    return f"iteration {iteration}" if iteration else "baseline"


def _short(text: str, limit: int = 160) -> str:
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
