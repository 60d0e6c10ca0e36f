"""All printing but the live view's. Without rich, which takes longer to import than all of this takes to run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexp.cli import accounts

if TYPE_CHECKING:
    from autoexp.runs.records import Question
    from autoexp.runs.state import RunState
    from autoexp.session.listing import Listed
    from autoexp.session.looking import Plugins, Row, Shown
    from autoexp.session.standing import CheckShown
    from autoexp.session.status import InProgress, NoiseShown, Status

STYLES = {"keep": "green", "discard": "dim", "crash": "red", "untrained": "yellow", "inconclusive": "yellow"}
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
ROOMY = 90
"""Columns from which the table of trials has all its columns."""
_LABEL = 10
COMMANDS = ("next", "simpler", "look")
"""Labels of what is to be typed: a line break in it would be copied."""


def terminal() -> bool:
    """Whether a person looks on, at something that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")


def paint(text: str, style: str) -> str:
    """Colour on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if not text or not style or not terminal() or os.environ.get("NO_COLOR"):
        return text
    return "".join(f"\x1b[{_CODES[word]}m" for word in style.split()) + f"{text}\x1b[0m"


def clean(text: str) -> str:
    """One line without anything that a terminal would obey: other people's words are shown, not executed."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def safe(line: str) -> str:
    """A line of a file as it is, but with harmless characters in place of control characters."""
    return "".join(char if char.isprintable() else "�" for char in line.expandtabs(8))


def say(line: str = "") -> None:
    """Print; a character that the terminal's encoding lacks becomes '?'."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding, "replace"))


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def short(path: str | Path) -> str:
    """Relative to where the person is, if it is below."""
    here, there = Path.cwd(), Path(path)
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(there)


def clock(seconds: float | None) -> str:
    """1:02:03, or 2:03."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def gain(baseline: float | None, best: float, better_by: float | None) -> str:
    """'1.065640 → 1.032040, better by 0.033600 (3.15%)'."""
    if baseline is None or better_by is None:
        return f"{best:.6f}"
    if not better_by:
        return f"{best:.6f}, the baseline's: no gain yet"
    share = f" ({better_by / abs(baseline):.2%})" if baseline else ""
    return f"{baseline:.6f} → {best:.6f}, better by {better_by:.6f}{share}"


def standing(report: Status) -> str:
    """Whether that gain is a claim or was audited; '' where there is no gain."""
    style = {"audited": "green", "claimed": "yellow", "none": ""}[report.standing]
    if report.audit is not None and report.audit.finding != "confirmed":
        style = "yellow"
    return paint(clean(report.standing_words), style)


FINDINGS = {"confirmed": "green", "reproduced": "green", "measured": "green", "unclear": "yellow"}


def show_check(found: CheckShown) -> None:
    """A check: each training, and what it found."""
    verdict = found.finding or f"under way, {found.done} of {found.wanted} trainings"
    say(f"{paint(found.key, 'bold')}  {paint(verdict, FINDINGS.get(verdict, 'red'))}  {paint(found.run_id, 'dim')}")
    size = max(len(training.program) for training in found.trainings)
    for each in found.trainings:
        number = f"{each.metric:.6f}" if each.metric is not None else each.status
        number += f"  test {each.test:.6f}" if each.test is not None else ""
        say(f"  {each.program:<{size}}  seed {each.seed:<10}  {number}")
    for index, words in enumerate(found.words.split("; ") if found.words else []):
        show_fields((("found" if not index else "", clean(words)),))
    show_fields(("note", clean(note)) for note in found.notes)
    if found.under_way:
        show_fields((("next", f"autoexp {found.kind}" if found.kind != "reproduce" else "autoexp resume"),))
    elif found.offer is not None:
        show_fields((("simpler", f"git diff {found.offer.of[:7]} {found.offer.ref}"),))


def counted(counts: dict[str, int]) -> str:
    words = {"keep": "kept", "discard": "discarded", "crash": "crashed", "inconclusive": "inconclusive"}
    words["untrained"] = "not trained"
    return ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts.get(name))


def training(item: InProgress) -> str:
    """What the trainer says of itself: 'loss 2.513 · 125k tok/s'."""
    if item.waits_for_device:
        return "waits for the device: another training is on it"
    known = item.progress
    if known is None:
        return ""
    words = [known.phase] if known.phase and known.phase not in ("train", "training") else []
    words += [f"step {known.step:,}"] if known.step is not None else []
    words += [f"loss {known.loss:.4g}"] if known.loss is not None else []
    if known.tokens_per_second is not None:
        rate = known.tokens_per_second
        words.append(
            f"{rate / 1e6:.2f}M tok/s"
            if rate >= 1e6
            else f"{rate / 1e3:.0f}k tok/s"
            if rate >= 1e4
            else f"{rate:.0f} tok/s"
        )
    return " · ".join(map(clean, words))


