from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.tokenizer import BLOCK, Tokenizer
from tests.conftest import random_model


@pytest.fixture(scope="module")
def tokenizer(tiny_config: ModelConfig) -> Tokenizer:
    return random_model(tiny_config)[0]


def test_code_depends_on_its_own_cell_alone(tokenizer: Tokenizer, picture: np.ndarray) -> None:
    """Code stability: where pixels do not change, no code changes."""
    before = tokenizer.encode(picture[None])[0]
    changed = picture.copy()
    changed[20:24, 32:36] = 255 - changed[20:24, 32:36]
    after = tokenizer.encode(changed[None])[0]
    different = np.argwhere(before != after)
    assert different.tolist() in ([], [[5, 8]])


def test_packaged_codes_are_stable_and_local(picture: np.ndarray) -> None:
    tokenizer = load_checkpoint("pocket").tokenizer
    before = tokenizer.encode(picture[None])[0]
    changed = picture.copy()
    changed[20:24, 32:36] = (250, 20, 20)
    after = tokenizer.encode(changed[None])[0]
    assert np.argwhere(before != after).tolist() == [[5, 8]]


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_cell_result_does_not_depend_on_the_batch(tokenizer: Tokenizer, size: int) -> None:
    rng = np.random.default_rng(size)
    patches = rng.integers(0, 255, (size, 4, 4, 3), dtype=np.uint8)
    codes = tokenizer.encode_cells(patches)
    assert [int(tokenizer.encode_cells(patches[i : i + 1])[0]) for i in range(0, size, 17)] == codes[::17].tolist()
    around = rng.integers(0, 256, (size, 3, 3))
    pixels = tokenizer.decode_cells(around)
    for i in range(0, size, 17):
        assert np.array_equal(tokenizer.decode_cells(around[i : i + 1])[0], pixels[i])


def test_frames_and_grids_have_documented_shapes(tokenizer: Tokenizer) -> None:
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    codes = tokenizer.encode(frames)
    assert codes.shape == (2, 8, 16)
    assert codes.dtype == np.int32
    assert tokenizer.decode(codes).shape == frames.shape
    with pytest.raises(ValueError, match="multiples of 4"):
        tokenizer.encode(np.zeros((1, 30, 64, 3), np.uint8))
    assert tokenizer.encode_cells(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0,)


def test_packaged_tokenizer_reconstructs_flat_art_and_unseen_texture(picture: np.ndarray) -> None:
    """Floors well below what it does, to catch a broken checkpoint; figures are in the model card."""
    tokenizer = load_checkpoint("pocket").tokenizer
    flat = picture.copy()
    flat[44:60, 8:24] = (10, 120, 10)
    for frame, floor in ((flat, 26.0), (picture, 12.0)):
        restored = tokenizer.decode(tokenizer.encode(frame[None]))[0]
        mse = np.square(restored.astype(float) - frame).mean()
        assert 10 * np.log10(255**2 / mse) > floor
