"""Who plays while we record: held keys, half of them blind, half leaning towards progress.

Not agents and not learned. A key is held for a few steps, as a hand would; the same seed
presses the same keys.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.actions import ALE, meaning, token
from gamegen_env.games.base import GameSource

HOLD = (0.3, 0.9)  # range of the chance to keep holding, one draw per play: from hasty to heavy hands
FOLLOW = 0.8  # chance per step that a leaning play takes the scripted player's advice

# game, or its source -> name of a token -> weight; tokens not named keep weight 1
_LEANINGS: dict[str, dict[str, float]] = {
    "procgen:bossfight": {"FIRE": 6, "LEFT": 2, "RIGHT": 2},
    "procgen:caveflyer": {"UP": 6, "UPLEFT": 3, "UPRIGHT": 3, "FIRE": 3},
    "procgen:chaser": {"NOOP": 0.3},
    "procgen:climber": {"UPRIGHT": 4, "UPLEFT": 4, "UP": 2, "RIGHT": 2, "LEFT": 2},
    "procgen:coinrun": {"RIGHT": 8, "UPRIGHT": 8, "UP": 2},
    "procgen:dodgeball": {"FIRE": 4},
    "procgen:fruitbot": {"NOOP": 3},
    "procgen:heist": {"NOOP": 0.3},
    "procgen:jumper": {"UPRIGHT": 4, "UPLEFT": 4},
    "procgen:leaper": {"UP": 4},
    "procgen:maze": {"NOOP": 0.3},
    "procgen:miner": {"NOOP": 0.3},
    "procgen:ninja": {"RIGHT": 6, "UPRIGHT": 6},
    "procgen:plunder": {"FIRE": 3},
    "procgen:starpilot": {"FIRE": 8, "RIGHT": 2},
    "gameworld:Aviate": {"NOOP": 5},
    "ale": {"FIRE": 3},
    "vizdoom": {"UP": 6, "UPLEFT": 3, "UPRIGHT": 3, "FIRE": 2},
}


class Policy:
    """Presses keys for every play of a source.

    Even plays are blind: they draw uniformly. Odd plays lean by the table above, and mostly
    follow the source's scripted player where there is one. All let go of a key when the
    picture stands still, or most of a maze would be leaning on a wall.
    """

    name = "held keys; even plays uniform, odd plays leaning or scripted"

    def __init__(self, source: GameSource, seed: int, stray: float = 0.0) -> None:
        """Args:
        source: the game to play.
        seed: what the keys depend on.
        stray: chance that a draw of a blind play takes any of ALE's 18 tokens instead of
            one that means something in this game.
        """
        self._source = source
        self._stray = stray
        self._rng = np.random.default_rng(seed)
        self._tokens = np.array(source.action_tokens)
        n = source.num_envs
        self._leans = np.arange(n) % 2 == 1
        game = source.game.partition("@")[0]
        named = _LEANINGS.get(game, _LEANINGS.get(game.partition(":")[0], {}))
        weights = np.ones((n, len(self._tokens)))
        weights[self._leans] = [named.get(meaning(int(t)), 1.0) for t in self._tokens]
        self._cumulative = np.cumsum(weights / weights.sum(1, keepdims=True), axis=1)
        self._hold = self._rng.uniform(*HOLD, n)
        self._held = np.full(n, token("NOOP"))
        self._last: np.ndarray | None = None

    def act(self, frames: np.ndarray) -> np.ndarray:
        """Return the next tokens, (n,) int64, given the frames on screen, (n, 64, 64, 3) uint8."""
        n = len(self._held)
        draw, keep, follow, stray = self._rng.random((4, n))
        fresh = self._tokens[(self._cumulative < draw[:, None]).sum(1).clip(max=len(self._tokens) - 1)]
        anything = np.array(ALE)[self._rng.integers(len(ALE), size=n)]
        fresh = np.where(~self._leans & (stray < self._stray), anything, fresh)
        release = keep > self._hold
        if self._last is None:
            release[:] = True
        else:
            release |= (frames == self._last).all((1, 2, 3))
        self._last = frames
        self._held = np.where(release, fresh, self._held)
        hint = self._source.hint()
        if hint is None:
            return self._held.copy()
        return np.where(self._leans & (follow < FOLLOW), hint, self._held)
