"""Codes to pixels in one order of sums: the tokenizer's pictures, and the same bits everywhere."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gamegen_env.cell_decoder import CellDecoder, coder_for, decoder_weights
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.config import TokenizerConfig
from gamegen_env.engine import _native
from gamegen_env.tokenizer import Tokenizer


def tokenizer(**sizes: int) -> Tokenizer:
    """Random weights, strong enough that all of the decoder matters and some pixels saturate."""
    torch.manual_seed(0)
    made = Tokenizer(TokenizerConfig(**sizes))
    with torch.no_grad():
        for parameter in made.decoder.parameters():
            parameter.normal_(0, 0.2)
        made.codebook.normal_(0, 1)
    return made.eval()


TOKENIZERS = {
    "packaged": lambda: load_checkpoint("pocket").tokenizer,
    "small": lambda: tokenizer(codebook_size=64, code_dim=8, d_hidden=16),
    "odd": lambda: tokenizer(codebook_size=33, code_dim=5, d_hidden=67, cell_size=3),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_it_draws_what_the_tokenizer_draws(name: str) -> None:
    """Up to the rounding of a value that lies between two levels."""
    made = TOKENIZERS[name]()
    codes = np.random.default_rng(0).integers(0, made.config.codebook_size, (500, 3, 3))
    expected, got = made.decode_cells(codes), CellDecoder(made).decode_cells(codes)
    assert got.shape == expected.shape
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got != expected).mean() < 1e-3
    assert len(np.unique(got)) > 100
    patches = np.random.default_rng(1).integers(0, 256, (40, *got.shape[1:]), dtype=np.uint8)
    assert np.array_equal(CellDecoder(made).encode_cells(patches), made.encode_cells(patches))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_instruction_sets_and_batches_change_no_bit(name: str) -> None:
    made = TOKENIZERS[name]()
    codes = np.random.default_rng(0).integers(0, made.config.codebook_size, (37, 3, 3))
    expected = CellDecoder(made, "scalar").decode_cells(codes)
    for isa in _native.available_isas():
        decoder = CellDecoder(made, isa)
        assert np.array_equal(decoder.decode_cells(codes), expected)
        assert np.array_equal(np.concatenate([decoder.decode_cells(codes[i : i + 1]) for i in range(37)]), expected)
    assert CellDecoder(made).decode_cells(codes[:0]).shape == (0, *expected.shape[1:])


def test_bad_input_is_refused() -> None:
    made = TOKENIZERS["small"]()
    for code in (-1, 64):
        with pytest.raises(ValueError, match=rf"codes: expected 0..63, got {code}"):
            CellDecoder(made).decode_cells(np.full((1, 3, 3), code))
    with pytest.raises(ValueError, match=r"codes: expected \(n, 3, 3\)"):
        CellDecoder(made).decode_cells(np.zeros((1, 3, 4), int))
    weights = decoder_weights(made)
    del weights["from_code.bias"]
    with pytest.raises(ValueError, match=r"expected a tensor from_code\.bias, got none"):
        _native.CellDecoder(weights, 4, "auto")
    with pytest.raises(ValueError, match=r"from_code\.weight: expected shape"):
        _native.CellDecoder(decoder_weights(made), 5, "auto")


def test_without_the_native_engine_the_tokenizer_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = TOKENIZERS["small"]()
    assert isinstance(coder_for(made), CellDecoder)
    monkeypatch.delattr("gamegen_env.engine._native")
    monkeypatch.setitem(sys.modules, "gamegen_env.engine._native", None)
    assert coder_for(made) is made
