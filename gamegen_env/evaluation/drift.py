"""Does a game stay a game? Minutes of play with held random keys, compared with real frames.

drift_1/5/15   distance of a played frame to the nearest real frame of its game after so many
               minutes, over the same distance for real frames of other clips: 1 is real
collapsed      share of plays that end farther off than all but 1 % of the real frames, or
               in whose last minute nothing has moved
collapsed_real share of the real game's frames, at each full minute under keys of the same
               kind, that are as far off: what a perfect model would have
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gamegen_env.games.base import GameSource
from gamegen_env.world import World

MINUTES = (1, 5, 15)
STEPS_PER_MINUTE = 15 * 60  # at the environment's `render_fps`
HOLD = 0.8  # chance to keep a key
POOL = 8  # frames are compared in squares of so many pixels


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Average squares of POOL pixels: (n, H, W, 3) uint8 -> (n, d) float32."""
    n, height, width, _ = frames.shape
    pooled = frames.reshape(n, height // POOL, POOL, width // POOL, POOL, 3).mean((2, 4), dtype=np.float32)
    return pooled.reshape(n, -1)


def nearest(frames: np.ndarray, real: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Return the root mean square distance (n,) of thumbnails (n, d) to the nearest of (m, d), 0..255.

    Args: other: (n, m) bool, which may be chosen; default all.
    """
    square = np.square(frames).sum(1)[:, None] + np.square(real).sum(1) - 2 * frames @ real.T
    if other is not None:
        square = np.where(other, square, np.inf)
    return np.sqrt(np.maximum(square.min(1), 0) / frames.shape[1])


def held(keys: np.ndarray, action_tokens: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return the next keys (n,): mostly the same."""
    return np.where(rng.random(len(keys)) < HOLD, keys, rng.choice(action_tokens, len(keys)))


def evaluate_drift(
    world: World,
    game: GameSource,
    clips: Sequence[np.ndarray],
    action_tokens: Sequence[int],
    minutes: float,
    slots: int,
) -> dict[str, float]:
    """Play `slots` games from the clips' middles for `minutes`; one that ends begins anew.

    Args: game: the real one, played for as long; clips: frames (T, H, W, 3) of it; at least `slots` + 1.
    Raises: ValueError if there are fewer.
    """
    if len(clips) <= slots:
        raise ValueError(f"drift: expected more than {slots} clips to start from, got {len(clips)}")
    rng = np.random.default_rng(0)
    real = np.concatenate([clip[:: max(1, len(clip) // 16)] for clip in clips])
    owner = np.concatenate([np.full(len(clip[:: max(1, len(clip) // 16)]), i) for i, clip in enumerate(clips)])
    known = thumbnails(real)
    among_real = nearest(known, known, owner[:, None] != owner)
    chosen = rng.permutation(len(clips))[:slots]
    start = [clips[i][len(clips[i]) // 2] for i in chosen]
    world.reset(range(slots), start, [2000 + slot for slot in range(slots)])
    limit = np.quantile(among_real, 0.99)
    keys = rng.choice(action_tokens, slots)
    figures: dict[str, float] = {}
    moved = np.zeros(slots, bool)
    last_minute = np.stack(start)
    for step in range(1, round(minutes * STEPS_PER_MINUTE) + 1):
        keys = held(keys, action_tokens, rng)
        result = world.step(range(slots), keys.tolist())
        frames = result.frames
        over = result.terminated.nonzero()[0].tolist()
        if over:  # as the environment does
            world.reset(over, [start[slot] for slot in over], [2000 + slots * step + slot for slot in over])
        moved |= (frames != last_minute).any((1, 2, 3))
        if step % STEPS_PER_MINUTE == 0:
            minute = step // STEPS_PER_MINUTE
            distance = nearest(thumbnails(frames), known)
            if minute in MINUTES:
                figures[f"drift_{minute}"] = float(distance.mean() / among_real.mean())
            figures["collapsed"] = float(((distance > limit) | ~moved).mean())
            moved[:], last_minute = False, frames
    game.reset()
    keys, far = rng.choice(action_tokens, game.num_envs), []
    for step in range(1, round(minutes * STEPS_PER_MINUTE) + 1):
        keys = held(keys, action_tokens, rng)
        frames = game.step(keys)[0]
        if step % STEPS_PER_MINUTE == 0:
            far.append(nearest(thumbnails(frames), known) > limit)
    if far:
        figures["collapsed_real"] = float(np.mean(far))
    return figures