def isolation(report: Status) -> str:
    """Whether trainings see only what they need, and why not; '' before any."""
    if report.isolated:
        return "yes"
    return "no: " + clean(report.why_not_isolated) if report.why_not_isolated else ""


def left(item: InProgress) -> float | None:
    """Seconds until the training's budget is used up, as far as its trainer says."""
    known = item.progress
    if known is None or known.elapsed_seconds is None:
        return None
    if known.fraction:
        return known.elapsed_seconds * (1 - known.fraction) / known.fraction
    return known.budget_seconds - known.elapsed_seconds if known.budget_seconds is not None else None


def show_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """A label and its text in each line; on a terminal a long text goes on below itself, between words."""
    for label, text in pairs:
        if text:
            first, *rest = [text] if label in COMMANDS else lines(text, _LABEL + 1)
            say(f"{paint(f'{label:<{_LABEL}}', 'dim')} {first}")
            for line in rest:
                say(f"{'':<{_LABEL}} {line}")


def lines(text: str, indent: int) -> list[str]:
    """`text` in lines that fit beside so many columns; one line where nobody looks on, or a word is too long."""
    columns = width()
    if columns is None or len(text) <= columns - indent:
        return [text]
    return textwrap.wrap(text, max(columns - indent, 20), break_long_words=False, break_on_hyphens=False)


def show_status(report: Status) -> None:
    """A run at a glance."""
    state = paint("live", "green bold") + f", pid {report.pid}" if report.live else paint("not running", "yellow")
    say(f"{paint(report.run_id, 'bold')}  {state}  {paint('branch ' + report.branch, 'dim')}")
    done = accounts.iterations(report)
    done += f": {counted(report.counts)}" if counted(report.counts) else ""
    done += f"; about {clock(report.eta_seconds)} left" if report.eta_seconds is not None else ""
    show_fields((("now", clean(report.waiting_on)), ("done", done)))
    best = report.best
    if best is not None:
        number = gain(report.baseline_metric, best.metric, best.gain)
        show_fields(((report.metric, paint(number, "green") if best.gain else number),))
        show_fields((("", standing(report)),))
        show_fields((("best", f"iteration {best.iteration} ({best.commit[:7]}): {clean(best.description)}"),))
    show_fields((("noise", noise(report.noise)),))
    for item in report.in_progress:
        name = f"iteration {item.iteration}" if item.iteration else "baseline"
        words = f"{name} at {item.stage}" + (f", attempt {item.attempt}" if item.attempt > 1 else "")
        show_fields((("open", f"{words}: {clean(item.description)}" if item.iteration else words),))
        known = item.progress
        if known is not None and known.fraction is not None:
            rest = left(item)
            ends = f"  {clock(rest)} left" if rest is not None else ""
            show_fields((("", f"{bar(known.fraction, 24)} {known.fraction:4.0%}  {training(item)}{ends}"),))
        elif training(item):
            show_fields((("", training(item)),))
    show_fields((("ended", clean(report.ended or "")),))
    show_fields(
        (label, paint(clean(text), "yellow" if label == "agent" else "")) for label, text in accounts.told(report)
    )
    show_fields((("queued", f"{report.queued} of your proposals" if report.queued else ""),))
    show_fields(("question", asked(each)) for each in report.questions)
    show_fields(("steering", f"{each.number}. {clean(each.text)}") for each in report.guidance)
    show_fields(("note", clean(note)) for note in report.notes[-3:])
    show_fields((("isolated", isolation(report)),))
    where = [short(report.paths.run), short(report.paths.log)]
    show_fields((("run", where[0]), ("log", where[1])))
    show_fields((("training", short(report.paths.train_log) if report.paths.train_log else ""),))
    show_fields((("next", paint(_next(report), "cyan")),))


def noise(known: NoiseShown) -> str:
    """'0.00051 +/- 0.00012 from seed to seed, by 9 repeats'; nothing before there is one."""
    if known.deviation is None or known.uncertainty is None:
        return ""
    repeats = f"{known.repeats} repeat" + ("s" if known.repeats != 1 else "")
    earlier = f", {known.carried} of them in earlier runs" if known.carried else ""
    return f"{known.deviation:.2g} +/- {known.uncertainty:.1g} from seed to seed, by {repeats}{earlier}"


