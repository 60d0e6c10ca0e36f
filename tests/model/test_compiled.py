"""What a GPU compiles, traced on the CPU: one graph without breaks, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from autoexp.model import attention
from autoexp.model.attention import flex

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of its own


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


def test_the_model_with_flex_attention(train_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Any = flex_attention.create_block_mask
    monkeypatch.setattr(flex_attention, "create_block_mask", lambda *args, device: make(*args, device="cpu"))
    monkeypatch.setattr(flex, "BLOCK_MASKS", {})
    torch.manual_seed(0)
    model: Any = train_module.GPT(64, 128)
    model.init_weights(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        inputs, targets = torch.randint(0, 64, (2, 128)), torch.randint(0, 64, (2, 128))
        plain = model(inputs, targets)
        flex.prepare(128, model.windows, torch.device("cuda"))
        assert set(flex.BLOCK_MASKS) == {(128, 64), (128, 128)}
        monkeypatch.setattr(attention, "chosen", attention.Choice("flex", "cpu"))
        compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(inputs, targets), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 24, 8), (2, 8, 24)])
def test_muon(train_module: ModuleType, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    start, grads = torch.randn(shape), torch.randn(shape)
    variance = (2, 24, 1) if shape[1] == 24 else (2, 1, 24)

    def run(update: Callable[..., None], number: Callable[[float], Any]) -> torch.Tensor:
        params, mean, squares = start.clone(), torch.zeros(shape), torch.zeros(variance)
        for rate in (0.1, 0.2, 0.3):
            update(params, grads.clone(), mean, squares, *map(number, (rate, 0.9, 0.95, 0.1)))
        return params

    compiled = torch.compile(train_module.muon_update, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(run(compiled, scalar), run(train_module.muon_update, float))
