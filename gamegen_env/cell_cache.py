"""A tokenizer that remembers what it has coded and decoded.

Games draw the same patches again and again: half of the cells encoded for coinrun, four
fifths for Cross, nearly all that a sprite on plain ground needs decoded. A code depends
on its patch alone and a decoded patch on its 3x3 codes alone, and both are compared
whole, so the results are the tokenizer's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gamegen_env.canvas import CellCoder

_MIX = np.uint64(0x9E3779B97F4A7C15)


class CellCache:
    """Remembers 2 ** bits patches with their codes, and as many 3x3 codes with their patches."""

    def __init__(self, tokenizer: CellCoder, cell_size: int, bits: int) -> None:
        patch = (cell_size, cell_size, 3)
        self._tokenizer = tokenizer
        self._codes = _Table(tokenizer.encode_cells, patch, np.uint8, (), np.int32, bits)
        self._patches = _Table(tokenizer.decode_cells, (3, 3), np.int32, patch, np.uint8, bits)

    def encode_cells(self, patches: np.ndarray) -> np.ndarray:
        """Return codes (N,) int32 of patches (N, c, c, 3) uint8."""
        return self._codes(patches)

    def decode_cells(self, codes: np.ndarray) -> np.ndarray:
        """Return patches (N, c, c, 3) uint8 of codes (N, 3, 3)."""
        return self._patches(codes)

    def patches(self) -> np.ndarray:
        """Return what every code looks like among its own kind: (codebook_size, c, c, 3) uint8."""
        return self._tokenizer.patches()


class _Table:
    """A function of rows with a memory: each row has one place, where the latest row stands."""

    def __init__(
        self, compute: Callable[[np.ndarray], np.ndarray], key: tuple[int, ...], key_dtype: type,
        value: tuple[int, ...], value_dtype: type, bits: int,
    ) -> None:  # fmt: skip
        self.compute, self.key_dtype, self.bits = compute, key_dtype, np.uint64(bits)
        self.width = math.prod(key)
        self.keys = np.zeros((1 << bits, self.width), key_dtype).view(np.uint32)
        self.values: np.ndarray = np.zeros((1 << bits, *value), value_dtype)
        self.used = np.zeros(1 << bits, bool)
        rng = np.random.default_rng(0)
        self.factors = rng.integers(1, 2**63, self.keys.shape[1]).astype(np.uint64) | np.uint64(1)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(rows, self.key_dtype).reshape(len(rows), self.width).view(np.uint32)
        mixed = (flat * self.factors).sum(1)
        place = (((mixed ^ (mixed >> np.uint64(32))) * _MIX) >> (np.uint64(64) - self.bits)).astype(np.int64)
        values = self.values[place]
        new = (~self.used[place] | (self.keys[place] != flat).any(1)).nonzero()[0]
        if len(new):
            values[new] = self.compute(rows[new])
            self.keys[place[new]], self.values[place[new]], self.used[place[new]] = flat[new], values[new], True
        return values