def asked(question: Question) -> str:
    """An open question, and how to answer it."""
    return f'{clean(question.text)}  (autoexp answer {question.number} "...")'


def _next(report: Status) -> str:
    flag = run_flag(Path(report.paths.run))
    if report.live:
        return f"autoexp watch{flag}   autoexp stop{flag}"
    hint = clean(report.hint or f"autoexp resume{flag}")
    return f"autoexp log{flag}   {hint}" if report.phase == "done" and hint.startswith("autoexp resume") else hint


def run_flag(folder: Path) -> str:
    """What commands need to mean this run; nothing for the newest, which they mean by themselves."""
    from autoexp.workspace.paths import Workspace

    newest = Workspace(folder.parents[2]).newest()
    return "" if newest == folder.name else f" --run-id {folder.name}"


def bar(fraction: float, width: int) -> str:
    full = round(fraction * width)
    return paint("━" * full, "green") + paint("─" * (width - full), "dim")


# -- tables -------------------------------------------------------------------------------------------------------


def width() -> int | None:
    """Columns of the terminal; None where nobody looks on, and lines are as long as they are."""
    return shutil.get_terminal_size().columns if terminal() else None


def cut(text: str, cells: int | None) -> str:
    """As much of `text` as fits into so many cells: Chinese characters and emoji take two, accents none."""
    if cells is None or (text.isascii() and len(text) <= cells):
        return text
    taken, fits = 0, 0
    for index, char in enumerate(text):
        taken += 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if taken > cells:
            return text[:fits] + "…"
        if taken < cells:
            fits = index + 1
    return text


def table(rows: Sequence[Row], metric: str, columns: int | None) -> list[tuple[str, str]]:
    """Trials as lines with their style, the header first. In less than ROOMY columns only what matters most."""
    all_columns = columns is None or columns >= ROOMY
    names = ["#", "commit", metric, "delta", "GB", "time", "decision", "by"]
    lines = [names, *([*_cells(row)] for row in rows)]
    chosen = [i for i, name in enumerate(names) if all_columns or name not in ("commit", "GB", "time", "by")]
    widths = {i: max(len(line[i]) for line in lines) for i in chosen}
    styles = ["dim", *(STYLES.get(row.trial.verdict, "") for row in rows)]
    found = []
    for line, row, style in zip(lines, [None, *rows], styles, strict=True):
        cells = [f"{line[i]:<{widths[i]}}" if i in (1, 6, 7) else f"{line[i]:>{widths[i]}}" for i in chosen]
        text = "  ".join([*cells, ""])
        rest = columns - len(text) if columns is not None else None
        found.append((cut(text + (_words(row, rest) if row is not None else "description"), columns), style))
    return found


def _cells(row: Row) -> Iterator[str]:
    trial = row.trial
    yield str(trial.iteration)
    yield trial.commit[:7] if trial.commit != trial.base or trial.metric is not None else "-"
    yield f"{trial.metric:.6f}" if trial.metric is not None else "-"
    yield f"{row.delta:+.6f}" if row.delta is not None else ""
    yield f"{trial.memory_gb:.1f}"
    yield clock(trial.seconds) if trial.seconds is not None else "-"
    yield trial.verdict
    yield cut(clean(trial.proposer), 16)


def _words(row: Row, cells: int | None) -> str:
    """What was tried; where there is no number, half of the place is for the reason."""
    trial = row.trial
    if trial.metric is not None or not trial.reason:
        return clean(trial.description)
    half = max(cells // 2, 12) if cells is not None else None
    return f"{cut(clean(trial.description), half)} [{clean(trial.reason)}]"


def show_table(rows: Sequence[Row], metric: str) -> None:
    for text, style in table(rows, metric, width()):
        say(paint(text, style))


def show_log(state: RunState, rows: Sequence[Row]) -> None:
    """The table of trials, what is under way, and what the agents took."""
    show_table(rows, state.metric.name)
    for number, iteration in sorted(state.open.items()):
        if iteration.trial is None:
            words = clean(iteration.proposal.description) if iteration.proposal else "baseline"
            say(paint(cut(f"{number}  at {iteration.stage}: {words}", width()), "cyan"))
    for line in checks(state):
        say(paint(cut(line, width()), "dim"))
    if state.spent.calls:
        each = "; ".join(f"{clean(name)} {accounts.spending(agent.spent)}" for name, agent in state.agents.items())
        say(paint(cut(f"agents: {each}", width()), "dim"))


def checks(state: RunState) -> Iterator[str]:
    """What the gain is, claimed or audited, and what every check found."""
    from autoexp.session.standing import in_words, progress

    if words := in_words(state):
        yield clean(words)
    for check in state.checks:
        said = f"{check.verdict.finding}: {check.verdict.words}" if check.verdict is not None else progress(check)
        yield clean(f"{check.key}  {said}")


def show_runs(found: Sequence[Listed]) -> None:
    """A run a line, the oldest first."""
    names = max((len(each.run_id) for each in found), default=0)
    for each in found:
        state = "live" if each.live else each.ended or "not begun"
        best = f"{each.metric} {each.best:.6f}" if each.best is not None else "no result"
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created_at))
        many = f"{each.iterations_completed} iteration{'' if each.iterations_completed == 1 else 's'}"
        text = f"{each.run_id:<{names}}  {began}  {many:>15}  {best:<22}  {clean(state)}"
        say(paint(cut(text, width()), "green" if each.live else ""))
    if not found:
        say("there is no run yet: autoexp start --loops 5")


