"""benchmarks/trainer.py on the CPU: a reference that only prints, and our real trainer for a second at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from autoexp.model import profiles
from autoexp.model.console import Progress
from autoexp.model.datasets import Bundled
from autoexp.model.prepared import Prepared

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))

from fake_reference import make_reference
from sidebyside import ours, reference, rows, table
from sidebyside.jobs import Done, Job, JobFailed, run_all
from sidebyside.parts import NoPart, Part, Plan, mark_warm, warming_jobs
from sidebyside.results import Results, identity

ROOT = Path(__file__).parents[2]
MACHINE = {"host": "a", "python": "3", "torch": "2", "gpus": [{"name": "NVIDIA H100"}]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training and the validation shard; the latter long enough that no document is needed twice."""
    folder = tmp_path_factory.mktemp("shards")
    texts = [text for batch in Bundled(300).documents("train") for text in batch][:6000]
    for name, part in (("shard_00000", texts[:3000]), ("shard_06542", texts[3000:])):
        parquet.write_table(pyarrow.table({"text": part}), folder / f"{name}.parquet", row_group_size=500)
    return folder


def benchmark(*arguments: str | Path) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("AUTOEXP_")}
    env |= {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "trainer.py"), "--cpu", *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_both_sides_in_one_table_in_several_calls(shards: Path, tmp_path: Path) -> None:
    checkout = make_reference(tmp_path / "checkout")
    bare = tmp_path / "bare"
    subprocess.run(["git", "clone", "-q", "--bare", str(checkout), str(bare)], check=True)
    common = ["--reference", bare, "--shards", shards, "--out", tmp_path / "out", "--results", tmp_path / "results"]
    common += ["--budget", "1", "--seeds", "2"]

    first = benchmark(*common, "--only", "rows,ids,reference,mar8")
    said, errors = first.communicate(timeout=150)
    assert first.returncode == 0, errors
    assert "all 512 are the same on both sides" in said
    assert "sdpa of autoexp in place of somebody/flash-attention-3" in said
    assert "budget 1 s: the reference's one line TIME_BUDGET was changed" in said
    assert "NOT COMPLETE: without data, default-1, same, default-2" in said

    # The call that goes on is interrupted in its first training, and leaves nothing running.
    second = benchmark(*common, "--only", "same", "--budget", "600")
    report = tmp_path / "out" / "reports" / "same" / "metrics.jsonl"
    while second.poll() is None and not report.exists():
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 130
    assert not (tmp_path / "results" / "same.json").exists()
    size = report.stat().st_size
    time.sleep(0.6)
    assert report.stat().st_size == size

    last = benchmark(*common, "--json", tmp_path / "all.json")
    said, errors = last.communicate(timeout=170)
    assert last.returncode == 0, errors
    assert "measured earlier: rows, ids, reference-data, reference-cold, mar8, reference-warm" in errors
    assert "complete: every part is from this one machine" in said and "NOT COMPLETE" not in said
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["complete"] and not found["problems"]
    figures = {name: part["result"] for name, part in found["parts"].items()}
    assert figures["mar8"]["val_bpb"] == 1.2 and figures["reference-warm"]["val_bpb"] == 1.25
    assert figures["default-1"]["seed"] == 1 and 0 < figures["default-2"]["val_bpb"] < 8
    assert figures["data"]["tokens_per_second"] > 0 and figures["reference-data"]["tokens_per_second"] > 0
    assert (tmp_path / "results" / "table.md").read_text() == said


def test_trainings_through_the_executor_with_and_without_one_standing_by(shards: Path, tmp_path: Path) -> None:
    arguments = ["--shards", shards, "--out", tmp_path / "out", "--json", tmp_path / "all.json"]
    run = benchmark(*arguments, "--only", "beyond", "--beyond", "--beyond-budget", "2")
    said, errors = run.communicate(timeout=170)
    assert run.returncode == 0, errors
    assert "later trials through the executor: a process of its own" in said
    assert "later trials through the executor: standing by" in said
    parts = json.loads((tmp_path / "all.json").read_text())["parts"]
    for name, expected in (("beyond-own", [False] * 3), ("beyond-standby", [False, True, True])):
        result = parts[name]["result"]
        assert [trial["stood_by_seconds"] is not None for trial in result["trials"]] == expected
        assert 0 < result["startup_seconds"] < result["beyond_budget_seconds"]


