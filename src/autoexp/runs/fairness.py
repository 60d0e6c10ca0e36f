"""Whether a training has kept to its budget, by what was measured of it from outside.

Inside, the harness's clock decides, and a candidate can change anything inside. From outside nobody can tell importing
and compiling from training; what can be told is how long the GPU was at work, or the processor, in all. The baseline is
the person's own program: what it took beyond the budget is what starting, warming up and evaluating take here.
"""

from __future__ import annotations

from autoexp.runs.records import Taken

TIMES = 1.5
"""A candidate may take so many times what the baseline took beyond the budget: a larger model is warmed up and
evaluated longer."""
SHARE, SECONDS = 0.1, 5.0
"""And this part of the budget more, or so many seconds: the last step overruns, and a busy machine is slow."""
MORE_WORK = 1.25
"""On a processor it has besides worked so many times as much as the baseline: on a machine that others use too, the
same work may take any time by the clock on the wall."""


def over_budget(taken: Taken, baseline: Taken | None, budget: float) -> str:
    """Why a training of `budget` seconds was longer than that; '' when it was not, or when nothing tells."""
    if baseline is None:
        return ""
    slack = max(SHARE * budget, SECONDS)

    def most(of_baseline: float) -> float:
        return budget + TIMES * max(0.0, of_baseline - budget) + slack

    if taken.gpu_seconds is not None and baseline.gpu_seconds is not None:
        return _said("its GPU was at work", taken.gpu_seconds, most(baseline.gpu_seconds), budget)
    if taken.cpu_seconds is None or baseline.cpu_seconds is None:
        return ""
    # seconds in which it worked: no more than passed, and of several threads at once no sum
    worked = min(taken.wall_seconds, taken.cpu_seconds)
    if taken.cpu_seconds <= MORE_WORK * baseline.cpu_seconds + slack:
        return ""
    return _said("it worked", worked, most(min(baseline.wall_seconds, baseline.cpu_seconds)), budget)


def over_evaluated(taken: Taken | None, baseline: Taken | None, budget: float, splits: int = 1) -> str:
    """Why the evaluation of a training of `budget` seconds took so much that it may have gone on training in there, on
    `splits` parts of the data where the baseline's was on one; '' when it did not, or when nothing tells.
    """
    if taken is None or baseline is None:
        return ""
    slack = max(SHARE * budget, SECONDS)
    if taken.gpu_seconds is not None and baseline.gpu_seconds is not None:
        worked, usual = taken.gpu_seconds, baseline.gpu_seconds
    else:
        spent, before = taken.cpu_seconds, baseline.cpu_seconds
        if spent is None or before is None or spent <= MORE_WORK * splits * before + slack:
            return ""
        worked, usual = min(taken.wall_seconds, spent), min(baseline.wall_seconds, before)
    most = TIMES * splits * usual + slack
    if worked <= most:
        return ""
    return f"over budget: its evaluation worked for {worked:.1f} s; by the baseline's, {most:.1f} s are the most"


def _said(what: str, seconds: float, most: float, budget: float) -> str:
    if seconds <= most:
        return ""
    beside = f"with a budget of {budget:g} s, start and evaluation included, {most:.1f} s are the most"
    return f"over budget: {what} for {seconds:.1f} s; {beside}"
