"""The names that the judge looks for in a train.py: see docs/reference/trainer.md."""

from __future__ import annotations

BUILDER = "build_model"  # (vocab_size, seq_len, dtype) -> the model with initial weights
MODEL = "GPT"  # (vocab_size, seq_len), with init_weights(dtype) perhaps; where there is no BUILDER
HEAD_DIM = "HEAD_DIM"  # channels of an attention head, for the attention back end
MODULE = "candidate"  # what the program is imported as