def test_bad_arguments_are_said_in_a_line(shards: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["--shards", tmp_path], "shard_00000.parquet"),
        (["--shards", shards, "--reference", tmp_path], "has no"),
        (["--shards", shards, "--only", "nothing"], "no part is called nothing; there are: data"),
    ):
        run = benchmark(*arguments, "--out", tmp_path / "out")
        errors = run.communicate(timeout=100)[1]
        assert run.returncode == 2 and words in errors.splitlines()[-1], errors


@pytest.mark.skipif("AUTOEXP_TEST_REFERENCE" not in os.environ, reason="needs AUTOEXP_TEST_REFERENCE, a checkout")
def test_the_real_reference_packs_the_same_rows(shards: Path, tmp_path: Path) -> None:
    checkout = Path(os.environ["AUTOEXP_TEST_REFERENCE"])
    run = benchmark("--reference", checkout, "--shards", shards, "--out", tmp_path, "--only", "rows,ids")
    said, errors = run.communicate(timeout=150)
    assert run.returncode == 0, errors
    assert "all 512 are the same on both sides" in said


# --- the reference's side -------------------------------------------------------------------------------------------

LINES = [
    *((n * 0.1, f"step {n:05d} (1.0%) | loss: 3 | tok/sec: {1_000_000 + n:,} | mfu: 29.0%") for n in range(21)),
    (36.0, "---"),
    (36.0, "val_bpb:          0.835600"),
    (36.0, "training_seconds: 2.0"),
    (36.0, "peak_vram_mb:     45060.2"),
    (36.0, "mfu_percent:      29.70"),
    (36.0, "total_tokens_M:   11.0"),
    (36.0, "num_steps:        21"),
    (36.0, "num_params_M:     50.3"),
]  # fmt: skip


def test_its_figures_come_from_its_output_and_from_when_it_came() -> None:
    found = reference.collect(Done(37.0, LINES), 2, "FlashAttention 3 (kernels)")
    assert found["val_bpb"] == 0.8356 and found["attention"] == "FlashAttention 3 (kernels)"
    assert found["tokens_per_second"] == pytest.approx(11e6 / 21 * 10 / 2)  # the first eleven steps are not timed
    assert found["median_tokens_per_second"] == 1_000_010
    assert found["eval_seconds"] == 34.0 and found["startup_seconds"] == 1.0
    assert (found["beyond_budget_seconds"], found["num_params"]) == (35.0, 50.3e6)
    with pytest.raises(JobFailed, match="no summary"):
        reference.collect(Done(37.0, LINES[:20]), 2, "")


def test_only_the_line_about_time_is_changed_and_only_if_asked() -> None:
    text = b"A = 1\nTIME_BUDGET = 300  # seconds\n# TIME_BUDGET = 300\n"
    assert reference.with_budget(text, 300) == text
    assert reference.with_budget(text, 60) == b"A = 1\nTIME_BUDGET = 60  # seconds\n# TIME_BUDGET = 300\n"
    with pytest.raises(reference.NoReference):
        reference.with_budget(b"", 60)


def test_a_checkout_may_be_bare_or_lack_the_branch_or_be_no_repository(tmp_path: Path) -> None:
    checkout = make_reference(tmp_path / "checkout", mar8=False)
    (checkout / "train.py").write_text("edited")
    found = reference.source_of(checkout, "reference")
    assert found is not None and b"get_kernel" in found["train.py"]  # what is committed, not what lies there
    assert reference.source_of(checkout, "mar8") is None
    files = tmp_path / "files"
    files.mkdir()
    for name in reference.FILES:
        (files / name).write_text(name)
    assert reference.source_of(files, "reference") == {name: name.encode() for name in reference.FILES}
    with pytest.raises(reference.NoReference):
        reference.source_of(tmp_path, "reference")


# --- our side -------------------------------------------------------------------------------------------------------


