"""Adapter of the fault bench for autoexp: `python -m faultbench --adapter autoexp_adapter:Autoexp`."""

from __future__ import annotations

import fcntl
import json
import os

from faultbench.adapters.base import Adapter
from faultbench.world import RUNNER_PY, Fail, Status

BRANCH = "autoresearch/bench"


class Autoexp(Adapter):
    name = "autoexp"
    prompt_rules = [
        ["propose", r"Propose the next experiment\."],
        ["apply", r"Apply this experiment to the program\."],
        ["triage", r"The training of a candidate failed\."],
    ]
    llm_replies = {
        "propose": {
            "status": "ok",
            "description": "lower LR, try %N%",
            "change_plan": "LR *= 0.9",
            "commit_description": "experiment %N%: lower LR",
        },
        "apply": {"status": "applied", "summary": "changed LR"},
        "triage": {"action": "mark_crash_and_discard", "reason": "bench"},
    }
    commit_git = r"^commit-tree\b"
    # deciding undoes nothing: what was dropped leaves the worktree when the next candidate is checked out
    decide_git = r"^checkout\b"
    # the job is remembered in its own folder before it is started: the journal's event comes after
    spawn_needle = ("history.jsonl", "training_started")

    def install(self, ctx):
        ctx.completed_then = 0
        # Nobody but the agent has ideas: P27 wants to see that its question is not trained. Many count trainings:
        # nothing is repeated.
        (ctx.repo / "autoexp.toml").write_text(
            f'[run]\nfallback = "opencode"\nrule = "improvement"\n'
            f"[train]\ntimeout_seconds = {ctx.settings['train_timeout']}\n"
            f"[agent]\ntimeout_seconds = {ctx.settings['llm_timeout']}\n"
        )

    def _cli(self, command, run_id, *flags):
        return [RUNNER_PY, "-m", "autoexp", command, *(["--run-id", run_id] if run_id else []), *flags]

    def _flags(self, loops, background, proposal_file, llm):
        flags = [] if loops is None else ["--loops", str(loops)]
        flags += ["--background-train" if background else "--no-background-train", "--proposer", "opencode"]
        flags += ["--proposal-file", str(proposal_file)] if proposal_file else []
        return flags + ([] if llm else ["--no-stochastic"])

    def start(
        self, ctx, *, run_id, loops, background=False, branch=BRANCH, proposal_file=None, auto_prepare=True, llm=True
    ):
        flags = self._flags(loops, background, proposal_file, llm)
        flags += ["--branch", branch] if branch else []
        return self._cli("start", run_id, *flags, *([] if auto_prepare else ["--no-auto-prepare"]))

    def resume(self, ctx, *, run_id, loops, background=False, proposal_file=None, llm=True):
        # To a live run `--loops N` adds N, and one that finished since the last look at its status is complete:
        # somebody who only wants what is still missing does not ask for more.
        if background and loops is not None:
            missing = ctx.completed_then + loops - self._completed(ctx, run_id)
            loops = None if missing <= 0 or self._live(ctx, run_id) else missing
        return self._cli("resume", run_id, *self._flags(loops, background, proposal_file, llm))

    def status(self, ctx, *, run_id):
        return self._cli("status", run_id, "--json")

    def parse_status(self, ctx, res):
        try:
            d = json.loads(res.out)
        except ValueError:
            raise Fail("status output is not readable") from None
        going_on = bool(d["in_progress"]) or (d["live"] and d["phase"] != "done")
        ctx.completed_then = d["iterations_completed"]
        return Status(d["iterations_completed"], d["best_val_bpb"], d["kept_commit"], going_on, d["baseline_done"], d)

    def _completed(self, ctx, run_id):
        try:
            return json.loads(self.state_file(ctx, run_id).read_text())["iterations_completed"]
        except (OSError, ValueError):
            return 0

    def _live(self, ctx, run_id):
        try:
            descriptor = os.open(self.run_dir(ctx, run_id) / "session.lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def kill_targets(self, ctx, proc):
        """The command and, in the background, the detached session of the run."""
        pids = [proc.pid]
        for file in self.runs_dir(ctx).glob("*/state.json"):
            session = json.loads(file.read_text()).get("session") if self._live(ctx, file.parent.name) else None
            pids += [session["pid"]] if session else []
        return pids

    def runs_dir(self, ctx):
        return ctx.repo / "workflows/runs"

    def list_runs(self, ctx):
        return [name for name in super().list_runs(ctx) if not name.startswith(".")]

    def run_dir(self, ctx, run_id=None):
        return self.runs_dir(ctx) / (run_id or ctx.RUN)

    def state_file(self, ctx, run_id=None):
        return self.run_dir(ctx, run_id) / "state.json"

    def state_path_text(self, ctx):
        return "state.json"

    def history_file(self, ctx, run_id=None):
        return self.run_dir(ctx, run_id) / "history.jsonl"

    def results_file(self, ctx):
        return ctx.repo / "results.tsv"

    def proposal_drop(self, ctx, run_id=None):
        return self.run_dir(ctx, run_id) / "next_proposal.json"

    def branch(self, ctx, run_id=None):
        try:
            return json.loads(self.state_file(ctx, run_id).read_text())["branch"]
        except (OSError, ValueError):
            return BRANCH

    def make_old_state(self, ctx):
        """Fields that an older release did not write are missing, from the view and from the journal."""
        file = self.state_file(ctx)
        fields = json.loads(file.read_text())
        for name in ("open", "journal_bytes", "notes", "requests"):
            fields.pop(name, None)
        file.write_text(json.dumps(fields))
        journal = self.history_file(ctx)
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        for event in events:
            for name in ("plugins", "settings", "slot", "request"):
                event.pop(name, None)
        journal.write_text("".join(json.dumps(event) + "\n" for event in events))
        return True

    def make_future_state(self, ctx):
        journal = self.history_file(ctx)
        lines = journal.read_text().splitlines()
        first = json.loads(lines[0])
        first["format"] = 999
        journal.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
        return True
