"""The tokenizer's memory: the same answers, asked for once."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.cell_cache import CellCache
from tests.patch_table import ContextTable


class Asked(ContextTable):
    """A coder that counts what it is asked to decode."""

    decoded = 0

    def decode_cells(self, codes: np.ndarray) -> np.ndarray:
        self.decoded += len(codes)
        return super().decode_cells(codes)


@pytest.fixture
def coder() -> Asked:
    return Asked(np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8), 300)


@pytest.mark.parametrize("bits", [2, 16])
def test_cache_answers_as_the_tokenizer_does(coder: Asked, bits: int) -> None:
    cache, rng = CellCache(coder, 4, bits), np.random.default_rng(0)
    patches = rng.integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    around = rng.integers(0, 300, (50, 3, 3)).astype(np.int32)
    patches[0], around[0] = 0, 0  # what an empty table holds
    for _ in range(20):
        some = rng.integers(0, 50, 30)
        assert np.array_equal(cache.encode_cells(patches[some]), coder.encode_cells(patches[some]))
        assert np.array_equal(cache.decode_cells(around[some]), coder.decode_cells(around[some]))
        assert np.array_equal(cache.decode_cells(around[some].astype(np.int64)), coder.decode_cells(around[some]))


def test_cache_asks_once(coder: Asked) -> None:
    cache, rng = CellCache(coder, 4, 16), np.random.default_rng(0)
    patches = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    around = rng.integers(0, 300, (40, 3, 3)).astype(np.int32)
    cache.encode_cells(patches)
    cache.decode_cells(around)
    before = coder.encoded, coder.decoded
    cache.encode_cells(patches[::-1])
    cache.decode_cells(around[::-1])
    assert (coder.encoded, coder.decoded) == before
    assert before[1] == 40
