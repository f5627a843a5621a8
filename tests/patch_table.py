"""A stand-in for the trained tokenizer, with the two methods that the canvas and the codec rely on."""

from __future__ import annotations

import numpy as np


class PatchTable:
    """Codes are rows of a table of patches: encode finds the nearest, decode looks up, without context."""

    def __init__(self, pictures: np.ndarray, size: int, seed: int = 0) -> None:
        """Sample `size` different 4x4 patches from pictures (n, H, W, 3), at all phases."""
        windows = np.lib.stride_tricks.sliding_window_view(pictures, (4, 4), axis=(1, 2))
        flat = np.unique(windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 48), axis=0)
        rng = np.random.default_rng(seed)
        self.table = flat[rng.permutation(len(flat))[:size]]
        self.encoded = 0  # cells asked for so far

    def encode_cells(self, patches: np.ndarray) -> np.ndarray:
        self.encoded += len(patches)
        table, flat = self.table.astype(np.float64), patches.reshape(-1, 48).astype(np.float64)
        return ((table**2).sum(1) - 2 * flat @ table.T).argmin(1).astype(np.int32)

    def decode_cells(self, codes: np.ndarray) -> np.ndarray:
        # Codes beyond the table, which nobody encodes to, look like its last row.
        return self.table[np.minimum(codes[:, 1, 1], len(self.table) - 1)].reshape(-1, 4, 4, 3)


class ContextTable(PatchTable):
    """Decodes to a picture of its nine codes, so that a test sees which neighbours were used."""

    def decode_cells(self, codes: np.ndarray) -> np.ndarray:
        return spell(codes.reshape(-1, 9))


def spell(nine_codes: np.ndarray) -> np.ndarray:
    """Write nine codes below 65536 into a patch, two bytes each: (k, 9) -> (k, 4, 4, 3) uint8."""
    patch = np.zeros((len(nine_codes), 48), np.uint8)
    patch[:, 0:18:2], patch[:, 1:18:2] = nine_codes >> 8, nine_codes & 255
    return patch.reshape(-1, 4, 4, 3)