def test_the_reference_s_constants_are_set_and_every_other_one_is_known(tmp_path: Path) -> None:
    same = ours.recipe("same", tmp_path, profiles.H100, like_reference=True)
    constants = profiles.constants_of(same.text)
    assert ours.ARCHITECTURE.items() <= constants.items()
    assert all(constants[name] == value for name, value in ours.RECIPE.items() if name in constants)
    assert ours.unknown_constants(same.text) == []
    assert "# [2, 16]; number of layers" in same.text
    assert ours.unknown_constants(same.text + "NEW = 1  # something else\n") == ["NEW"]


def test_rows_are_compared_one_by_one(tmp_path: Path) -> None:
    ours_ = np.arange(40, dtype=np.uint16).reshape(10, 4)
    ours_.tofile(tmp_path / "val.rows")
    data = Prepared(tmp_path, {"seq_len": 3, "eval_rows": 10, "val": {"rows": 10}})
    assert rows.compare(ours_, data)["identical"]
    theirs = ours_.copy()
    theirs[6, 1] = 0
    found = rows.compare(theirs, data)
    assert (found["identical"], found["rows_same"], found["first_difference"]) == (False, 9, 6)
    found = rows.compare(np.concatenate([ours_, ours_]), data)
    assert (found["identical"], found["rows_same"], found["first_difference"]) == (False, 10, 10)


# --- the table ------------------------------------------------------------------------------------------------------


def entries(**results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    key = {"cpu": False}
    return {name.replace("_", "-"): {"key": key, "machine": MACHINE, "result": r} for name, r in results.items()}


def test_ratios_goals_and_seeds() -> None:
    stored = entries(
        reference_warm={"tokens_per_second": 1.25e6, "beyond_budget_seconds": 108.0, "val_bpb": 0.8356},
        same={"tokens_per_second": 2.5e6},
        default_1={"val_bpb": 0.77, "beyond_budget_seconds": 40.0},
        default_2={"val_bpb": 0.772, "beyond_budget_seconds": 10.0},
        default_10={"val_bpb": 0.774, "beyond_budget_seconds": 11.0},
    )
    text = table.whole(stored, ["a note"], goals=True)
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    assert cells["tokens/s in training, its d8/512 and batch"] == [
        "1.25 M tok/s", "2.50 M tok/s", "2", "≥ 2.00 M tok/s", "yes",
    ]  # fmt: skip
    assert cells["wall time beyond the budget, first trial"] == ["–", "40.0 s", "–", "≤ 35.0 s", "NO"]
    assert cells["wall time beyond the budget, later trials"][1:3] == ["10.5 s", "0.0972"]
    assert cells["val_bpb, default train.py against master"][1] == "0.7720 (3 seeds, 0.7700 to 0.7740)"
    assert "evaluation, its d8/512" not in cells
    assert all("≤" not in line and "≥" not in line for line in table.whole(stored, [], goals=False).splitlines())


def test_a_table_is_complete_only_if_one_machine_gave_all_of_it_and_both_sides_are_alike() -> None:
    stored = entries(reference_cold={"num_params": 50.3e6}, same={"num_params": 50.33e6})
    assert table.complete(table.notes(stored, list(stored)))
    assert not table.complete(table.notes(stored, [*stored, "mar8"]))
    stored["same"]["result"]["num_params"] = 60e6
    assert not table.complete(table.notes(stored, list(stored)))
    other = entries(reference_cold={"num_params": 1.0}, same={"num_params": 1.0})
    other["same"] = other["same"] | {"machine": {**MACHINE, "gpus": [{"name": "NVIDIA H200"}]}}
    assert identity(other["same"]["machine"]) != identity(MACHINE)
    assert "different machines" in table.notes(other, list(other))[-1]


def test_a_profile_is_a_column_each() -> None:
    profile = {"ms_per_step": 10.0, "busy_ms_per_step": 9.0, "kinds": {"gemm": 5.0, "copy": 4.0}}
    text = table.profile_table({"profile-same": profile, "profile-default": profile | {"kinds": {"gemm": 6.0}}})
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "gemm", "copy", "no kernel running", "a step, by the wall",
    ]  # fmt: skip
    assert table.profile_table({"same": {}}) == ""


# --- jobs and results -----------------------------------------------------------------------------------------------


