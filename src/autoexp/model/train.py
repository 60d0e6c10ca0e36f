"""Train a GPT for a fixed time and judge it by validation bits per byte: the file that proposals change.

    python train.py

Notable choices: rotary positions, QK norm, relu² MLP, untied head, value embeddings with gates on every other layer,
a learned mix with the first hidden state before each layer, sliding windows, soft-capped logits; Muon for the
matrices, AdamW for the rest. Data, clock, evaluation and report come from `autoexp.model` and are frozen.

A constant whose comment starts with [low, high] or {a, b, …} may be searched within these bounds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoexp.model import Trial, attend

PROFILE = "h100"  # the machine this file was written for

# The model
DEPTH = 8  # [2, 16]; number of layers
ASPECT_RATIO = 64  # [32, 96]; width is DEPTH * ASPECT_RATIO, rounded up to whole heads
HEAD_DIM = 128  # {64, 128}; channels of an attention head
MLP_RATIO = 4  # [2, 6]; hidden width of the MLP over the width
WINDOW_PATTERN = "SSSL"  # {"L", "SL", "SSL", "SSSL", "SSSSL"}; S = short window, L = full, repeated; the last is L
SHORT_WINDOW_DIVISOR = 2  # {2, 4, 8, 16}; the short window is the context over this
ROPE_BASE = 10_000.0  # [1000.0, 1000000.0] log; longest wavelength of the rotary positions
QK_SCALE = 1.0  # [0.7, 2.0]; sharpness of attention, on top of 1/sqrt(HEAD_DIM)
SOFTCAP = 15.0  # [5.0, 50.0] log; logits stay within plus and minus this
INIT_SCALE = 1.0  # [0.3, 2.0] log; initial size of the matrices, in units of 1/sqrt(width)
X0_LAMBDA_INIT = 0.1  # [0.0, 0.5]; initial share of the first hidden state that each layer is given again

# The optimizer
TOTAL_BATCH_SIZE = 2**19  # {2**16, 2**17, 2**18, 2**19, 2**20}; tokens a step
MATRIX_LR = 0.04  # [0.005, 0.2] log; learning rate of the matrices (Muon)
EMBEDDING_LR = 0.6  # [0.05, 3.0] log; learning rate of token and value embeddings (AdamW)
UNEMBEDDING_LR = 0.004  # [0.0005, 0.05] log; learning rate of the head (AdamW)
SCALAR_LR = 0.5  # [0.02, 2.0] log; learning rate of the per-layer scalars (AdamW)
WEIGHT_DECAY = 0.2  # [0.0, 1.0]; cautious decay of the matrices, falling to 0 over the budget
EMBEDDING_WEIGHT_DECAY = 0.0  # [0.0, 0.02]; decay of embeddings and head
ADAM_BETA1 = 0.8  # [0.5, 0.95]; memory of AdamW's mean
ADAM_BETA2 = 0.95  # [0.8, 0.999]; memory of AdamW's variance
MUON_MOMENTUM = 0.95  # [0.8, 0.99]; memory of Muon's mean, once ramped up
MUON_BETA2 = 0.95  # [0.8, 0.999]; memory of Muon's variance
GRAD_CLIP = 0.0  # {0.0, 0.1, 0.3, 1.0}; longest gradient over all weights; 0 = any
WARMUP_RATIO = 0.0  # [0.0, 0.3]; part of the budget in which the learning rates rise
WARMDOWN_RATIO = 0.5  # [0.1, 1.0]; part of the budget in which they fall
FINAL_LR_FRAC = 0.0  # [0.0, 0.2]; what is left of them at the end

# Not searched: they change speed or a start, hardly the result
DEVICE_BATCH_SIZE = 128  # rows that go through the model at once, at most
MOMENTUM_RAMP_STEPS = 300  # steps from momentum 0.85 to MUON_MOMENTUM
GATE_CHANNELS = 32  # channels of the hidden state that a value gate looks at


# --- model ------------------------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without weights."""
    return nn.functional.rms_norm(x, (x.size(-1),))


