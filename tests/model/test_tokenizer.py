"""The tokenizer: what goes in comes out, and bytes are counted right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoexp.model.errors import BadInput
from autoexp.model.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer

STRANGE = "Naïve café, 12345 times: 你好 🎉\n\n\tdon't <|reserved_0|> \u0000 end  "


@pytest.fixture(scope="module")
def tokenizer(text: str) -> Tokenizer:
    return train_tokenizer(text.split("\n\n"), 400, made_from="a test")


@pytest.mark.parametrize("sample", ["", "a", "Fellow-Citizens of the Senate", STRANGE])
def test_round_trip(tokenizer: Tokenizer, sample: str) -> None:
    [ids] = tokenizer.encode_documents([sample])
    assert ids.dtype == np.uint16 and ids[0] == tokenizer.bos
    assert tokenizer.decode(ids[1:]) == sample
    assert tokenizer.encode(sample).tolist() == ids.tolist()


def test_ids_are_all_there_and_special_ones_last(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 400 == tokenizer.encoding.n_vocab
    assert tokenizer.bos == 400 - len(SPECIAL_TOKENS)


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.merges == tokenizer.merges and loaded.made_from == "a test"
    assert loaded.encode(STRANGE).tolist() == tokenizer.encode(STRANGE).tolist()


def test_token_bytes_add_up_to_the_size_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    lengths = tokenizer.token_bytes()
    for sample in (text[:5000], STRANGE):
        ids = tokenizer.encode(sample)
        assert lengths[ids].sum() == len(sample.encode())
    assert lengths[tokenizer.bos] == 0


def test_a_lone_high_byte_is_one_byte_or_three_as_the_reference_has_it(tokenizer: Tokenizer) -> None:
    lone = tokenizer.merges.index(b"\xe4")
    assert tokenizer.token_bytes()[lone] == 1
    assert tokenizer.token_bytes(reference=True)[lone] == 3


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"pattern": "x"}')
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")
