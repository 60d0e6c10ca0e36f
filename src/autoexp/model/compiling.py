"""torch.compile, region by region, with caches that outlive a process.

What a model repeats (the modules of a ModuleList: its blocks) is compiled once for each variant and used by all that
are alike, so that compiling takes a fraction of the whole model's time, and a change of one kind of block compiles that
kind only. What is compiled is kept on disk and found by the next training, also of another candidate: a change of a
constant that is not in the graph (a learning rate, an initial value, a schedule) compiles nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

VARIANTS = 64  # of one region; torch gives up at 8, and a model of 16 layers may have more


def use_caches(folder: Path) -> None:
    """Keep compiled code under `folder`, unless the environment names other places. Before anything is compiled.

    Where `folder` cannot be written to, torch keeps it where it would.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "1")


def regions(model: nn.Module) -> Iterator[nn.Module]:
    """The modules to compile: the members of outermost ModuleLists; the model itself if it has none."""
    found = False
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in inside:
            for member in module:
                found = True
                inside.update(member.modules())
                yield member
    if not found:
        yield model


def compile_regions(model: nn.Module) -> None:
    """Compile `model` in place: from now on its regions run compiled code."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = VARIANTS
    for region in regions(model):
        region.compile(dynamic=False)


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled regions as they are written: for shapes that come once."""
    with torch.compiler.set_stance("force_eager"):
        yield