def rotary_table(tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and frequency, each (tokens, 1, head_dim / 2)."""
    frequency = ROPE_BASE ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(tokens).float(), frequency)[:, None, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head, x (rows, tokens, heads, head_dim), by its position's angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention; on layers with a value embedding, gated by the hidden state, it joins the values."""

    def __init__(self, width: int, heads: int, window: int, has_value_embedding: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(min(GATE_CHANNELS, width), heads, bias=False) if has_value_embedding else None

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, -1)  # (rows, tokens, heads, head_dim)
        q = norm(rotate(self.query(x).view(shape), cos, sin)) * QK_SCALE
        k = norm(rotate(self.key(x).view(shape), cos, sin))
        v = self.value(x).view(shape)
        if self.gate is not None and value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))  # (rows, tokens, heads), 0 to 2
            v = v + gate[..., None] * value_embedding.view(shape)
        out: Tensor = self.out(attend(q.to(v.dtype), k.to(v.dtype), v, self.window).reshape(x.shape))
        return out


class Block(nn.Module):
    """One layer: attention, then the MLP, each on the normed residual stream and added to it."""

    def __init__(self, width: int, heads: int, window: int, has_value_embedding: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, window, has_value_embedding)
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(norm(x), value_embedding, cos, sin)
        added: Tensor = self.down(nn.functional.relu(self.up(norm(x))).square())
        return x + added


