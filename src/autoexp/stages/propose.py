"""propose: a person's proposal if there is one, else the proposer's, else the fallback's."""

from __future__ import annotations

from collections.abc import Collection

from autoexp.errors import AgentError, NothingToProposeError, PreconditionError, ProposalError, UnreachableError
from autoexp.runs.events import Event, Proposed, QuestionAsked
from autoexp.runs.records import Proposal, chosen
from autoexp.runs.resting import down
from autoexp.runs.state import RunState
from autoexp.spec.context import Context, pick
from autoexp.spec.markers import hookimpl
from autoexp.workspace.files import write_atomic
from autoexp.workspace.inbox import NO_AGENT, claim


@hookimpl(trylast=True)
def autoexp_propose(state: RunState, context: Context) -> Event | None:
    """Precedence: --proposal-file, next_proposal.json, the queue, the proposer, the fallback.

    Raises PreconditionError when nobody has a proposal, ProposalError when all that there is is a question.
    """
    taken = claim(context.paths, context.iteration, context.note, _refusal(state, context))
    if taken is not None:
        proposal, proposer = taken
    else:
        proposal, proposer = _ask(state, context)
    write_atomic(
        context.paths.iteration(context.iteration) / "proposal.json", proposal.model_dump_json(indent=2) + "\n"
    )
    return Proposed(iteration=context.iteration, base=state.tip, proposal=proposal, proposer=proposer)


def _refusal(state: RunState, context: Context) -> str:
    """Why a proposal without edits cannot be applied here and now; '' when an agent can do it."""
    if not context.plan.stochastic:
        return NO_AGENT
    agent = context.agent()
    if agent is not None:
        known = state.agents.get(agent)
        waits = known is not None and down(known) and context.iteration < known.rests_until
        return f"{agent} does not answer at present; it is tried again later" if waits else ""
    return f"it has no edits, and there is no agent ({context.settings.agent.name}) to make them"


def _ask(state: RunState, context: Context) -> tuple[Proposal, str]:
    names = [chosen(context.plan.proposers, state.seed, context.iteration), context.settings.run.fallback]
    if not context.plan.stochastic:
        names = names[-1:]
    failures: dict[str, AgentError | PreconditionError] = {}
    question = ""
    for name in dict.fromkeys(names):
        if failures and (taken := _meanwhile(state, context, failures)) is not None:
            return taken
        try:
            proposal = pick(context.proposers, name, "proposer").propose(state, context)
        except (AgentError, PreconditionError) as error:
            # an outage must not end the night, nor an agent that is gone; one that was never there does
            if isinstance(error, PreconditionError) and not _was_there(state, name):
                raise
            since = state.agents[name].since if name in state.agents else None
            context.note(f"the proposer {name} failed: {error}", f"failed-{name}-{since or context.iteration}")
            failures[name] = error
            continue
        if proposal is not None and proposal.status == "ok":
            return proposal, name
        if proposal is not None:  # the question is with the person; the night goes on with somebody else's idea
            question = _asks(proposal, name, context)
        context.log(f"propose: {name} has nothing to propose")
    if (failures or question) and (taken := _meanwhile(state, context, failures)) is not None:
        return taken
    for name, failure in failures.items():
        # One that is down was not waited for, because somebody else was to go on; as nobody can, it is. And one that
        # answers badly is no reason to end a night while it is not out of order.
        is_down = name in state.agents and down(state.agents[name])
        if is_down or (isinstance(failure, AgentError) and not isinstance(failure, UnreachableError)):
            context.log(f"propose: nobody else has an idea: {name} is {'waited for' if is_down else 'asked anew'}")
            proposal = pick(context.proposers, name, "proposer").propose(_forgiven(state), context)
            if proposal is not None and proposal.status == "ok":
                return proposal, name
            if proposal is not None:
                question = _asks(proposal, name, context)
    if question:
        raise ProposalError(
            f"{question} (and nobody else has an idea)",
            "autoexp answer (it lists the questions), or autoexp propose, then: autoexp resume",
        )
    for failure in failures.values():
        raise failure
    raise NothingToProposeError(
        f"nothing to propose that was not tried ({', '.join(dict.fromkeys(names))}); "
        f"search moves the ALL_CAPS constants of {', '.join(context.settings.files.editable)}",
        "give more values a name in capitals, or: autoexp propose --patch FILE",
    )


def _meanwhile(state: RunState, context: Context, failed: Collection[str]) -> tuple[Proposal, str] | None:
    """What a person has left while an agent was asked that then had no idea: it comes before the fallback's."""
    agent = context.agent()
    refusal = f"{agent} does not answer at present" if agent in failed else _refusal(state, context)
    return claim(context.paths, context.iteration, context.note, refusal)


def _asks(proposal: Proposal, name: str, context: Context) -> str:
    """Put a proposer's question to the person, and say so."""
    context.remember(QuestionAsked(iteration=context.iteration, by=name, text=proposal.description[:2000]))
    return f"the proposer {name} needs input (need_input): {proposal.description}"


def _was_there(state: RunState, name: str) -> bool:
    """Whether a proposer had a part in the run before."""
    proposers = {trial.proposer for trial in state.trials} | {i.proposer for i in state.open.values()}
    return name in proposers or name in state.agents


def _forgiven(state: RunState) -> RunState:
    """The state in which no agent is known to be down."""
    return state.model_copy(update={"agents": {}})
