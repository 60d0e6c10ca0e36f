"""Fused operations for the hot places of a GPT, each with a plain PyTorch twin that says what it computes.

    relu2_mlp(x, up, down)                                   mlp.py
    rotated_heads(qkv, cos, sin)                             heads.py
    softcap_cross_entropy(x, weight, targets, softcap)       cross_entropy.py

They decide by themselves: the Triton kernels on a Hopper GPU in bf16, the twin (which torch.compile fuses as well as
it can) everywhere else. The kernels are opaque operators to the compiler, so that a graph that calls them can be kept.
"""

from __future__ import annotations

from autoexp.model.kernels.cross_entropy import softcap_cross_entropy
from autoexp.model.kernels.heads import rotated_heads
from autoexp.model.kernels.mlp import relu2_mlp

__all__ = ["relu2_mlp", "rotated_heads", "softcap_cross_entropy"]
