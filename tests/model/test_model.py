"""The GPT and its optimizer, as train.py has them."""

from __future__ import annotations

import copy
import re
from types import ModuleType
from typing import Any

import pytest
import torch

from autoexp.model import profiles

from .conftest import load_module, write_train
from .test_profiles import LINE, value_of

SEARCHABLE = [
    match[1] for match in map(LINE.match, profiles.render(profiles.CPU).splitlines()) if match and match[3][0] in "[{"
]


def build(train: ModuleType, vocab_size: int = 64, seq_len: int = 32) -> Any:
    torch.manual_seed(0)
    model = train.GPT(vocab_size, seq_len)
    model.init_weights(torch.float32)
    return model


def shaken(model: Any) -> Any:
    """The model with every weight moved away from where it starts, for zeros hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def some_rows(vocab_size: int = 64, seq_len: int = 32, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, vocab_size, (rows, seq_len + 1), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def test_an_untrained_model_knows_nothing(train_module: ModuleType) -> None:
    inputs, targets = some_rows()
    loss = build(train_module)(inputs, targets)
    assert loss.shape == targets.shape and loss.dtype == torch.float32
    assert loss.mean().item() == pytest.approx(torch.log(torch.tensor(64.0)).item(), abs=0.02)


def test_later_tokens_change_no_earlier_logit(train_module: ModuleType) -> None:
    train_module.DEPTH = 3  # type: ignore[attr-defined]
    train_module.WINDOW_PATTERN = "SSL"  # type: ignore[attr-defined]
    model = shaken(build(train_module))
    inputs, _ = some_rows()
    changed = inputs.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 64
    with torch.no_grad():
        before, after = model.logits(inputs), model.logits(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])


def test_a_short_window_hides_what_lies_before_it(train_module: ModuleType) -> None:
    train_module.DEPTH, train_module.NGRAMS = 1, 1  # type: ignore[attr-defined]
    model = shaken(build(train_module))
    model.blocks[0].attention.window = 4
    inputs, _ = some_rows()
    changed = inputs.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 64
    with torch.no_grad():
        same = (model.logits(inputs) == model.logits(changed)).all(dim=-1).all(dim=0)
    assert same.nonzero().flatten().tolist() == [0, 1, 2, *range(8, 32)]


@pytest.mark.parametrize("ngrams", [2, 3])
def test_an_ngram_is_the_token_and_those_just_before_it(train_module: ModuleType, ngrams: int) -> None:
    train_module.NGRAMS, train_module.NGRAM_ROWS = ngrams, 2**12  # type: ignore[attr-defined]
    model = shaken(build(train_module)).eval()
    inputs, _ = some_rows()
    changed = inputs.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 64
    with torch.no_grad():
        same = (model.embed(inputs) == model.embed(changed)).all(dim=-1).all(dim=0)
    assert (~same).nonzero().flatten().tolist() == list(range(10, 10 + ngrams))


def test_windows_follow_the_pattern_and_the_last_layer_sees_all(train_module: ModuleType) -> None:
    train_module.DEPTH = 6  # type: ignore[attr-defined]
    train_module.WINDOW_PATTERN = "SSL"  # type: ignore[attr-defined]
    assert build(train_module).windows == [16, 16, 32, 16, 16, 32]
    train_module.WINDOW_PATTERN = "S"  # type: ignore[attr-defined]
    assert build(train_module).windows == [16, 16, 16, 16, 16, 32]


@pytest.mark.parametrize("shape", [(3, 8, 32), (2, 32, 8), (1, 16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(
    train_module: ModuleType, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(train_module.orthogonalize(torch.randn(shape)))
    assert values.min() > 0.7 and values.max() < 1.3


def test_muon_update_has_the_size_of_the_rate_and_goes_downhill(train_module: ModuleType) -> None:
    torch.manual_seed(0)
    params, grads = torch.randn(2, 24, 8), torch.randn(2, 24, 8)
    moved = params.clone()
    mean, variance = torch.zeros_like(params), torch.zeros(2, 24, 1)
    train_module.muon_update(moved, grads.clone(), mean, variance, 0.1, 0.9, 0.95, 0.0)
    change = moved - params
    assert (change * grads).sum() < 0
    assert change.norm(dim=(1, 2)) == pytest.approx(torch.full((2,), 0.1 * 8**0.5), rel=0.15)
    assert change.norm(dim=2).std(dim=1).max() < 0.01  # rows of one size, as NorMuon wants on its first step


def test_cautious_decay_only_helps_the_update(train_module: ModuleType) -> None:
    torch.manual_seed(0)
    params, grads = torch.randn(1, 8, 8), torch.randn(1, 8, 8)
    results = []
    for decay in (0.0, 0.5):
        moved = params.clone()
        mean, variance = torch.zeros_like(params), torch.zeros(1, 8, 1)
        train_module.muon_update(moved, grads.clone(), mean, variance, 0.1, 0.9, 0.95, decay)
        results.append(moved)
    extra = results[1] - results[0]
    step = results[0] - params
    assert ((extra == 0) | (extra * step > 0)).all() and ((extra == 0) | (extra * params < 0)).all()
    assert (extra != 0).any() and (extra == 0).any()


def test_adamw_is_torchs(train_module: ModuleType) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(5, 3))
    theirs = torch.nn.Parameter(ours.detach().clone())
    group = train_module.adamw([ours], 0.01, (0.8, 0.95), 0.1)
    optimizer = train_module.MuonAdamW(iter([group]), compiles=False)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1)
    for _ in range(5):
        gradient = torch.randn(5, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def train_a_little(train: ModuleType) -> list[torch.Tensor]:
    """The weights, and the losses, after four steps across the budget."""
    torch.manual_seed(0)
    model = build(train)
    optimizer = train.MuonAdamW(model.groups(), compiles=False)
    rows = max(1, train.TOTAL_BATCH_SIZE // 2**9)
    inputs, targets = some_rows(rows=rows)
    losses = []
    for index, progress in enumerate((0.05, 0.3, 0.6, 0.95)):
        train.set_schedule(optimizer, index, progress)
        share = max(1, round(rows * train.batch_share(progress)))
        loss = model(inputs[:share], targets[:share]).mean()
        loss.backward()
        if train.GRAD_CLIP:
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.GRAD_CLIP)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return [*model.parameters(), *losses]


def other_values(constant: str) -> list[Any]:
    """The ends of the range of `constant`, or its choices, without its value."""
    line = next(line for line in profiles.render(profiles.CPU).splitlines() if line.startswith(f"{constant} = "))
    match = LINE.match(line)
    assert match is not None
    inside = re.split(r"[\]}]", match[3][1:])[0]
    return [v for v in (value_of(each.strip()) for each in inside.split(", ")) if v != value_of(match[2])]


@pytest.fixture(scope="module")
def shared_train(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load_module(write_train(tmp_path_factory.mktemp("train") / "train.py"))


ONLY_WITH = {  # constants that say how, and the constant that says whether
    "NGRAM_ROWS": ("NGRAMS", 2),
    "NGRAM_LR": ("NGRAMS", 2),
    "NGRAM_DROPOUT": ("NGRAMS", 2),
    "START_UNTIL": ("START_BATCH", 0.5),
    "START_BATCH": ("START_UNTIL", 0.5),
}


@pytest.mark.parametrize("constant", SEARCHABLE)
def test_every_searchable_constant_acts_and_trains_at_both_ends(
    constant: str, shared_train: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_train, *ONLY_WITH.get(constant, ("DEPTH", 2)))
    unchanged = train_a_little(shared_train)
    acts = False
    for value in other_values(constant):
        monkeypatch.setattr(shared_train, constant, value)
        changed = train_a_little(shared_train)
        assert all(torch.isfinite(each).all() for each in changed), value
        same_shape = len(changed) == len(unchanged) and all(
            a.shape == b.shape for a, b in zip(changed, unchanged, strict=True)
        )
        acts |= not same_shape or any(not torch.equal(a, b) for a, b in zip(changed, unchanged, strict=True))
    assert acts


def test_rates_fall_at_the_end_and_rise_at_the_start(train_module: ModuleType) -> None:
    train: Any = train_module
    train.WARMUP_RATIO, train.WARMDOWN_RATIO, train.FINAL_LR_FRAC = 0.1, 0.5, 0.2
    got = [train.lr_multiplier(progress) for progress in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)]
    assert got == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.6, 0.2])
    train.WARMUP_RATIO, train.WARMDOWN_RATIO = 0.3, 1.0  # overlapping ranges stay within 0 and 1
    assert all(0 <= train.lr_multiplier(i / 100) <= 1 for i in range(101))


def test_parameter_groups_hold_every_weight_once(train_module: ModuleType) -> None:
    model = build(train_module)
    grouped = [id(p) for group in copy.copy(list(model.groups())) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
