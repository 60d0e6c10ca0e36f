"""FlashAttention 3: where the kernel comes from, and the two sets of argument names that it has had."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoexp.model.attention import fa3
from autoexp.model.prepared import cache_folder

REPOSITORY = "someone/flash-attention-3"

# A package `kernels` whose hub is a folder: it "downloads" by making a file, which it must not do when off line.
KERNELS = """
import os
from pathlib import Path
from types import SimpleNamespace

CACHE = Path(os.environ["FAKE_HUB_CACHE"])

def get_kernel(repo_id, *, revision=None, version=None, trust_remote_code=False):
    assert trust_remote_code == [repo_id]
    with (CACHE / "calls").open("a") as calls:
        calls.write(f"{revision or version} offline={os.environ['HF_HUB_OFFLINE']}\\n")
    if not (CACHE / "fetched").exists():
        if os.environ["HF_HUB_OFFLINE"] == "1":
            raise FileNotFoundError("not in the cache")
        if os.environ.get("FAKE_HUB_DOWN"):
            raise ConnectionError("no route to the hub")
        (CACHE / "fetched").touch()
    return SimpleNamespace(flash_attn_interface=f"functions of {repo_id}")
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The made-up hub's cache, empty, for this process and its children."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "kernels.py").write_text(KERNELS)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("FAKE_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOEXP_CACHE", str(tmp_path / "autoexp"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path / "site")
    sys.modules.pop("kernels", None)
    yield tmp_path / "cache"
    sys.modules.pop("kernels", None)


def calls(hub: Path) -> list[str]:
    return (hub / "calls").read_text().splitlines()


def test_what_is_cached_is_loaded_without_network(hub: Path) -> None:
    (hub / "fetched").touch()
    assert fa3.find(REPOSITORY) == f"functions of {REPOSITORY}"
    assert calls(hub) == ["main offline=1"]


def test_what_is_not_cached_is_fetched_by_another_process(hub: Path) -> None:
    assert fa3.find(REPOSITORY) == f"functions of {REPOSITORY}"
    assert calls(hub) == ["main offline=1", "1 offline=1", "main offline=0", "main offline=1"]


def test_an_unreachable_hub_is_left_alone_for_an_hour(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HUB_DOWN", "1")
    with pytest.raises(ImportError, match=f"{REPOSITORY} cannot be fetched: ConnectionError: no route to the hub"):
        fa3.find(REPOSITORY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ImportError, match="could not be fetched within the last hour: ConnectionError: no route"):
        fa3.find(REPOSITORY)
    assert calls(hub).count("main offline=0") == 1

    (failed,) = (cache_folder() / "kernels").iterdir()
    os.utime(failed, (0, 0))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("FAKE_HUB_DOWN")
    fa3.find(REPOSITORY)
    assert not failed.exists()


def test_a_hub_that_does_not_answer_costs_a_bounded_time(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fa3, "FETCH_SECONDS", 0.01)
    with pytest.raises(ImportError, match="not done after 0 s"):
        fa3.find(REPOSITORY)


def test_a_user_who_is_off_line_stays_so(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ImportError, match="HF_HUB_OFFLINE is set"):
        fa3.find(REPOSITORY)
    assert not (hub / "fetched").exists()


Got = dict[str, Any]


def first_names(got: Got) -> SimpleNamespace:
    """Functions that must be given everything, with the window as a pair."""

    def run(q, k, v, k_new, cu_seqlens_q, softmax_scale, causal, window_size=(-1, -1), softcap=0.0):
        got.update(locals())
        return q + 1, q.new_zeros(1), None, None

    def back(
        dout,
        q,
        k,
        v,
        out,
        softmax_lse,
        cu_seqlens_q,
        dq,
        dk,
        dv,
        softmax_scale,
        causal,
        window_size=(-1, -1),
        deterministic=False,
    ):
        got.update(locals())
        dq.fill_(1), dk.fill_(2), dv.fill_(3)

    return SimpleNamespace(_flash_attn_forward=run, _flash_attn_backward=back)


def second_names(got: Got) -> SimpleNamespace:
    """Operators of torch, with the window as two numbers and another word for causal in the backward."""

    @torch.library.custom_op("autoexp_test::fa3_run", mutates_args=())
    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_new: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size_left: int = -1,
        window_size_right: int = -1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        got.update(locals())
        return q + 1, q.new_zeros(1), q.new_zeros(0)

    @torch.library.custom_op("autoexp_test::fa3_back", mutates_args=("dq", "dk", "dv"))
    def back(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        softmax_scale: float | None = None,
        is_causal: bool = False,
        window_size_left: int = -1,
        window_size_right: int = -1,
        deterministic: bool = False,
    ) -> Tensor:
        got.update(locals())
        dq.fill_(1), dk.fill_(2), dv.fill_(3)
        return q.new_zeros(1)

    return SimpleNamespace(_flash_attn_forward=run, _flash_attn_backward=back)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("functions", [first_names, second_names])
def test_both_sets_of_names(functions: Any, window: int | None) -> None:
    got: Got = {}
    kernel = fa3.FlashAttention3(functions(got))
    q, k, v = (torch.randn(1, 8, heads, 64) for heads in (4, 2, 2))

    def check() -> None:
        assert got.get("causal", got.get("is_causal")) == (window is None)
        left, right = got.get("window_size") or (got["window_size_left"], got["window_size_right"])
        assert (left, right) == ((-1, -1) if window is None else (window, 0))
        assert got["softmax_scale"] == 0.125
        assert got.get("k_new") is got.get("cu_seqlens_q") is None

    out, lse = kernel.forward(q, k, v, window)
    assert torch.equal(out, q + 1)
    check()
    got.clear()
    gradients = kernel.backward(torch.ones_like(out), q, k, v, out, lse, window)
    check()
    assert [(x.shape, x.unique().tolist()) for x in gradients] == [(q.shape, [1]), (k.shape, [2]), (v.shape, [3])]
    assert got["deterministic"] is False
