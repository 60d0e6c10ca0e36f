"""Loss scaling for fp16, whose smallest numbers are too large for many gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from autoexp.model.errors import TrainingFailed


class LossScaler:
    """Multiplies the loss before the backward pass and divides the gradients after it.

        scaler.scale(loss).backward()
        if scaler.unscale(model.parameters()):
            optimizer.step()

    The factor is a power of two, so that nothing is rounded. It halves when a gradient is infinite or no number, and
    that step is not taken; it doubles after `patience` steps without one. Where `wanted` is false (any precision but
    fp16) it does nothing, costs nothing and lets every step be taken.
    """

    def __init__(self, wanted: bool, factor: float = 2.0**16, patience: int = 2000) -> None:
        self.wanted = wanted
        self.factor = factor if wanted else 1.0
        self.patience = patience
        self.good = 0  # steps in a row

    def scale(self, loss: Tensor) -> Tensor:
        """`loss`, as its backward pass is to be started from."""
        return loss * self.factor if self.wanted else loss

    @torch.no_grad()
    def unscale(self, params: Iterable[Tensor]) -> bool:
        """Divide the gradients of `params` in place, once a step. Returns whether the step may be taken.

        Waits for the device: whether a step is taken is decided here. Raises TrainingFailed when the gradients are not
        finite even unscaled, for then no later step would be taken either.
        """
        if not self.wanted:
            return True
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for param in params:
            if param.grad is not None:
                alike[param.grad.device, param.grad.dtype].append(param.grad)
        found = []  # per kind of gradient a 1 if one of them is not finite, else a 0
        for (device, _), grads in alike.items():
            found.append(torch.zeros((), device=device))
            inverse = torch.full((), 1 / self.factor, device=device)
            torch._amp_foreach_non_finite_check_and_unscale_(grads, found[-1], inverse)
        finite = not any(bool(flag) for flag in found)
        self._adjust(finite)
        return finite

    def _adjust(self, finite: bool) -> None:
        if finite:
            self.good += 1
            if self.good % self.patience == 0:
                self.factor *= 2
            return
        if self.factor <= 1:
            raise TrainingFailed("the gradients are not finite, in fp16 and without any scaling of the loss")
        self.good = 0
        self.factor /= 2
