"""Which back end serves, on machines that are made up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from autoexp.model import attention
from autoexp.model.attention.choose import BACK_ENDS, Place, choose
from autoexp.model.errors import BadInput

HOPPER = Place("cuda", (9, 0), torch.bfloat16, 128, compiled=True)
AMPERE = replace(HOPPER, capability=(8, 6))
BLACKWELL = replace(HOPPER, capability=(10, 0))
CPU = Place("cpu", (0, 0), torch.float32, 128, compiled=False)


def without(*back_ends: str) -> Callable[[str], str]:
    """A machine that lacks the software of `back_ends`."""
    return lambda back_end: f"no {back_end}" if back_end in back_ends else ""


@pytest.mark.parametrize(
    ("place", "missing", "expected"),
    [
        (HOPPER, (), "fa3"),
        (HOPPER, ("fa3",), "fa4"),
        (HOPPER, ("fa3", "fa4"), "flex"),
        (HOPPER, ("fa3", "fa4", "flex"), "sdpa"),
        (BLACKWELL, (), "fa4"),
        (replace(HOPPER, capability=(12, 0)), (), "flex"),
        (AMPERE, (), "fa3"),
        (AMPERE, ("fa3",), "flex"),
        (replace(HOPPER, capability=(7, 5)), (), "sdpa"),
        (replace(HOPPER, dtype=torch.float32), (), "flex"),
        (replace(HOPPER, head_dim=32), (), "flex"),
        (replace(HOPPER, head_dim=64), (), "fa3"),
        (replace(HOPPER, compiled=False), ("fa3",), "fa4"),
        (replace(HOPPER, compiled=False), ("fa3", "fa4"), "sdpa"),
        (CPU, (), "sdpa"),
        (replace(CPU, device="mps"), (), "sdpa"),
    ],
)
def test_the_best_that_can_serve(place: Place, missing: tuple[str, ...], expected: str) -> None:
    assert choose(place, without(*missing)) == expected


def test_software_is_not_looked_for_where_it_could_not_serve() -> None:
    """Looking may load a library or wait for a network."""
    asked: list[str] = []
    assert choose(CPU, lambda back_end: asked.append(back_end) or "") == "sdpa"
    assert asked == ["sdpa"]


@pytest.mark.parametrize("wanted", BACK_ENDS)
def test_what_the_user_wants(wanted: str) -> None:
    assert choose(HOPPER, without(), wanted) == wanted


@pytest.mark.parametrize(
    ("place", "wanted", "why"),
    [
        (HOPPER, "fa5", "names no attention back end"),
        (CPU, "flex", "cannot be used: flex needs a CUDA device, this is cpu"),
        (HOPPER, "fa4", "cannot be used: no fa4"),
        (AMPERE, "fa4", "cannot be used: fa4 needs compute capability 9.x and 10.x, this device has 8.6"),
        (replace(HOPPER, dtype=torch.float32), "fa3", "cannot be used: fa3 takes bfloat16 and float16, not float32"),
        (replace(HOPPER, head_dim=32), "fa3", "cannot be used: fa3 takes heads of 64, 96, 128 channels, not 32"),
        (replace(HOPPER, compiled=False), "flex", "cannot be used: flex needs a compiled model"),
    ],
)
def test_a_wish_that_cannot_be_granted_says_why(place: Place, wanted: str, why: str) -> None:
    with pytest.raises(BadInput, match=f"^AUTOEXP_ATTENTION={wanted} {why}$") as caught:
        choose(place, without("fa4"), wanted)
    assert "unset it" in caught.value.hint


def test_prepare_on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "chosen", attention.chosen)
    device = torch.device("cpu")
    assert attention.prepare(128, [64], device, compiled=False) == "sdpa"
    monkeypatch.setenv("AUTOEXP_ATTENTION", "fa3")
    with pytest.raises(BadInput, match="fa3 needs a CUDA device"):
        attention.prepare(128, [64], device, compiled=False, environ=os.environ)


def test_a_package_that_is_broken_is_one_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise OSError("libcudart.so.12: cannot open shared object file\nand more")

    monkeypatch.setitem(attention.LOADERS, "fa3", load)
    attention.absent.cache_clear()
    try:
        assert attention.absent("fa3") == "libcudart.so.12: cannot open shared object file"
    finally:
        attention.absent.cache_clear()
