"""From logits to bits per byte, by the judge: once in NumPy, once in torch for logits that lie on a GPU.

The cross-entropies (nats) of all targets that are text are summed and divided by ln 2 times the bytes of that text.
It does not depend on the vocabulary, and a special token, which is no text, counts neither above nor below the line.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoexp.model.prepared import Prepared, spread

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Nats over `text_bytes` bytes of text, in bits a byte."""
    return nats / (math.log(2) * text_bytes)


def evaluated_rows(data: Prepared, split: str) -> Ids:
    """The numbers of the rows that are evaluated: the first `eval_rows` of the split, or spread evenly over it if there
    are more."""
    there = len(data.rows(split))
    return spread(there, min(data.eval_rows, there))


class Answer(Protocol):
    """The logits of one request, copied out of the reach of who gave them: (rows, tokens, vocab) float32."""

    def finite(self) -> bool:
        """Whether every logit is a number."""

    def losses(self, targets: Ids) -> Floats:
        """The cross-entropy of every target, (rows, tokens), in nats."""

    def log_probabilities(self, row: int, places: Ids) -> Floats:
        """Of all tokens at some places of a row, (places, vocab)."""


class OnCpu:
    """Logits in main memory, judged by NumPy: a judge of small models need not wait until torch is imported."""

    def __init__(self, logits: Floats) -> None:
        self.logits = logits

    def finite(self) -> bool:
        with np.errstate(invalid="ignore"):  # of infinities with both signs
            return math.isfinite(self.logits.sum(dtype=np.float64))  # no sum of finite float32s is too large for that

    def losses(self, targets: Ids) -> Floats:
        highest, rest = _normaliser(self.logits)
        scores = np.take_along_axis(self.logits, targets[..., None], axis=-1)
        answer: Floats = (rest - (scores - highest))[..., 0]
        return answer

    def log_probabilities(self, row: int, places: Ids) -> Floats:
        logits = self.logits[row, places]
        highest, rest = _normaliser(logits)
        answer: Floats = (logits - highest) - rest
        return answer


class OnGpu:
    """Logits in a tensor, wherever it lies."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def finite(self) -> bool:
        lowest, highest = self.logits.aminmax()  # reads them once; where there is no number, neither is one
        return bool((highest - lowest).isfinite())

    def losses(self, targets: Ids) -> Floats:
        import torch

        wanted = torch.from_numpy(targets).to(self.logits.device)
        parts = []  # row by row: a copy of them all in another form would not fit
        for logits, target in zip(self.logits, wanted, strict=True):
            parts.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
        answer: Floats = torch.stack(parts).cpu().numpy()
        return answer

    def log_probabilities(self, row: int, places: Ids) -> Floats:
        import torch

        chosen = self.logits[row][torch.from_numpy(places).to(self.logits.device)]
        answer: Floats = torch.log_softmax(chosen, dim=-1).cpu().numpy()
        return answer


def _normaliser(logits: Floats) -> tuple[Floats, Floats]:
    """(the highest logit, the logarithm of the sum of all, relative to it), with a last axis of 1.

    Never their sum: beside a logit of 1e9 the logarithm is lost to rounding, and any distribution would cost nothing.
    """
    highest: Floats = logits.max(axis=-1, keepdims=True)
    rest: Floats = np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))
    return highest, rest