def show_iteration(found: Shown) -> None:
    """All about one iteration."""
    name = f"iteration {found.iteration}" if found.iteration else "baseline"
    verdict = f"under way, at {found.stage}" if found.under_way else found.verdict
    verdict = paint(verdict, STYLES.get(found.verdict, "cyan"))
    say(f"{paint(name, 'bold')}  {verdict}  {paint(found.run_id, 'dim')}")
    number = f"{found.value:.6f}" if found.value is not None else ""
    if found.delta is not None:
        number += paint(f"  {found.delta:+.6f} against the best before", "green" if found.better else "dim")
    show_fields(((found.metric, number), ("why", clean(found.why))))
    if found.proposal is not None:
        show_fields((("proposal", clean(found.proposal.description)), ("by", clean(found.proposer))))
        for index, line in enumerate(found.proposal.change_plan.splitlines()):
            show_fields((("plan" if not index else "", safe(line)),))
        for edit in found.proposal.edits:
            words = f"set {edit.name} = {edit.value!r}" if edit.op == "set" else getattr(edit, "path", "a patch")
            show_fields((("edit", clean(words if edit.op != "replace" else f"replace text in {words}")),))
    show_fields((("spent", accounts.spending(found.spent)),))
    show_fields((("commit", found.commit), ("ref", found.ref), ("base", found.base)))
    for attempt in found.attempts:
        _attempt(attempt)
    if found.diff:
        say()
        for line in found.diff.splitlines():
            style = (
                "bold"
                if line.startswith(("+++", "---", "diff "))
                else {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
            )
            say(paint(safe(line), style))
    if found.log_tail:
        say(f"\n{paint('the end of train.log', 'dim')}")
        for line in found.log_tail:
            say(safe(line))
    say()
    show_fields(("files" if not index else "", short(path)) for index, path in enumerate(found.files))


def _attempt(attempt: Any) -> None:
    result = attempt.outcome
    words = [clean(attempt.applied)] if attempt.applied else []
    if attempt.of:
        words.append("the best again" if attempt.of == "incumbent" else "the candidate again")
    if result is not None:
        words += [f"{result.metric:.6f}"] if result.metric is not None else []
        words += [f"seed {result.seed}"] if result.seed is not None and result.metric is not None else []
        words.append(f"{result.status}" + (f" ({clean(result.reason)})" if result.reason else ""))
        words += [f"exit code {result.exit_code}"] if result.exit_code else []
        words += [clock(result.wall_seconds)] if result.wall_seconds is not None else []
    words += [f"triage {clean(attempt.triage)}"] if attempt.triage else []
    show_fields(((f"attempt {attempt.number}", "; ".join(words)),))
    if result is not None and result.metrics:
        show_fields((("metrics", "  ".join(f"{clean(name)} {value:g}" for name, value in result.metrics.items())),))


def show_plugins(found: Plugins) -> None:
    """Hooks, parts and versions."""
    say(paint("hooks, in calling order", "bold"))
    width = max(map(len, found.hooks))
    for hook, owners in found.hooks.items():
        say(f"  {hook:<{width}}  {', '.join(map(clean, owners)) or '-'}")
    for kind, parts in found.parts.items():
        say(paint(kind, "bold"))
        for name, owner in parts.items():
            say(f"  {clean(name):<{width}}  {clean(owner)}")
    say(paint("third-party plugins", "bold"))
    for name, version in found.versions.items() or {"none": ""}.items():
        say(f"  {clean(name):<{width}}  {clean(version)}".rstrip())
