"""FlashAttention 4: what the package is told. Its numbers are tested where there is a GPU, in test_attention.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoexp.model.attention import fa4


def test_what_it_compiles_is_kept_in_the_cache_folder(tmp_path: Path) -> None:
    """The package reads its settings while it is imported, so they are looked at from there."""
    package = tmp_path / "site" / "flash_attn" / "cute"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interface.py").write_text(
        "import os, json\n"
        "print(json.dumps({name: value for name, value in os.environ.items() if 'CACHE' in name}))\n"
        "_flash_attn_fwd = _flash_attn_bwd = None\n"
    )
    source = Path(fa4.__file__).parents[3]
    environ = {
        **{name: value for name, value in os.environ.items() if "CACHE" not in name},
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(source)]),
        "AUTOEXP_CACHE": str(tmp_path / "cache"),
        "CUTE_DSL_CACHE_DIR": "/the/users/own",
    }
    command = [sys.executable, "-c", "from autoexp.model.attention import fa4; fa4.load()"]
    printed = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == {
        "AUTOEXP_CACHE": str(tmp_path / "cache"),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(tmp_path / "cache" / "kernels" / "fa4"),
        "CUTE_DSL_CACHE_DIR": "/the/users/own",
    }


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_not_installed_says_how_to() -> None:
    with pytest.raises(ImportError, match=r"pip install 'autoexp\[fa4\]'"):
        fa4.load()


@pytest.mark.parametrize(
    ("window", "words"),
    [(None, {"causal": True}), (7, {"window_size_left": 7, "window_size_right": 0})],
)
def test_what_the_functions_are_called_with(window: int | None, words: dict[str, Any]) -> None:
    got: list[dict[str, Any]] = []

    def run(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor | None, ...]:
        got.append(options)
        return q + 1, q.new_zeros(1), None, None, None

    def back(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor, lse: Tensor, **options: Any) -> None:
        for number, name in enumerate(("dq", "dk", "dv")):
            assert options.pop(name).fill_(number).is_contiguous()
        got.append(options)

    kernel = fa4.FlashAttention4(SimpleNamespace(_flash_attn_fwd=run, _flash_attn_bwd=back))
    q, k, v = torch.randn(1, 8, 8, 64).split([4, 2, 2], dim=2)
    out, lse = kernel.forward(q, k, v, window)
    gradients = kernel.backward(out, q, k, v, out, lse, window)
    assert got == [{"return_lse": True, **words}, {"deterministic": False, **words}]
    assert [(x.shape, x.unique().tolist()) for x in gradients] == [(q.shape, [0]), (k.shape, [1]), (v.shape, [2])]
