"""Comparing pictures: numbers that need no model and no game."""

from __future__ import annotations

import numpy as np

PSNR_CAP = 60.0  # dB; an exact frame has no finite PSNR


def psnr(frames: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """PSNR in dB of each frame, at most PSNR_CAP.

    Args:    frames, truth: (..., H, W, 3) uint8; mask: (..., H, W) bool, the pixels that count.
    Returns: (...) float64; NaN where the mask is empty.
    """
    error = np.square(frames.astype(np.float64) - truth).mean(-1)
    if mask is None:
        mean = error.mean((-2, -1))
    else:
        count = mask.sum((-2, -1))
        mean = np.where(count > 0, (error * mask).sum((-2, -1)) / np.maximum(count, 1), np.nan)
    return 10 * np.log10(255**2 / np.maximum(mean, 255**2 / 10 ** (PSNR_CAP / 10)))


def moving(frozen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the pixels (..., H, W) of 4x4 cells in which two pictures differ by more than 8 somewhere."""
    differs = (np.abs(frozen.astype(np.int16) - truth) > 8).any(-1)
    *lead, height, width = differs.shape
    cells = differs.reshape(*lead, height // 4, 4, width // 4, 4).any((-3, -1))
    return cells.repeat(4, -2).repeat(4, -1)
