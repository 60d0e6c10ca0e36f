"""`watch`: a run as it happens. It only looks: Ctrl-C detaches, and the run goes on."""

from __future__ import annotations

import re
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from autoexp.cli import accounts, render
from autoexp.errors import AutoexpError
from autoexp.runs.state import RunState
from autoexp.session import views
from autoexp.session.background import live
from autoexp.session.looking import Follower, LineReader, Row, rows
from autoexp.session.status import InProgress, Status, described
from autoexp.workspace.paths import RunPaths

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

TICK_SECONDS = 0.25
LAST_TRIALS = 30
"""How many trials the summary shows."""
CHART_COLUMNS = 88


class Watched:
    """A run that is looked at again and again: what is expensive in a long run is done when the journal grew."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.follower = Follower(paths)
        self.log = LineReader(paths.log, first=50 if render.terminal() else 10)
        self.lines: list[str] = []
        self._derive()

    def _derive(self) -> None:
        self.rows, self._summary = rows(self.state), views.summary(self.state)

    @property
    def state(self) -> RunState:
        return self.follower.state

    @property
    def report(self) -> Status:
        return described(self.paths, self.state, self._summary)

    def look(self) -> list[str]:
        """Take in what is new; returns the new lines of runner.log."""
        if self.follower.look():
            self._derive()
        fresh = self.log.lines()
        self.lines = [*self.lines, *fresh][-50:]
        return fresh

    def goes_on(self) -> bool:
        """Whether a session works on the run. Looked at twice: a session lets go for a moment between two requests."""
        if live(self.paths):
            return True
        time.sleep(TICK_SECONDS)
        return live(self.paths)


def watch(paths: RunPaths) -> None:
    """Attach to a run until it ends or Ctrl-C comes; then say how it ended.

    Raises an AutoexpError with the session's exit code when the session failed.
    """
    flag = render.run_flag(paths.folder)
    try:
        watched = Watched(paths)
        (_draw if render.terminal() else _follow)(watched)
        watched.look()
        summarise(watched)
    except KeyboardInterrupt:
        goes_on = f"; the run goes on: autoexp watch{flag} | autoexp stop{flag}" if live(paths) else ""
        render.say(f"detached{goes_on}")
        return
    closed = watched.state.closed
    if closed is None and watched.state.session is not None:
        raise AutoexpError("the session was killed; nothing is lost", f"autoexp resume{flag}")
    if closed is not None and closed.exit_code:
        error = AutoexpError(render.clean(closed.detail), render.clean(closed.hint))
        error.exit_code = closed.exit_code
        raise error


def _follow(watched: Watched) -> None:
    """Plain lines as they happen, for pipes and files."""
    going = live(watched.paths)
    while going:
        going = watched.goes_on()  # asked before the last look, so that no line is missed
        for line in watched.look():
            render.say(render.safe(line))
        sys.stdout.flush()
        if going:
            time.sleep(TICK_SECONDS)


def _draw(watched: Watched) -> None:
    """The live view, on the terminal's second screen: a resized window cannot tear it."""
    from rich.console import Console
    from rich.live import Live

    if not live(watched.paths):
        return
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while watched.goes_on():
            watched.look()
            screen.update(view(watched, console.width, console.height), refresh=True)
            time.sleep(TICK_SECONDS)


def _leave(number: int, frame: FrameType | None) -> None:
    """Let go of the second screen first: a terminal must not be left on it."""
    raise SystemExit(128 + number)


# -- the live view ------------------------------------------------------------------------------------------------


