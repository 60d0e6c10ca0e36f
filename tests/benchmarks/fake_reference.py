"""A repository that looks and prints like karpathy/autoresearch, in a few lines of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

PREPARE = """
import itertools, pickle
from pathlib import Path
import requests, rustbpe
import torch
from pyarrow import parquet
from autoexp.model.packing import Packer
MAX_SEQ_LEN = 128
TIME_BUDGET = 300
FOLDER = Path.home() / ".cache" / "autoresearch"
class Tokenizer:
    @classmethod
    def from_directory(cls):
        self = cls()
        with open(FOLDER / "tokenizer" / "tokenizer.pkl", "rb") as file:
            self.encoding = pickle.load(file)
        return self
    def encode(self, text): return self.encoding.encode_ordinary(text)
    def decode(self, ids): return self.encoding.decode(ids)
    def get_bos_token_id(self): return self.encoding.encode_single_token("<|reserved_0|>")
def get_token_bytes():
    return torch.load(FOLDER / "tokenizer" / "token_bytes.pt")
def make_dataloader(tokenizer, rows, seq_len, split):
    buffer = torch.empty((rows, seq_len + 1), dtype=torch.long, pin_memory=True, device="cuda")
    bos = tokenizer.get_bos_token_id()
    shard = FOLDER / "data" / ("shard_06542.parquet" if split == "val" else "shard_00000.parquet")
    def batches():
        for _ in itertools.count():
            file = parquet.ParquetFile(shard)
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group).column("text").to_pylist()
                for start in range(0, len(texts), 128):
                    yield [[bos, *tokenizer.encode(text)] for text in texts[start : start + 128]]
    packed = Packer(seq_len + 1, 1000, False).rows(batches())
    while True:
        for number in range(rows):
            buffer[number] = torch.from_numpy(next(packed).astype("int64"))
        yield buffer[:, :-1], buffer[:, 1:], 1
"""
TRAIN = r"""
import time
import torch
from kernels import get_kernel
attend = get_kernel("somebody/flash-attention-3").flash_attn_interface.flash_attn_func
from prepare import TIME_BUDGET
q = torch.ones(1, 8, 2, 16)
assert attend(q, q, q, causal=True, window_size=(4, 0)).shape == q.shape
for step in range(15):
    time.sleep(0.01)
    print(f"\rstep {step:05d} (5.0%) | loss: 3.0 | dt: 10ms | tok/sec: {50_000 + step:,} | mfu: 1.0% | epoch: 1    ",
          end="", flush=True)
print()
time.sleep(0.3)
print("---")
print("val_bpb:          1.250000")
print(f"training_seconds: {TIME_BUDGET / 10}")
print("total_seconds:    9.0")
print("peak_vram_mb:     100.0")
print("mfu_percent:      2.50")
print("total_tokens_M:   1.5")
print("num_steps:        15")
print("num_params_M:     50.3")
print("depth:            8")
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def make_reference(folder: Path, mar8: bool = True) -> Path:
    """A checkout whose branch master is committed, and, of a slightly better model, the branch exp/H100/mar8."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "master")
    (folder / "prepare.py").write_text(PREPARE)
    (folder / "train.py").write_text(TRAIN)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a reference")
    if mar8:
        git(folder, "checkout", "-qb", "exp/H100/mar8")
        (folder / "train.py").write_text(TRAIN.replace("1.250000", "1.200000"))
        git(folder, "commit", "-qam", "better")
        git(folder, "checkout", "-q", "master")
    return folder
