"""Where did the camera go? By how many whole pixels the view moved between what is on screen and the next true picture.

The view is compared with the screen, not with the picture before: a camera moves by fractions of a pixel, and against
the screen their rounding does not add up. A pixel's difference counts up to a bound, so that a thing that moves on its
own weighs no more than its place in the picture. What only one of the two shows does not count.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

BOUND = 3000  # a pixel's squared difference, summed over three channels, from which it counts as another one
SPACING = 3  # pixels between the points of the first, coarse look; odd, so that no regular texture hides between them
ROUGH_BOUND = 32  # of 255: the bound of a point's difference in brightness
GUESSES = 5  # of the coarse look, looked at closely
# How many pixels it must explain to set a camera in motion. Measured on held-out recordings: what moves on its own in
# seven flat games explains up to 66; with 68 for 80 the view follows the basket of Fruits in 2 % of the steps.
THING = 80
STICK = 0.03  # how much worse than the best a movement may be that goes on as before, or ends


def find_scrolls(
    screen: np.ndarray, picture: np.ndarray, last: np.ndarray, moving: np.ndarray, max_scroll: int
) -> np.ndarray:
    """Find the movements of views.

    A camera at rest sets out only if that explains more of the picture than a thing of its own would; one in motion
    goes where the picture says.

    Args:    screen, picture: (n, H, W, 3) uint8, H = W > max_scroll, what is shown and what should be; last: (n, 2)
             integers, the movements before; moving: (n,) bool, whose camera is in motion; max_scroll: pixels per axis.
    Returns: (n, 2) int32, (dx, dy) in pixels.
    """
    found = np.zeros((len(screen), 2), np.int32)
    stay = _misses(screen, picture, np.zeros((len(screen), 1, 2), np.int64), max_scroll)[:, 0]
    least = THING * BOUND / screen[0, ..., 0].size
    search = (stay > np.where(moving, 0, least)).nonzero()[0]
    if not len(search):
        return found
    screen, picture, last, moving, stay = (x[search] for x in (screen, picture, last, moving, stay))
    moves = np.concatenate([_guess(screen, picture, max_scroll), last[:, None]], axis=1)
    missed = _misses(screen, picture, moves, max_scroll)
    row, best = np.arange(len(search)), missed.argmin(1)
    near = np.minimum(stay, missed[row, best]) * (1 + STICK)
    as_before = moving & (missed[:, -1] <= near)
    best[as_before] = moves.shape[1] - 1
    rests = np.where(moving, ~as_before & (stay <= near), stay - missed[row, best] < least)
    found[search] = np.where(rests[:, None], 0, moves[row, best])
    return found


def _windows(pictures: np.ndarray, max_scroll: int, step: int = 1) -> np.ndarray:
    """Return what views moved by (dx, dy) show, at [:, dy + max_scroll, dx + max_scroll]; 0 where there is nothing."""
    margin = ((0, 0), (max_scroll, max_scroll), (max_scroll, max_scroll), *((0, 0),) * (pictures.ndim - 3))
    side = pictures.shape[1]
    return sliding_window_view(np.pad(pictures, margin), (side, side), axis=(1, 2))[..., ::step, ::step]


def _misses(screen: np.ndarray, picture: np.ndarray, moves: np.ndarray, max_scroll: int) -> np.ndarray:
    """Return what movements (n, k, 2) leave unexplained, (n, k) float64: bounded squares, mean of what both show."""
    x, y = moves[..., 0] + max_scroll, moves[..., 1] + max_scroll
    shown = _windows(screen, max_scroll)[np.arange(len(screen))[:, None], y, x]  # (n, k, 3, H, W)
    square = np.subtract(shown, picture.transpose(0, 3, 1, 2)[:, None], dtype=np.int16).view(np.uint16)
    np.multiply(square, square, out=square)  # at most 255 ** 2
    missed = square[:, :, 0].astype(np.float32)
    missed += square[:, :, 1]
    missed += square[:, :, 2]
    np.minimum(missed, BOUND, out=missed)
    both = _windows(np.ones(screen[:1, ..., 0].shape, np.float32), max_scroll)[0][y, x]
    return (missed * both).sum((2, 3), dtype=np.float64) / both.sum((2, 3))


def _guess(screen: np.ndarray, picture: np.ndarray, max_scroll: int) -> np.ndarray:
    """Return the likeliest movements but (0, 0), short ones first among equals: (n, GUESSES, 2) int64."""
    shown, truth = _windows(_brightness(screen), max_scroll, SPACING), _brightness(picture)[:, ::SPACING, ::SPACING]
    both = _windows(np.ones(screen[:1, ..., 0].shape, np.uint8), max_scroll, SPACING)
    truth = truth[:, None, None]
    missed = np.maximum(shown, truth) - np.minimum(shown, truth)
    np.minimum(missed, ROUGH_BOUND, out=missed)
    missed *= both
    mean = missed.sum((3, 4), dtype=np.int64) / both.sum((3, 4))
    axis = np.arange(-max_scroll, max_scroll + 1)
    moves = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    order = np.argsort(np.abs(moves).sum(1), kind="stable")[1:]
    return moves[order][np.argsort(mean.reshape(len(screen), -1)[:, order], axis=1, kind="stable")[:, :GUESSES]]


def _brightness(frames: np.ndarray) -> np.ndarray:
    quarter = frames >> 2
    return quarter[..., 0] + (quarter[..., 1] << 1) + quarter[..., 2]