def view(watched: Watched, width: int, height: int) -> RenderableType:
    """Everything that fits: who and how long, the stages, the progress, the last trials, the log."""
    from rich.console import Group

    report = watched.report
    said = [_line(f"question: {render.asked(each)}", "yellow") for each in report.questions[-2:]]
    said += [
        _line(render.clean(text), "yellow" if label == "agent" else "dim") for label, text in accounts.told(report)
    ]
    said += [_line(f"steering: {render.clean(each.text)}", "dim") for each in report.guidance[-2:]]
    top = [*_header(watched, report), *_work(report, width), _whole(report), *said, _line("")]
    log = min(6, max(2, height // 6))
    room = max(1, height - len(top) - log - 3)
    trials = [_line(*line) for line in render.table(watched.rows[-room:], report.metric, width)]
    log = max(log, height - len(top) - len(trials) - 2)  # what the trials leave
    parts = [*top, *trials, _line(""), *(_line(_brief(line), "dim") for line in watched.lines[-log:])]
    parts.append(_line("Ctrl-C detaches; the run goes on", "dim italic"))
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _header(watched: Watched, report: Status) -> list[RenderableType]:
    from rich.table import Table

    session = watched.state.session
    elapsed = time.time() - session.at if session is not None else None
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    title = _line(report.run_id, "bold")
    title.append(f"  branch {render.clean(report.branch)}", "not bold dim")
    done = f"{report.iterations_completed}" + (f" of {report.target}" if report.target is not None else " done")
    grid.add_row(title, _line(f"  {done}  {render.clock(elapsed)}"))
    counts = render.counted(report.counts)
    best = report.best
    if best is None:
        return [grid, _line("no result yet", "dim"), _line("")]
    found = _line(f"{report.metric} ")
    found.append(render.gain(report.baseline_metric, best.metric, best.gain), "bold green" if best.gain else "")
    found.append(f" {report.standing}" if report.standing != "none" else "", "dim")
    found.append(f"  {counts}" if counts else "", "dim")
    what = _line(f"best: iteration {best.iteration}, {render.clean(best.description)}", "dim")
    return [grid, found, what, _line("")]


def _work(report: Status, width: int) -> list[RenderableType]:
    """What is under way: with one worker in full, with more in a line each."""
    if not report.in_progress:
        return [_line(f"{render.clean(report.waiting_on)} …", "cyan")]
    found: list[RenderableType] = []
    for item in report.in_progress:
        found += _iteration(item, width, brief=len(report.in_progress) > 2)
    return found


def _iteration(item: InProgress, width: int, brief: bool) -> list[RenderableType]:
    from autoexp.runs.state import BASELINE, LOOP

    name = f"iteration {item.iteration}" if item.iteration else "baseline"
    name += f", attempt {item.attempt}" if item.attempt > 1 else ""
    title = _line(name, "bold")
    title.append(f"  {render.clean(item.description)}" if item.iteration else "  the unchanged program", "not bold")
    fraction = item.progress.fraction if item.progress is not None else None
    progress = _bar(item.stage, fraction, render.left(item), pulse=not item.waits_for_device)
    if brief:
        return [title, progress]
    stages = _line("")
    order = LOOP if item.iteration else BASELINE
    for stage in order if width >= 80 else (item.stage,):
        done = order.index(stage) < order.index(item.stage)
        stages.append(stage, "bold cyan" if stage == item.stage else "green" if done else "dim")
        stages.append(" › " if stage != order[-1] and width >= 80 else "", "dim")
    return [title, stages, progress, _line(render.training(item))]


def _bar(label: str, fraction: float | None, rest: float | None, pulse: bool = True) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    grid.add_column(width=8, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(width=4, justify="right", no_wrap=True)
    grid.add_column(width=13, justify="right", no_wrap=True)
    line = ProgressBar(total=1.0, completed=fraction or 0.0, pulse=fraction is None and pulse, finished_style="green")
    percent = f"{fraction:.0%}" if fraction is not None else ""
    grid.add_row(label, line, percent, f"{render.clock(rest)} left" if rest is not None else "")
    return grid


def _whole(report: Status) -> RenderableType:
    """How far the whole run is: its iterations, the baseline and the parts of those under way."""
    parts = sum(item.progress.fraction or 0.0 for item in report.in_progress if item.progress is not None)
    done = report.iterations_completed + report.baseline_done + parts
    fractions = [done / (report.target + 1)] if report.target is not None else []
    fractions += [(each.used or 0.0) / each.limit for each in report.limits if each.name.startswith("max_")]
    return _bar("run", min(1.0, max(fractions)) if fractions else None, report.eta_seconds, pulse=False)


def _brief(line: str) -> str:
    """A line of runner.log without its date and its level, unless that is worth telling."""
    return render.clean(re.sub(r"^\[[0-9-]*T([0-9:]+)\] (?:\[INFO\] )?", r"\1 ", line))


# -- when it has ended --------------------------------------------------------------------------------------------


def summarise(watched: Watched) -> None:
    """What came out, why it ended, and where to look next."""
    state, report = watched.state, watched.report
    render.say(f"\n{render.paint(report.run_id, 'bold')}\n")
    if watched.rows:
        render.show_table(watched.rows[-LAST_TRIALS:], report.metric)
        if len(watched.rows) > LAST_TRIALS:
            render.say(render.paint(f"{len(watched.rows) - LAST_TRIALS} earlier trials: autoexp log", "dim"))
        render.say()
    for line in chart(watched.rows, min(render.width() or CHART_COLUMNS, CHART_COLUMNS) - 10):
        render.say(re.sub("[─│┐┘●]+", lambda found: render.paint(found[0], "green"), line))
    best = report.best
    done = accounts.iterations(report)
    fields = [
        ("ended", render.clean(report.ended or "")),
        ("done", ": ".join(filter(None, (done, render.counted(report.counts))))),
    ]
    fields += [("question", render.asked(each)) for each in report.questions]
    if best is not None:
        number = render.gain(report.baseline_metric, best.metric, best.gain)
        fields.append((report.metric, render.paint(number, "green bold") if best.gain else number))
        fields.append(("", render.standing(report)))
        fields.append(("best", f"iteration {best.iteration} ({best.commit[:7]}), {render.clean(best.description)}"))
        fields.append(("branch", render.clean(report.branch)))
    fields += [(label, render.clean(text)) for label, text in accounts.told(report)]
    flag = render.run_flag(watched.paths.folder)
    commands = [f"autoexp log{flag}", f"autoexp show {best.iteration if best else 0}{flag}"] if watched.rows else []
    if best is not None and best.iteration:
        commands.append(f"git diff {state.base[:7]}..{best.commit[:7]}")
    fields += [("look" if not index else "", render.paint(text, "cyan")) for index, text in enumerate(commands)]
    render.show_fields(fields)


def chart(found: list[Row], width: int, height: int = 7) -> list[str]:
    """The best so far over the trials; nothing when it never changed. A dot is a trial that was not kept."""
    bests = [row.best for row in found if row.best is not None]
    if len(set(bests)) < 2:
        return []
    low, high = min(bests), max(bests)
    columns = min(len(found), width)
    step = max(1, min(6, width // columns))
    grid = [[" "] * (columns * step) for _ in range(height)]

    def level(value: float) -> int:
        return round((high - value) / (high - low) * (height - 1))

    before: int | None = None
    for column in range(columns):
        part = found[column * len(found) // columns : (column + 1) * len(found) // columns]
        at = column * step
        for row in part:
            if row.trial.metric is not None and low <= row.trial.metric <= high and row.trial.decision != "keep":
                grid[level(row.trial.metric)][at] = "·"
        best = part[-1].best
        if best is None:
            continue
        now = level(best)
        if before is not None and now != before:
            grid[before][at] = "┐" if now > before else "┘"
            for between in range(min(now, before) + 1, max(now, before)):
                grid[between][at] = "│"
        for offset in range(step):
            grid[now][at + offset] = "─"
        if any(row.trial.decision == "keep" for row in part):
            grid[now][at] = "●"
        before = now
    form = ".4f" if 0.01 <= max(abs(low), abs(high)) < 1000 else ".3g"
    labels = {0: f"{high:{form}}", height - 1: f"{low:{form}}"}
    lines = [f"{labels.get(number, ''):>9} {''.join(cells).rstrip()}" for number, cells in enumerate(grid)]
    first, last = found[0].trial.iteration, found[-1].trial.iteration
    return [*lines, f"{'':9} {first:<{max(2, columns * step - 6)}}{last:>6}", ""]
