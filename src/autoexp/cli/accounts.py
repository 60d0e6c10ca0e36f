"""Budget, spending and agents that do not answer, in words: for status, the live view, log and show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoexp.runs.budget import share

if TYPE_CHECKING:
    from autoexp.runs.records import Spent
    from autoexp.session.accounts import Limit
    from autoexp.session.status import Status


def iterations(report: Status) -> str:
    """'3 of 5 iterations', or only how many where the budget says when it ends."""
    done = report.iterations_completed
    if report.target is not None:
        return f"{done} of {report.target} iterations"
    return f"{done} iteration" + ("" if done == 1 else "s")


def told(report: Status) -> list[tuple[str, str]]:
    """What does not answer, what is left of the budget, what the agents took: fields, as many as there are."""
    found = [("agent" if not index else "", down.words) for index, down in enumerate(report.unreachable)]
    found += [("asked" if not index else "", call.words) for index, call in enumerate(report.asked)]
    found += [("budget" if not index else "", limit(each)) for index, each in enumerate(report.limits)]
    if report.spent.calls:
        found.append(("spent", spending(report.spent)))
        names = report.spent.agents
        found += [("", f"{name}: {spending(spent)}") for name, spent in names.items() if len(names) > 1]
    return found


def limit(each: Limit) -> str:
    """'max_hours: 1.5 of 8 hours'."""
    said = share(each.name, each.used, each.limit) if each.used is not None else f"{each.limit:g}, and nothing yet"
    return f"{each.name}: {said}" + (f" ({each.doubt})" if each.doubt else "")


def spending(spent: Spent) -> str:
    """'7 calls, 12,300 + 4,500 tokens, at least $1.2000 (2 of 7 calls did not tell)'."""
    if not spent.calls:
        return ""

    def known(text: str, unknown: int, what: str) -> str:
        if unknown == spent.calls:
            return f"{what} unknown"
        return f"at least {text} ({unknown} of {spent.calls} calls did not tell)" if unknown else text

    tokens = known(f"{spent.input_tokens:,} + {spent.output_tokens:,} tokens", spent.uncounted, "tokens")
    cost = known(f"${spent.cost_usd:.4f}", spent.unpriced, "cost")
    return f"{spent.calls} call{'' if spent.calls == 1 else 's'}, {tokens}, {cost}"
