"""The Triton kernel behind mlp.py: a matrix product with relu², or its derivative, on the way out.

Persistent: each multiprocessor works through tiles of the result, in groups that share their operands in L2. Tiles are
loaded and stored by Hopper's bulk copy engine (tensor descriptors), and the result leaves in two halves, so that the
buffer for it stays small and the pipeline of loads keeps its shared memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS, DEPTH, GROUP = 128, 256, 64, 4  # of a tile, and rows of tiles in a group
STAGES, WARPS = 3, 8


@triton.jit
def product_kernel(
    x, w, out, squares, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    down = tl.cdiv(rows, ROWS)
    across = tl.cdiv(columns, COLUMNS)
    steps = tl.cdiv(depth, DEPTH)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        group = tile // (GROUP * across)
        first = group * GROUP
        height = min(down - first, GROUP)
        row = (first + (tile % (GROUP * across)) % height) * ROWS
        column = ((tile % (GROUP * across)) // height) * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for step in range(steps):
            left = x.load([row, step * DEPTH])
            right = w.load([column, step * DEPTH])
            total = tl.dot(left, right.T, total)
        half: tl.constexpr = COLUMNS // 2
        one, two = tl.split(tl.permute(tl.reshape(total, (ROWS, 2, half)), (0, 2, 1)))
        if BACKWARD:
            one *= 2.0 * tl.sqrt(squares.load([row, column]).to(tl.float32))
            out.store([row, column], one.to(tl.bfloat16))
            two *= 2.0 * tl.sqrt(squares.load([row, column + half]).to(tl.float32))
            out.store([row, column + half], two.to(tl.bfloat16))
        else:
            one = tl.maximum(one, 0.0)
            out.store([row, column], (one * one).to(tl.bfloat16))
            two = tl.maximum(two, 0.0)
            out.store([row, column + half], (two * two).to(tl.bfloat16))


def product(x: Tensor, w: Tensor, squares: Tensor | None = None) -> Tensor:
    """x (n, width) @ w (hidden, width).T: relu² of it, or with `squares` (n, hidden) times 2 sqrt(squares)."""
    rows, depth = x.shape
    columns = w.size(0)
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    programs = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 4
    halves = [ROWS, COLUMNS // 2]
    to = TensorDescriptor.from_tensor(out, halves)
    product_kernel[(programs,)](
        TensorDescriptor.from_tensor(x.contiguous(), [ROWS, DEPTH]),
        TensorDescriptor.from_tensor(w.contiguous(), [COLUMNS, DEPTH]),
        to,
        to if squares is None else TensorDescriptor.from_tensor(squares, halves),
        rows,
        columns,
        depth,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        DEPTH=DEPTH,
        GROUP=GROUP,
        PROGRAMS=programs,
        BACKWARD=squares is not None,
        num_stages=STAGES,
        num_warps=WARPS,
    )
    return out
