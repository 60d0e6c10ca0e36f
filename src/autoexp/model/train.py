"""Train a GPT for a fixed time and judge it by validation bits per byte: the file that proposals change.

    python train.py

Notable choices: rotary positions, QK norm, relu² MLP, untied head, value embeddings with gates on every other layer,
gated attention heads, hashed n-gram vectors, a learned mix with the first hidden state before each layer, skips from
the lower to the upper layers, sliding windows, soft-capped logits; Muon for the matrices, AdamW for the rest; small
steps first. Data, clock, evaluation and report come from
`autoexp.model` and are frozen.

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

from autoexp.model import Trial, attend, relu2_mlp, rotated_heads, softcap_cross_entropy

PROFILE = "h100"  # the machine this file was written for

# The model
DEPTH = 9  # [2, 16]; number of layers
ASPECT_RATIO = 64  # [32, 96]; width is DEPTH * ASPECT_RATIO, rounded up to whole heads
HEAD_DIM = 128  # {64, 128}; channels of an attention head
MLP_RATIO = 4  # [2, 6]; hidden width of the MLP over the width
WINDOW_PATTERN = "SSSSL"  # {"L", "SL", "SSL", "SSSL", "SSSSL"}; S = short window, L = full, repeated; the last is L
SHORT_WINDOW_DIVISOR = 8  # {2, 4, 8, 16}; the short window is the context over this
ROPE_BASE = 200_000.0  # [1000.0, 1000000.0] log; longest wavelength of the rotary positions
QK_SCALE = 1.0  # [0.7, 2.0]; sharpness of attention, on top of 1/sqrt(HEAD_DIM)
SOFTCAP = 15.0  # [5.0, 50.0] log; logits stay within plus and minus this
INIT_SCALE = 0.68  # [0.3, 2.0] log; initial size of the matrices, in units of 1/sqrt(width)
X0_LAMBDA_INIT = 0.05  # [0.0, 0.5]; initial share of the first hidden state that each layer is given again
VALUE_EVERY = 2  # {1, 2, 3}; one layer of so many has a value embedding, the last always
VALUE_GATE = 2.0  # [1.0, 4.0]; largest weight of a value embedding
ATTENTION_GATE = True  # {False, True}; what each head says is weighed by a gate, so that it may say nothing
SKIPS = True  # {False, True}; each layer of the upper half is given what its mirror image in the lower half made
NGRAMS = 2  # {1, 2, 3}; longest run of tokens that has a vector of its own, found by hashing; 1 = single tokens only
NGRAM_DROPOUT = 0.5  # [0.0, 0.9]; part of the tokens whose n-gram is left out, so that rare ones are not relied on
NGRAM_ROWS = 2**18  # {2**14, 2**16, 2**18, 2**19, 2**20}; vectors in each of these tables
EMBEDDING_DROPOUT = 0.1  # [0.0, 0.5]; part of the first hidden state that is left out in training

# The optimizer
TOTAL_BATCH_SIZE = 2**18  # {2**16, 2**17, 2**18, 2**19, 2**20}; tokens a step
START_BATCH = 0.5  # {0.25, 0.5, 1.0}; part of that in the first steps
START_UNTIL = 0.3  # [0.05, 0.6]; part of the budget in which steps are so small
MATRIX_LR = 0.04  # [0.005, 0.2] log; learning rate of the matrices (Muon)
EMBEDDING_LR = 0.9  # [0.05, 3.0] log; learning rate of token and value embeddings (AdamW)
NGRAM_LR = 0.1  # [0.02, 3.0] log; learning rate of the n-gram embeddings (AdamW)
UNEMBEDDING_LR = 0.005  # [0.0005, 0.05] log; learning rate of the head (AdamW)
SCALAR_LR = 0.5  # [0.02, 2.0] log; learning rate of the per-layer scalars (AdamW)
WEIGHT_DECAY = 0.2  # [0.0, 1.0]; cautious decay of the matrices, falling to 0 over the budget
EMBEDDING_WEIGHT_DECAY = 0.001  # [0.0, 0.02]; decay of token and n-gram embeddings
VALUE_WEIGHT_DECAY = 0.003  # [0.0, 0.02]; decay of value embeddings
HEAD_WEIGHT_DECAY = 0.01  # [0.0, 0.1]; decay of the head
ADAM_BETA1 = 0.8  # [0.5, 0.95]; memory of AdamW's mean
ADAM_BETA2 = 0.95  # [0.8, 0.99]; memory of AdamW's variance
MUON_MOMENTUM = 0.95  # [0.8, 0.99]; memory of Muon's mean, once ramped up
FINAL_MOMENTUM = 0.95  # [0.7, 0.99]; and at the end: it moves there while the rates fall
MUON_BETA2 = 0.95  # [0.8, 0.999]; memory of Muon's variance
GRAD_CLIP = 0.0  # {0.0, 0.1, 0.3, 1.0}; longest gradient over all weights; 0 = any
WARMUP_RATIO = 0.0  # [0.0, 0.3]; part of the budget in which the learning rates rise
WARMDOWN_RATIO = 0.75  # [0.1, 1.0]; part of the budget in which they fall
FINAL_LR_FRAC = 0.05  # [0.0, 0.2]; what is left of them at the end

# Not searched: they change speed or a start, hardly the result
DEVICE_BATCH_SIZE = 128  # rows that go through the model at once, at most
MOMENTUM_RAMP_STEPS = 200  # steps from momentum 0.85 to MUON_MOMENTUM
GATE_CHANNELS = 32  # channels of the hidden state that a gate looks at


# --- model ------------------------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without weights."""
    return nn.functional.rms_norm(x, (x.size(-1),), eps=1e-6)


