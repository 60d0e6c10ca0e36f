"""Bits per byte of a model in this process: the one number that a trial is judged by, as scoring.py defines it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autoexp.model.data import to_device
from autoexp.model.devices import Device
from autoexp.model.distributed import World
from autoexp.model.errors import TrainingFailed
from autoexp.model.prepared import Prepared
from autoexp.model.scoring import bits_per_byte, evaluated_rows

# (inputs, targets), each (rows, seq_len) int64 -> the cross-entropy of every target in nats, (rows, seq_len) float32
Losses = Callable[[Tensor, Tensor], Tensor]


def evaluate(
    losses: Losses,
    data: Prepared,
    device: Device,
    rows_at_a_time: int,
    tick: Callable[[float], None] = lambda done: None,
    world: World | None = None,
    split: str = "val",
) -> float:
    """Bits per byte of a model on the split `val`, or `test`. `tick` hears how much is done, 0 to 1.

    The rows are the first `eval_rows` of the split, or spread evenly over it if there are more; the processes of
    `world` share them out, and each has the answer. Raises TrainingFailed if it is no finite number, Missing if the
    data has no such split.
    """
    world = world or World()
    rows = data.rows(split)
    chosen = evaluated_rows(data, split)[world.rank :: world.size]
    lengths = torch.from_numpy(data.token_bytes()).to(device.torch_device)  # (vocab_size,)
    nats: list[Tensor] = []
    sizes: list[Tensor] = []
    for start in range(0, len(chosen), rows_at_a_time):
        part = chosen[start : start + rows_at_a_time]
        # A short last part is filled up, so that a compiled model sees one shape, and the filling is not counted.
        filled = np.concatenate([part, np.repeat(part[-1:], rows_at_a_time - len(part))])
        inputs, targets = to_device(rows[filled], device.torch_device)
        loss = judge(losses, inputs, targets, device)[: len(part)]
        size = lengths[targets[: len(part)]]
        nats.append(torch.where(size > 0, loss, 0.0).sum(dim=1))  # a sum a row: exact enough in float32
        sizes.append(size.sum(dim=1))
        tick((start + len(part)) / len(chosen))
    own = (math.fsum(torch.cat(nats).tolist()), int(torch.cat(sizes).sum())) if nats else (0.0, 0)  # the only wait
    total, text_bytes = world.sum_float64(torch.tensor(own, dtype=torch.float64)).tolist()
    answer = bits_per_byte(total, int(text_bytes))
    if not math.isfinite(answer):
        raise TrainingFailed(f"{split}_bpb is {answer}")
    return answer


def judge(losses: Losses, inputs: Tensor, targets: Tensor, device: Device) -> Tensor:
    """The loss of every target, (rows, seq_len) float32, for inputs of the shape that the model was trained on.

    A compiled model is called as in training, with gradients on: without them it would be compiled once more.
    """
    with torch.set_grad_enabled(device.compiles), device.autocast():
        return losses(inputs, targets).detach().view(targets.shape).float()