class GPT(nn.Module):
    """The model. Called with inputs and targets, each (rows, tokens), it returns every target's loss in nats."""

    cos: Tensor
    sin: Tensor

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        heads = max(1, math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM))
        self.width = heads * HEAD_DIM
        self.vocab_size = vocab_size
        self.windows = [self.window_of(layer, seq_len) for layer in range(DEPTH)]
        with_value = [layer % 2 == (DEPTH - 1) % 2 for layer in range(DEPTH)]  # every other layer, the last included
        self.embedding = nn.Embedding(vocab_size, self.width)
        self.value_embeddings: Any = nn.ModuleDict(
            {str(layer): nn.Embedding(vocab_size, self.width) for layer in range(DEPTH) if with_value[layer]}
        )
        self.blocks: Any = nn.ModuleList(
            Block(self.width, heads, window, has) for window, has in zip(self.windows, with_value, strict=True)
        )
        self.head = nn.Linear(self.width, vocab_size, bias=False)
        self.residual_lambdas = nn.Parameter(torch.ones(DEPTH))
        self.x0_lambdas = nn.Parameter(torch.zeros(DEPTH))
        cos, sin = rotary_table(seq_len, HEAD_DIM)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def window_of(self, layer: int, seq_len: int) -> int:
        """How many tokens back the attention of `layer` sees."""
        short = WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S" and layer < DEPTH - 1
        return max(1, seq_len // SHORT_WINDOW_DIVISOR) if short else seq_len

    @torch.no_grad()
    def init_weights(self, dtype: torch.dtype) -> None:
        """Initial values. What feeds the residual stream starts at zero: each layer begins as the identity.

        Embeddings and rotary tables are kept in `dtype`, the precision they are used in.
        """
        bound = INIT_SCALE * math.sqrt(3 / self.width)  # of a uniform distribution of deviation 1/sqrt(width)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for embedding in self.value_embeddings.values():
            nn.init.uniform_(embedding.weight, -bound, bound)
        for block in self.blocks:
            for matrix in (block.attention.query, block.attention.key, block.attention.value, block.up):
                nn.init.uniform_(matrix.weight, -bound, bound)
            for matrix in (block.attention.out, block.attention.gate, block.down):
                if matrix is not None:
                    nn.init.zeros_(matrix.weight)
        self.residual_lambdas.fill_(1.0)
        self.x0_lambdas.fill_(X0_LAMBDA_INIT)
        self.embedding.to(dtype=dtype)
        self.value_embeddings.to(dtype=dtype)
        self.cos, self.sin = self.cos.to(dtype), self.sin.to(dtype)

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores of the next token at every place, (rows, tokens, vocab) float32."""
        x = first = norm(self.embedding(inputs))  # (rows, tokens, width)
        tokens = inputs.size(1)
        cos, sin = self.cos[:tokens], self.sin[:tokens]
        for layer, block in enumerate(self.blocks):
            x = self.residual_lambdas[layer] * x + self.x0_lambdas[layer] * first
            name = str(layer)
            value = self.value_embeddings[name](inputs) if name in self.value_embeddings else None
            x = block(x, value, cos, sin)
        return SOFTCAP * torch.tanh(self.head(norm(x)).float() / SOFTCAP)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(inputs)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return loss.view(targets.shape)

    def flops_per_token(self) -> float:
        """Forward and backward: 6 for each weight of a product, and attention over each layer's window."""
        products: int = sum(p.numel() for p in self.blocks.parameters()) + self.head.weight.numel()
        return 6 * products + sum(12 * self.width * min(window, self.cos.size(0)) for window in self.windows)

    def bytes_per_token(self) -> float:
        """About what a training pass keeps in memory for each token; the logits weigh most."""
        return 24 * self.width * DEPTH * (8 + 2 * MLP_RATIO) / 16 + 12 * self.vocab_size

    def groups(self) -> Iterator[dict[str, Any]]:
        """The optimizer's parameter groups."""
        scale = (self.width / 768) ** -0.5  # AdamW's rates were tuned at width 768
        betas = (ADAM_BETA1, ADAM_BETA2)
        embeddings = [self.embedding.weight, *self.value_embeddings.parameters()]
        yield adamw([self.head.weight], UNEMBEDDING_LR * scale, betas, EMBEDDING_WEIGHT_DECAY)
        yield adamw(embeddings, EMBEDDING_LR * scale, betas, EMBEDDING_WEIGHT_DECAY)
        yield adamw([self.residual_lambdas], SCALAR_LR * 0.01, betas, 0.0)
        yield adamw([self.x0_lambdas], SCALAR_LR, (0.96, 0.95), 0.0)
        matrices = list(self.blocks.parameters())
        for shape in sorted({matrix.shape for matrix in matrices}):  # stacked, so that each shape is one update
            same = [matrix for matrix in matrices if matrix.shape == shape]
            yield {
                "kind": "muon",
                "params": same,
                "lr": MATRIX_LR,
                "momentum": MUON_MOMENTUM,
                "weight_decay": WEIGHT_DECAY,
            }


def adamw(params: list[Tensor], lr: float, betas: tuple[float, float], weight_decay: float) -> dict[str, Any]:
    return {"kind": "adamw", "params": params, "lr": lr, "betas": betas, "weight_decay": weight_decay}


# --- optimizer --------------------------------------------------------------------------------------------------------

# Polar Express: five polynomials a*x + b*x^3 + c*x^5 that bring every singular value close to 1.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
Scalar = Any  # a float; on a GPU a 0-d tensor, so that a changing value compiles nothing anew


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, (n, rows, columns), roughly."""
    tall = matrices.size(-2) > matrices.size(-1)
    x: Tensor = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if tall else x  # the Gram matrix of the short side is the small one
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def muon_update(
    params: Tensor,
    grads: Tensor,
    mean: Tensor,
    variance: Tensor,
    lr: Scalar,
    momentum: Scalar,
    beta2: Scalar,
    decay: Scalar,
) -> None:
    """One Muon step on stacked matrices (n, rows, columns), in place.

    `mean` has their shape; `variance` is (n, rows, 1) or (n, 1, columns), one entry for each of the longer side.
    """
    mean.lerp_(grads, 1 - momentum)
    update = orthogonalize(torch.lerp(grads, mean, momentum)).float()  # Nesterov
    # NorMuon: even out the rows (or columns) by their running size, and keep the size of the whole.
    along = -1 if variance.size(-1) == 1 else -2
    square = update.square().mean(dim=along, keepdim=True)
    variance.lerp_(square, 1 - beta2)
    scale = variance.clamp_min(1e-10).rsqrt()
    size = square.sum(dim=(-2, -1), keepdim=True).sqrt()
    scaled = (square * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    update = update * (scale * size / scaled.clamp_min(1e-10))
    # Cautious decay: only where it goes the same way as the update.
    params.sub_(lr * (update + decay * params * (update * params >= 0)))


def adamw_update(
    param: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Scalar,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    decay: Scalar,
) -> None:
    """One AdamW step on a weight of any shape, in place; `mean` and `square` have its shape, `step` counts from 1."""
    param.mul_(1 - lr * decay)
    mean.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    size = (square / (1 - beta2**step)).sqrt() + 1e-10
    param.sub_(lr / (1 - beta1**step) * (mean / size))


class MuonAdamW:
    """Muon for groups of kind `muon`, matrices of one shape; AdamW for groups of kind `adamw`.

    It has torch.optim.Optimizer's `param_groups`, `state` and `step` and is none: the base class imports torch's
    compiler, more than a second on a CPU that never uses it.
    """

    def __init__(self, groups: Iterator[dict[str, Any]], compiles: bool) -> None:
        self.param_groups = [{**group, "initial_lr": group["lr"]} for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.scalar = partial(torch.tensor, dtype=torch.float32) if compiles else float
        self.muon_update = torch.compile(muon_update, dynamic=False) if compiles else muon_update
        self.adamw_update = torch.compile(adamw_update, dynamic=False) if compiles else adamw_update

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            if group["kind"] == "muon":
                self.step_muon(group)
            else:
                for param in group["params"]:
                    self.step_adamw(group, param)

    def step_muon(self, group: dict[str, Any]) -> None:
        params = group["params"]
        rows, columns = params[0].shape
        state = self.state[params[0]]  # of the whole group
        stacked, grads = torch.stack(params), torch.stack([param.grad for param in params])
        if not state:
            state["mean"] = torch.zeros_like(stacked)
            state["variance"] = stacked.new_zeros(
                (len(params), rows, 1) if rows >= columns else (len(params), 1, columns)
            )
        lr = group["lr"] * max(1.0, rows / columns) ** 0.5
        scalars = map(self.scalar, (lr, group["momentum"], MUON_BETA2, group["weight_decay"]))
        self.muon_update(stacked, grads, state["mean"], state["variance"], *scalars)
        torch._foreach_copy_(params, list(stacked.unbind()))

    def step_adamw(self, group: dict[str, Any], param: Tensor) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0, mean=torch.zeros_like(param), square=torch.zeros_like(param))
        state["step"] += 1
        assert param.grad is not None
        scalars = map(self.scalar, (float(state["step"]), group["lr"], *group["betas"], group["weight_decay"]))
        self.adamw_update(param, param.grad, state["mean"], state["square"], *scalars)


# --- schedules and loop -----------------------------------------------------------------------------------------------


def lr_multiplier(progress: float) -> float:
    """Learning rates over their constants when `progress`, 0 to 1, of the budget is spent."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


def set_schedule(optimizer: MuonAdamW, step: int, progress: float) -> float:
    """Set rates, momentum and decay for a step. Returns the multiplier of the rates."""
    multiplier = lr_multiplier(progress)
    ramp = min(step / MOMENTUM_RAMP_STEPS, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = multiplier * group["initial_lr"]
        if group["kind"] == "muon":
            group["momentum"] = (1 - ramp) * min(0.85, MUON_MOMENTUM) + ramp * MUON_MOMENTUM
            group["weight_decay"] = WEIGHT_DECAY * (1 - progress)
    return multiplier


def main() -> None:
    with Trial(PROFILE) as trial:
        device = trial.device
        with device.torch_device:
            model = GPT(trial.data.vocab_size, trial.data.seq_len)
        model.init_weights(device.dtype)
        optimizer = MuonAdamW(model.groups(), device.compiles)
        trial.describe(depth=DEPTH, flops_per_token=model.flops_per_token())
        row_bytes = model.bytes_per_token() * trial.data.seq_len
        batches = trial.batches(TOTAL_BATCH_SIZE, DEVICE_BATCH_SIZE, row_bytes)
        losses = trial.compiled(model, model.windows)

        for step in trial.steps(model, optimizer, batches):
            multiplier = set_schedule(optimizer, step.index, step.progress)
            total = torch.zeros((), device=device.torch_device)
            for inputs, targets in batches.step():
                with device.autocast():
                    loss = losses(inputs, targets).mean() / batches.parts
                loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
                total += loss.detach()
            trial.mean_gradients(model)
            if GRAD_CLIP:
                nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
            optimizer.step()
            model.zero_grad(set_to_none=True)
            step.done(total, multiplier)

        trial.finish(model, losses)


if __name__ == "__main__":
    main()
