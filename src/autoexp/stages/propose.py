"""propose: a person's proposal if there is one, else the proposer's, else the fallback's."""

from __future__ import annotations

import random
from collections.abc import Mapping

from autoexp.errors import AgentError, PreconditionError, ProposalError
from autoexp.runs.events import Event, Proposed, QuestionAsked
from autoexp.runs.records import Proposal
from autoexp.runs.state import RunState
from autoexp.spec.context import Context, pick
from autoexp.spec.markers import hookimpl
from autoexp.workspace.files import write_atomic
from autoexp.workspace.inbox import claim


@hookimpl(trylast=True)
def autoexp_propose(state: RunState, context: Context) -> Event | None:
    """Precedence: --proposal-file, next_proposal.json, the queue, the proposer, the fallback.

    Raises PreconditionError when nobody has a proposal, ProposalError when all that there is is a question.
    """
    taken = claim(context.paths, context.iteration, context.note, _refusal(context))
    if taken is not None:
        proposal, proposer = taken
    else:
        proposal, proposer = _ask(state, context)
    write_atomic(
        context.paths.iteration(context.iteration) / "proposal.json", proposal.model_dump_json(indent=2) + "\n"
    )
    return Proposed(iteration=context.iteration, base=state.tip, proposal=proposal, proposer=proposer)


def chosen(shares: Mapping[str, float], seed: int, iteration: int) -> str:
    """Whose turn it is: by the shares, the same for the same seed and iteration."""
    return random.Random(f"{seed}-{iteration}").choices(list(shares), list(shares.values()))[0]


def _refusal(context: Context) -> str:
    """Why a proposal without edits cannot be applied here; '' when an agent can do it."""
    if context.agent() is not None:
        return ""
    return f"it has no edits, and there is no agent ({context.settings.agent.name}) to make them"


def _ask(state: RunState, context: Context) -> tuple[Proposal, str]:
    names = [chosen(context.plan.proposers, state.seed, context.iteration), context.settings.run.fallback]
    if not context.plan.stochastic:
        names = names[-1:]
    failure: AgentError | None = None
    question = ""
    for name in dict.fromkeys(names):
        proposer = pick(context.proposers, name, "proposer")
        try:
            proposal = proposer.propose(state, context)
        except AgentError as error:
            # an outage must not end the night; a proposer that is not there at all (PreconditionError) does
            context.note(f"the proposer {name} failed: {error}", f"failed-{name}-{context.iteration}")
            failure = error
            continue
        if proposal is not None and proposal.status == "ok":
            return proposal, name
        if proposal is not None:  # the question is with the person; the night goes on with somebody else's idea
            question = f"the proposer {name} needs input (need_input): {proposal.description}"
            text = proposal.description[:2000]
            context.remember(QuestionAsked(iteration=context.iteration, by=name, text=text))
        context.log(f"propose: {name} has nothing to propose")
    if question:
        raise ProposalError(
            f"{question} (and nobody else has an idea)",
            "autoexp answer (it lists the questions), or autoexp propose, then: autoexp resume",
        )
    if failure is not None:
        raise failure
    raise PreconditionError(
        f"nothing to propose that was not tried ({', '.join(dict.fromkeys(names))}); "
        f"search moves the ALL_CAPS constants of {', '.join(context.settings.files.editable)}",
        "give more values a name in capitals, or: autoexp propose --patch FILE",
    )