def rotary_table(tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and frequency, each (tokens, head_dim / 2).

    Queries and keys are turned by the same table, so the sharpness of attention is put in here, half of it in each.
    """
    frequency = ROPE_BASE ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(tokens).float(), frequency)
    return angle.cos() * math.sqrt(QK_SCALE), angle.sin() * math.sqrt(QK_SCALE)


class Attention(nn.Module):
    """Causal self-attention with gated heads; on some layers a value embedding, with a gate, joins the values."""

    def __init__(self, width: int, heads: int, window: int, value_vocab: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Parameter(torch.empty(3, width, width))  # three matrices, one product
        self.out = nn.Linear(width, width, bias=False)
        self.value_embedding = nn.Embedding(value_vocab, width) if value_vocab else None
        self.gate = nn.Linear(min(GATE_CHANNELS, width), heads, bias=False) if value_vocab else None
        self.out_gate = nn.Linear(min(GATE_CHANNELS, width), heads, bias=False) if ATTENTION_GATE else None

    def forward(self, x: Tensor, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        qkv = nn.functional.linear(x, self.qkv.flatten(0, 1)).view(rows, tokens, 3, self.heads, -1)
        q, k, v = rotated_heads(qkv, cos, sin)  # norm and rotation of q and k; each (rows, tokens, heads, head_dim)
        if self.gate is not None and self.value_embedding is not None:
            gate = VALUE_GATE * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))  # (rows, tokens, heads)
            v = v + gate[..., None] * self.value_embedding(ids).view(v.shape).to(v.dtype)
        said = attend(q, k, v, self.window)
        if self.out_gate is not None:
            said = said * (2 * torch.sigmoid(self.out_gate(x[..., : self.out_gate.in_features])))[..., None].to(v.dtype)
        out: Tensor = self.out(said.reshape(rows, tokens, width))
        return out


class Block(nn.Module):
    """One layer: a learned mix with the first hidden state, then attention and the MLP, each added to the stream."""

    def __init__(self, width: int, heads: int, window: int, value_vocab: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, window, value_vocab)
        self.up = nn.Parameter(torch.empty(MLP_RATIO * width, width))
        self.down = nn.Parameter(torch.empty(MLP_RATIO * width, width))
        self.residual_lambda = nn.Parameter(torch.empty(()))
        self.x0_lambda = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor, first: Tensor, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = (self.residual_lambda * x + self.x0_lambda * first).to(first.dtype)
        x = x + self.attention(norm(x), ids, cos, sin)
        return x + relu2_mlp(norm(x), self.up, self.down)


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
        self.embedding = nn.Embedding(vocab_size, self.width)
        self.ngrams: Any = nn.ModuleDict({str(n): nn.Embedding(NGRAM_ROWS, self.width) for n in range(2, NGRAMS + 1)})
        self.blocks: Any = nn.ModuleList(
            Block(self.width, heads, window, vocab_size if (DEPTH - 1 - layer) % VALUE_EVERY == 0 else 0)
            for layer, window in enumerate(self.windows)
        )
        self.skips = nn.Parameter(torch.empty(DEPTH // 2)) if SKIPS else None
        self.head = nn.Linear(self.width, vocab_size, bias=False)
        cos, sin = rotary_table(seq_len, HEAD_DIM)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def window_of(self, layer: int, seq_len: int) -> int:
        """How many tokens back the attention of `layer` sees."""
        short = WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S" and layer < DEPTH - 1
        return max(1, seq_len // SHORT_WINDOW_DIVISOR) if short else seq_len

    def value_embeddings(self) -> list[nn.Embedding]:
        """Those of the layers that have one."""
        return [block.attention.value_embedding for block in self.blocks if block.attention.value_embedding is not None]

    @torch.no_grad()
    def init_weights(self, dtype: torch.dtype) -> None:
        """Initial values. What feeds the residual stream starts at zero: each layer begins as the identity.

        Embeddings and rotary tables are kept in `dtype`, the precision they are used in.
        """
        bound = INIT_SCALE * math.sqrt(3 / self.width)  # of a uniform distribution of deviation 1/sqrt(width)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for table in self.ngrams.values():
            nn.init.zeros_(table.weight)
        for block in self.blocks:
            attention = block.attention
            for matrix in (attention.qkv, block.up):
                nn.init.uniform_(matrix, -bound, bound)
            for matrix in (attention.out.weight, block.down):
                nn.init.zeros_(matrix)
            if attention.out_gate is not None:
                nn.init.zeros_(attention.out_gate.weight)
            if attention.gate is not None:
                nn.init.zeros_(attention.gate.weight)
                nn.init.uniform_(attention.value_embedding.weight, -bound, bound)
            block.residual_lambda.fill_(1.0)
            block.x0_lambda.fill_(X0_LAMBDA_INIT)
        if self.skips is not None:
            nn.init.zeros_(self.skips)
        for table in (self.embedding, *self.ngrams.values(), *self.value_embeddings()):
            table.to(dtype=dtype)
        self.cos, self.sin = self.cos.to(dtype), self.sin.to(dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """The first hidden state, (rows, tokens, width): the token's vector, and those of what it ends, hashed."""
        x: Tensor = self.embedding(ids)
        key = ids
        for n in range(2, NGRAMS + 1):
            earlier = nn.functional.pad(ids, (n - 1, 0))[:, : ids.size(1)]  # the token n - 1 places before
            key = (key * 36_313 + earlier * 27_191 + n) & 0x3FFF_FFFF
            vector = self.ngrams[str(n)](key % NGRAM_ROWS)
            if self.training and NGRAM_DROPOUT:
                kept = torch.rand(ids.shape, device=ids.device) >= NGRAM_DROPOUT
                vector = vector * (kept / (1 - NGRAM_DROPOUT)).to(vector.dtype)[..., None]
            x = x + vector
        return nn.functional.dropout(norm(x), EMBEDDING_DROPOUT, self.training)

    def hidden(self, ids: Tensor) -> Tensor:
        """What the head sees, (rows, tokens, width)."""
        x = first = self.embed(ids)
        cos, sin = self.cos[: ids.size(1)], self.sin[: ids.size(1)]
        lower: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            mirror = DEPTH - 1 - layer
            if self.skips is not None and mirror < len(lower) and mirror < layer:
                x = torch.addcmul(x, self.skips[mirror].to(x.dtype), lower[mirror])
            x = block(x, first, ids, cos, sin)
            lower.append(x)
        return norm(x)

    def logits(self, ids: Tensor) -> Tensor:
        """Scores of the next token at every place, (rows, tokens, vocab) float32."""
        return SOFTCAP * torch.tanh(self.head(self.hidden(ids)).float() / SOFTCAP)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return softcap_cross_entropy(self.hidden(inputs), self.head.weight, targets, SOFTCAP)

    def flops_per_token(self) -> float:
        """Forward and backward: 6 for each weight of a product, and attention over each layer's window."""
        products = self.head.weight.numel() + sum(matrix.numel() for matrix in self.matrices())
        return 6 * products + sum(12 * self.width * min(window, self.cos.size(0)) for window in self.windows)

    def bytes_per_token(self) -> float:
        """About what a training pass keeps in memory for each token."""
        return 2 * self.width * DEPTH * (8 + MLP_RATIO) + 8 * self.vocab_size

    def matrices(self) -> list[Tensor]:
        """The weights of the blocks' products, each (rows, columns) or several of them stacked."""
        tables = {table.weight for table in self.value_embeddings()}
        return [weight for weight in self.blocks.parameters() if weight.ndim > 1 and weight not in tables]

    def groups(self) -> Iterator[dict[str, Any]]:
        """The optimizer's parameter groups."""
        scale = (self.width / 768) ** -0.5  # AdamW's rates were tuned at width 768
        betas = (ADAM_BETA1, ADAM_BETA2)
        ngrams = [table.weight for table in self.ngrams.values()]
        values = [table.weight for table in self.value_embeddings()]
        yield adamw([self.head.weight], UNEMBEDDING_LR * scale, betas, HEAD_WEIGHT_DECAY)
        yield adamw([self.embedding.weight], EMBEDDING_LR * scale, betas, EMBEDDING_WEIGHT_DECAY)
        yield adamw(ngrams, NGRAM_LR * scale, betas, EMBEDDING_WEIGHT_DECAY)
        yield adamw(values, EMBEDDING_LR * scale, betas, VALUE_WEIGHT_DECAY)
        yield adamw([block.residual_lambda for block in self.blocks], SCALAR_LR * 0.01, betas, 0.0)
        yield adamw([block.x0_lambda for block in self.blocks], SCALAR_LR, (0.96, 0.95), 0.0)
        if self.skips is not None:
            yield adamw([self.skips], SCALAR_LR * 0.1, betas, 0.0)
        matrices = self.matrices()
        for shape in sorted({matrix.shape[-2:] for matrix in matrices}):  # stacked: each shape is one update
            same = [matrix for matrix in matrices if matrix.shape[-2:] == shape]
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
    fast = matrices.is_cuda and torch.cuda.get_device_capability(matrices.device) >= (8, 0)
    x: Tensor = matrices.bfloat16() if fast else matrices
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


class MuonAdamW:
    """Muon for groups of kind `muon`, matrices of one shape; AdamW for groups of kind `adamw`.

    It has torch.optim.Optimizer's `param_groups`, `state` and `step` and is none: the base class imports torch's
    compiler, more than a second on a CPU that never uses it.
    """

    def __init__(self, groups: Iterator[dict[str, Any]], compiles: bool) -> None:
        self.param_groups = [{**group, "initial_lr": group["lr"]} for group in groups if group["params"]]
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.scalar = partial(torch.tensor, dtype=torch.float32) if compiles else float
        self.muon_update = torch.compile(muon_update, dynamic=False) if compiles else muon_update

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            if group["kind"] == "muon":
                self.step_muon(group)
            else:
                self.step_adamw(group)

    def step_muon(self, group: dict[str, Any]) -> None:
        params = group["params"]  # each (rows, columns), or several of them stacked
        rows, columns = params[0].shape[-2:]
        state = self.state[params[0]]  # of the whole group
        stacked = torch.cat([param.view(-1, rows, columns) for param in params])
        grads = torch.cat([param.grad.view(-1, rows, columns) for param in params])
        if not state:
            state["mean"] = torch.zeros_like(stacked)
            state["variance"] = stacked.new_zeros(
                (len(stacked), rows, 1) if rows >= columns else (len(stacked), 1, columns)
            )
        lr = group["lr"] * max(1.0, rows / columns) ** 0.5
        scalars = map(self.scalar, (lr, group["momentum"], MUON_BETA2, group["weight_decay"]))
        update = self.muon_update if rows * columns > 2**14 else muon_update  # not worth compiling for a gate
        update(stacked, grads, state["mean"], state["variance"], *scalars)
        parts = torch.split(stacked, [param.numel() // (rows * columns) for param in params])
        torch._foreach_copy_(params, [part.view_as(param) for part, param in zip(parts, params, strict=True)])

    def step_adamw(self, group: dict[str, Any]) -> None:
        params = group["params"]
        for param in params:
            if not self.state[param]:
                step = torch.zeros((), dtype=torch.float32, device=param.device)
                self.state[param].update(step=step, mean=torch.zeros_like(param), square=torch.zeros_like(param))
        states = [self.state[param] for param in params]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            params,
            [param.grad for param in params],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=1e-10,
            amsgrad=False,
            maximize=False,
        )


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
    falling = max(0.0, progress - (1 - WARMDOWN_RATIO)) / WARMDOWN_RATIO
    for group in optimizer.param_groups:
        group["lr"] = multiplier * group["initial_lr"]
        if group["kind"] == "muon":
            momentum = (1 - ramp) * min(0.85, MUON_MOMENTUM) + ramp * MUON_MOMENTUM
            group["momentum"] = momentum + falling * (FINAL_MOMENTUM - MUON_MOMENTUM)
            group["weight_decay"] = WEIGHT_DECAY * (1 - progress)
    return multiplier


def batch_share(progress: float) -> float:
    """The size of a step over TOTAL_BATCH_SIZE."""
    return START_BATCH if progress < START_UNTIL else 1.0


def main() -> None:
    with Trial(PROFILE) as trial:
        device = trial.device
        with device.torch_device:
            model = GPT(trial.data.vocab_size, trial.data.seq_len)
        model.init_weights(torch.bfloat16 if device.dtype == torch.bfloat16 else torch.float32)
        optimizer = MuonAdamW(model.groups(), device.compiles)
        trial.describe(depth=DEPTH, flops_per_token=model.flops_per_token())
        row_bytes = model.bytes_per_token() * trial.data.seq_len
        batches = trial.batches(TOTAL_BATCH_SIZE, DEVICE_BATCH_SIZE, row_bytes, START_BATCH)
        losses = trial.compiled(model, model.windows, HEAD_DIM)

        for step in trial.steps(model, optimizer, batches):
            multiplier = set_schedule(optimizer, step.index, step.progress)
            parts = round(batches.parts * batch_share(step.progress))
            total = torch.zeros((), device=device.torch_device)
            for inputs, targets in batches.step(parts):
                with device.autocast():
                    loss = losses(inputs, targets).mean() / parts
                trial.backward(loss)
                total += loss.detach()
            if trial.mean_gradients(model):
                if GRAD_CLIP:
                    nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
                optimizer.step()
            model.zero_grad(set_to_none=True)
            step.done(total, multiplier)

        trial.finish(model, losses)


if __name__ == "__main__":
    main()
