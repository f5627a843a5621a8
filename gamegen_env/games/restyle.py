"""Recorded play in other styles: the same game under other colours, or seen in a mirror.

A model that has met a game in one dress only learns the dress. A restyled clip keeps every
event: `mirror` swaps left and right in the pictures and in the keys, and the colours change
by one of

    hue       a rotation about the grey axis, other gains, sometimes the negative: any picture
    palette   a new colour for every old one: sprites and background of games of few colours
    backdrop  palette, and a texture where the most frequent colour was
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gamegen_env.actions import N_ACTIONS, N_DIRECTIONS, OFFSETS
from gamegen_env.games.base import FRAME_SIZE
from gamegen_env.games.shards import Shard

FEW_COLOURS = 48  # at most so many, of 2^15: above, the picture is shaded, and new colours for each would be noise
BACKDROP_SHARE = 0.25  # of the first picture that one colour must cover to be taken for the background

# token -> the token of the same key in a mirror
MIRRORED = np.array(
    [
        button * N_DIRECTIONS + OFFSETS.index((-OFFSETS[direction][0], OFFSETS[direction][1]))
        for button, direction in (divmod(token, N_DIRECTIONS) for token in range(N_ACTIONS))
    ],
    np.uint8,
)


def restyle(clip: Shard, seed: int) -> Shard:
    """Return a clip in another style, the same for the same clip and seed."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        clip = mirror(clip)
    colours = np.unique(_bins(clip.frames[:: max(1, len(clip.frames) // 8)]))
    if len(colours) > FEW_COLOURS or rng.random() < 0.3:
        return replace(clip, frames=_hue(clip.frames, rng))
    return replace(clip, frames=_palette(clip.frames, rng, backdrop=rng.random() < 0.4))


def mirror(clip: Shard) -> Shard:
    """Swap left and right, in the pictures and in the keys."""
    action = np.where(clip.first == 1, clip.action, MIRRORED[clip.action])
    return replace(clip, frames=np.ascontiguousarray(clip.frames[:, :, ::-1]), action=action.astype(np.uint8))


def _bins(frames: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 in 5 bits per channel: (...) uint16."""
    red, green, blue = np.moveaxis(frames >> 3, -1, 0).astype(np.uint16)
    return red << 10 | green << 5 | blue


def _hue(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0.5, 2 * np.pi - 0.5)
    along = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * along + np.sin(angle) * across
    turned = (frames.astype(np.float32) - 127.5) @ (rotation * rng.uniform(0.7, 1.15, 3)).astype(np.float32)
    if rng.random() < 0.25:
        turned = -turned
    return (turned + 127.5).round().clip(0, 255).astype(np.uint8)


def _palette(frames: np.ndarray, rng: np.random.Generator, backdrop: bool) -> np.ndarray:
    bins = _bins(frames)
    painted = rng.integers(0, 256, (1 << 15, 3), dtype=np.uint8)[bins]
    colours, counts = np.unique(bins[0], return_counts=True)
    if backdrop and counts.max() >= BACKDROP_SHARE * bins[0].size:
        grain = 2 ** int(rng.integers(1, 4))  # pixels
        coarse = rng.normal(0, 18, (FRAME_SIZE // grain, FRAME_SIZE // grain, 3)) + rng.integers(30, 226, 3)
        texture = coarse.repeat(grain, 0).repeat(grain, 1).clip(0, 255).astype(np.uint8)
        painted = np.where((bins == colours[counts.argmax()])[..., None], texture, painted)
    return painted
