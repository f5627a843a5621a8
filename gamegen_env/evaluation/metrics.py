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


def ssim(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame, 1 = equal (Wang et al. 2004, with the paper's Gaussian window).

    Args:    frames, truth: (..., H, W, 3) uint8.
    Returns: (...) float64.
    Raises:  ImportError if scikit-image is missing.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ImportError("SSIM needs scikit-image: pip install 'gamegen-env[evaluation]'") from None
    pairs = zip(frames.reshape(-1, *frames.shape[-3:]), truth.reshape(-1, *truth.shape[-3:]), strict=True)
    values = [
        structural_similarity(a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for a, b in pairs
    ]
    return np.array(values).reshape(frames.shape[:-3])


def differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the 4x4 cells (..., H / 4, W / 4) in which two pictures differ by more than 8 somewhere."""
    differs = (np.abs(a.astype(np.int16) - b) > 8).any(-1)
    *lead, height, width = differs.shape
    return differs.reshape(*lead, height // 4, 4, width // 4, 4).any((-3, -1))


def moving(frozen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the pixels (..., H, W) of the cells in which two pictures differ."""
    return differing(frozen, truth).repeat(4, -2).repeat(4, -1)


def flicker(played: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the share of still cells that blink: change and are back a step later.

    A cell is still at step t if the truth shows the same at t - 1, t and t + 1.

    Args:    played, truth: (n, T, H, W, 3) uint8, T >= 3.
    Returns: (n,) float64; NaN where no cell is ever still.
    """
    still = ~differing(truth[:, 1:-1], truth[:, :-2]) & ~differing(truth[:, 2:], truth[:, 1:-1])
    blinks = differing(played[:, 1:-1], played[:, :-2]) & ~differing(played[:, 2:], played[:, :-2])
    count = still.sum((1, 2, 3))
    return np.where(count > 0, (blinks & still).sum((1, 2, 3)) / np.maximum(count, 1), np.nan)


def ghosts(played: np.ndarray, truth: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Count the cells that show something else although nothing has ever moved there in the truth.

    Args:    played, truth: (n, T, H, W, 3) uint8; before: (n, H, W, 3), the frame before both.
    Returns: (n, T) int64.
    """
    moved = np.logical_or.accumulate(differing(truth, before[:, None]), axis=1)
    return (differing(played, before[:, None]) & ~moved).sum((2, 3))
