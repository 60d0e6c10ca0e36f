"""Every attention back end on this GPU: milliseconds and error. `python benchmarks/attention.py [--batch 128] [...]`

Forward and forward with backward, medians of CUDA events, of q, k and v that are views of one bfloat16 tensor, compiled
as in training. Errors are the largest of a few rows against float32. What cannot be measured here is named with why.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from autoexp.model import attention
from autoexp.model.attention import BACK_ENDS, attend, sdpa
from autoexp.model.errors import BadInput

CHECKED_ROWS = 2  # of the batch; float32 needs all scores at once

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--key-heads", type=int, default=0, help="of k and v; as many as --heads unless given")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--windows", type=int, nargs="*", default=[2048, 1024, 256], help="tokens; all of them is full")
    parser.add_argument("--back-ends", nargs="*", choices=BACK_ENDS, default=BACK_ENDS)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure", file=sys.stderr)
        return 3

    console = Console(width=100)
    heads = [options.heads, *[options.key_heads or options.heads] * 2]
    console.print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; batch {options.batch} x {options.tokens}, "
        f"heads {heads[0]} (keys {heads[1]}) x {options.head_dim}, bfloat16"
    )
    table = Table("window", "back end", "forward ms", "forward + backward ms", "error of out", "error of gradients")
    torch.manual_seed(0)
    shape = (options.batch, options.tokens, sum(heads), options.head_dim)
    fused = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    for window in options.windows:
        label = "full" if window >= options.tokens - 1 else str(window)
        for back_end in options.back_ends:
            try:
                with using(back_end, options.tokens, window, options.head_dim) as function:
                    row = measure(function, fused, heads, window, options.repeats)
            except BadInput as error:
                row = [str(error).partition("cannot be used: ")[2], "", "", ""]
            except torch.cuda.OutOfMemoryError:
                row = ["does not fit in the memory", "", "", ""]
            table.add_row(label, back_end, *row)
    console.print(table)
    return 0


@contextmanager
def using(back_end: str, tokens: int, window: int, head_dim: int) -> Iterator[Attend]:
    """`attend` compiled with `back_end`. Raises BadInput if that cannot serve here."""
    torch._dynamo.reset()
    attention.prepare(
        tokens,
        [window],
        torch.device("cuda"),
        True,
        dtype=torch.bfloat16,
        head_dim=head_dim,
        environ={"AUTOEXP_ATTENTION": back_end},
    )
    yield torch.compile(attend, dynamic=False, fullgraph=True)
    torch.cuda.empty_cache()


def measure(function: Attend, fused: Tensor, heads: list[int], window: int, repeats: int) -> list[str]:
    """The four columns of a row of the table."""
    views = [part.detach().requires_grad_() for part in fused.split(heads, dim=2)]
    weight = torch.randn_like(views[0]).detach()

    def forward() -> Tensor:
        return function(*views, window)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), views, weight)

    exact_views = [view[:CHECKED_ROWS].detach().float().requires_grad_() for view in views]
    exact_out = sdpa.attend(*exact_views, window)
    exact = torch.autograd.grad(exact_out, exact_views, weight[:CHECKED_ROWS].float())
    errors = [
        (forward()[:CHECKED_ROWS] - exact_out).abs().max().item(),
        max((one[:CHECKED_ROWS] - other).abs().max().item() for one, other in zip(both(), exact, strict=True)),
    ]
    with torch.no_grad():
        forward_ms = median_ms(forward, repeats)
    return [f"{forward_ms:.2f}", f"{median_ms(both, repeats):.2f}", *[f"{error:.1e}" for error in errors]]


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Milliseconds of a call on the GPU, the median after some calls that do not count."""
    for _ in range(5):
        function()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


if __name__ == "__main__":
    sys.exit(main())