def test_jobs_share_gpus_wait_for_each_other_and_fail_alone(tmp_path: Path) -> None:
    show = "import os, sys, time; time.sleep(0.3); print(os.environ['CUDA_VISIBLE_DEVICES'], end='\\r'); sys.exit({})"
    kept: dict[str, dict[str, Any]] = {}

    def job(name: str, code: int = 0, **more: Any) -> Job:
        command = [sys.executable, "-S", "-c", show.format(code)]
        return Job(name, command, tmp_path, dict(os.environ), lambda done: {"gpus": done.text()}, **more)

    jobs = [
        job("a"),
        job("b"),
        job("both", gpus=2),
        job("bad", code=3),
        job("after", after=("bad",)),
        job("three", gpus=3),
    ]
    problems = run_all(jobs, ["4", "7"], tmp_path / "logs", Progress(sys.stderr), lambda j, r: kept.update({j.name: r}))
    assert {kept["a"]["gpus"], kept["b"]["gpus"]} == {"4", "7"} and kept["both"]["gpus"] in ("4,7", "7,4")
    assert kept.keys() == {"a", "b", "both"}
    assert sorted(problem.split(",")[0] for problem in problems) == [
        "after: not run", "bad: exit code 3", "three: not run",
    ]  # fmt: skip


def test_a_result_is_used_again_only_with_the_same_arguments(tmp_path: Path) -> None:
    results = Results(tmp_path, MACHINE)
    assert not results.reusable("same", {"budget": 1})
    results.keep("same", {"budget": 1}, {"val_bpb": 1.0})
    assert results.reusable("same", {"budget": 1}) and not results.reusable("same", {"budget": 2})
    assert results.current({"same": {"budget": 1}})["same"]["result"] == {"val_bpb": 1.0}
    (tmp_path / "same.json").write_text('{"key"')
    assert not results.reusable("same", {"budget": 1})
    results.forget(["same", "other"])
    assert not list(tmp_path.iterdir())


def test_a_warm_trial_measured_alone_has_its_caches_filled_first(tmp_path: Path) -> None:
    def job(name: str, **more: Any) -> Job:
        return Job(name, [], tmp_path, {}, lambda done: {}, **more)

    data = Prepared(tmp_path, {})
    made = Plan(None, data)  # type: ignore[arg-type]
    caches = tmp_path / "caches"
    warming = job("default-1", kept=False)
    made.parts["default-1"] = Part(job("default-1"), {"budget": 1, "seed": 1}, fills=caches)
    made.parts["default-2"] = Part(job("default-2"), {"budget": 1, "seed": 2}, needs=caches, warming=warming)
    assert made.chosen("default") == ["default-1", "default-2"] and made.chosen("default-2") == ["default-2"]
    with pytest.raises(NoPart):
        made.chosen("def")
    assert warming_jobs(made, ["default-1", "default-2"], "here") == []  # the first fills them
    assert warming_jobs(made, ["default-2"], "here") == [warming]
    mark_warm(made.parts["default-1"], "here")
    assert warming_jobs(made, ["default-2"], "here") == []
    assert warming_jobs(made, ["default-2"], "elsewhere") == [warming]
    made.parts["default-2"].key["budget"] = 2
    assert warming_jobs(made, ["default-2"], "here") == [warming]


def test_the_stand_in_for_kernels_is_not_taken_for_the_package_by_our_own_back_ends(tmp_path: Path) -> None:
    """FlashAttention 3 is looked for where a package of the name `kernels` is, in a process of its own."""
    shim = ROOT / "benchmarks" / "sidebyside" / "kernels_shim.py"
    (tmp_path / "kernels.py").write_text(shim.read_text())
    program = """
import kernels
from autoexp.model import attention
from autoexp.model.attention import fa3
found = []
def prepare(*_):
    try:
        fa3.find("a/b")
    except ImportError as error:
        found.append(str(error))
    return "flex"
attention.prepare = prepare
kernels.get_kernel("a/b")
print(found)
"""
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}", "AUTOEXP_CACHE": str(tmp_path)}
    env |= {"AUTOEXP_SHIM_TOKENS": "2048", "AUTOEXP_SHIM_WINDOWS": "256"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "flex of autoexp in place of a/b" in done.stdout and "cannot be had here" in done.stdout
