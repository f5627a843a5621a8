"""Scroll estimation: by how many whole pixels did the camera move between two pictures?

A cheap guess for the encoder, which checks it against its canvas before it believes it.
Every shift is scored by how many points of a fixed grid in the middle of the picture find
the same brightness at the shifted place: a count, unlike a squared error, is not led
astray by a sprite that moves on its own.
"""

from __future__ import annotations

from functools import cache

import numpy as np

POINT_SPACING = 5  # pixels between sample points; odd, so that no regular texture hides between them
SAME = 12  # brightness difference, of 255, that still counts as the same


@cache
def _tables(side: int, max_scroll: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shifts (N, 2), small ones first; points (P,) flat; and the points each shift compares (N, P)."""
    axis = np.arange(-max_scroll, max_scroll + 1)
    shifts = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    shifts = shifts[np.argsort(np.abs(shifts).sum(1), kind="stable")][1:]  # the first is (0, 0)
    place = np.arange(max_scroll, side - max_scroll, POINT_SPACING)
    points = (place[:, None] * side + place).ravel()
    return shifts, points, points + (shifts[:, 1] * side + shifts[:, 0])[:, None]


def find_scrolls(before: np.ndarray, after: np.ndarray, max_scroll: int, n_best: int) -> np.ndarray:
    """Guess the movement of the view from one picture to the next.

    Args:    before, after: (n, H, W, 3) uint8, H = W > 2 * max_scroll; max_scroll: pixels per axis;
             n_best: guesses per pair.
    Returns: (n, n_best, 2) int64 movements (dx, dy), never (0, 0), the best guess first.
    """
    n, side = before.shape[:2]
    shifts, points, compared = _tables(side, max_scroll)
    old, new = _brightness(before).reshape(n, -1), _brightness(after).reshape(n, -1)
    # In uint8, old - new + SAME wraps around: it is at most 2 * SAME only if the two are close.
    difference = np.take(old, compared, axis=1)
    difference -= (new[:, points] - np.uint8(SAME))[:, None]
    score = (difference <= 2 * SAME).view(np.uint8).sum(2, dtype=np.uint16)
    best = np.argsort(-score.astype(np.int32), axis=1, kind="stable")[:, :n_best]
    return shifts[best]


def _brightness(frames: np.ndarray) -> np.ndarray:
    quarter = frames >> 2
    return quarter[..., 0] + (quarter[..., 1] << 1) + quarter[..., 2]
