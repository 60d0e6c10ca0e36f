"""Is what was evaluated a language model? Two short tests, for a metric that is easy to fool by accident.

A change to the attention can let a token see the one it is to predict; a change to the loss (smoothing, weights,
a focus on hard tokens) can make it smaller without a better model. Either looks like a great success.
"""

from __future__ import annotations

import torch

from autoexp.model.data import to_device
from autoexp.model.devices import Device
from autoexp.model.errors import TrainingFailed
from autoexp.model.evaluate import Losses, judge
from autoexp.model.prepared import Prepared

PLACES = 16  # tokens of context in the test of the probabilities
AT_A_TIME = 512  # tokens of the vocabulary


def check_causal(losses: Losses, data: Prepared, device: Device, rows: int) -> None:
    """Raise TrainingFailed if other tokens later in the input change the loss of a target before them."""
    inputs, targets = to_device(data.rows("val")[:1].repeat(rows, axis=0), device.torch_device)
    middle = inputs.size(1) // 2
    changed = inputs.clone()
    changed[:, middle:] = (changed[:, middle:] + 1) % data.vocab_size
    before = judge(losses, inputs, targets, device)[:, :middle]
    after = judge(losses, changed, targets, device)[:, :middle]
    difference = float((before - after).abs().max())
    if not difference < (1e-3 if device.dtype == torch.float32 else 0.05):
        raise TrainingFailed(
            f"the model sees tokens it is to predict: later ones change a loss by {difference:.3g} nats"
        )


@torch.no_grad()
def check_probabilities(losses: Losses, data: Prepared, device: Device) -> None:
    """Raise TrainingFailed if exp(-loss) of all tokens, as targets at one place, does not add up to 1."""
    inputs, _ = to_device(data.rows("val")[:1, : PLACES + 1], device.torch_device)  # (1, places)
    total = torch.zeros(inputs.size(1), device=device.torch_device)  # of the probabilities at every place
    for start in range(0, data.vocab_size, AT_A_TIME):
        tokens = torch.arange(start, min(start + AT_A_TIME, data.vocab_size), device=device.torch_device)
        targets = tokens[:, None].expand(-1, inputs.size(1)).contiguous()  # (tokens, places)
        with device.autocast():
            loss = losses(inputs.expand(len(tokens), -1).contiguous(), targets)
        total += torch.exp(-loss.view(targets.shape).float()).sum(dim=0)
    worst = float((total - 1).abs().max())
    if not worst < 0.02:
        raise TrainingFailed(
            f"the losses are not those of probabilities: these add up to 1 with an error of {worst:.3g}"
        )
