"""Atari through ale-py: four emulator frames per step, the brighter of the last two shown.

The ROMs are commercial: these recordings serve local experiments, and nothing learned from
them ships (`ships` is False in every shard). Found by experiment with ale-py 0.12.1: the
screen at game over is the true last frame and the emulator waits for `reset_game`, which
the source calls on that play's next step. The emulator itself is deterministic here
(no sticky actions), so each episode starts after a random number of idle frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gamegen_env.actions import ALE, token
from gamegen_env.games.base import GameSource, Step, action_table, check_tokens, require, resize

FRAME_SKIP = 4
MAX_IDLE = 30  # emulator frames before an episode, drawn per episode


class AleSource(GameSource):
    """Plays of an Atari 2600 game."""

    licence = "emulator GPL-2.0; ROMs commercial, not for publication"
    ships = False

    def __init__(self, game: str, num_envs: int, seed: int, split: str) -> None:
        ale_py, roms = require("ale_py"), require("ale_py.roms")
        name = game.partition(":")[2]
        if name not in roms.get_all_rom_ids():
            raise ValueError(f"game: expected a game of ale-py (for example 'pong'), got {name!r}")
        self._rng = np.random.default_rng((seed, *split.encode()))
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._envs = []
        for _ in range(num_envs):
            ale = ale_py.ALEInterface()
            ale.setInt("random_seed", int(self._rng.integers(2**31)))
            ale.setFloat("repeat_action_probability", 0.0)
            ale.loadROM(roms.get_rom_path(name))
            self._envs.append(ale)
        tokens = tuple(ALE[a.value] for a in self._envs[0].getMinimalActionSet())
        kwargs = {"rom": name, "frame_skip": FRAME_SKIP, "max_idle": MAX_IDLE}
        super().__init__(game, num_envs, tokens, kwargs, ("ale-py",))
        self._actions = [ale_py.Action(a) for a in action_table({t: i for i, t in enumerate(ALE)}, 0)]
        self._noop = self._actions[token("NOOP")]
        self._over = np.zeros(num_envs, bool)

    def reset(self) -> np.ndarray:
        self._over[:] = False
        return np.stack([self._start(ale) for ale in self._envs])

    def step(self, action_tokens: np.ndarray) -> Step:
        tokens = check_tokens(action_tokens, self.num_envs)
        n = self.num_envs
        frames, rewards = [], np.zeros(n, np.float32)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        for i, ale in enumerate(self._envs):
            if self._over[i]:
                frames.append(self._start(ale))
                continue
            screen = last = ale.getScreenRGB()
            for _ in range(FRAME_SKIP):
                rewards[i] += ale.act(self._actions[tokens[i]])
                last, screen = screen, ale.getScreenRGB()
                if ale.game_over():
                    break
            frames.append(resize(np.maximum(screen, last)))  # sprites that flicker take turns
            truncated[i] = ale.game_truncated()
            terminated[i] = ale.game_over(with_truncation=False)
        self._over = terminated | truncated
        return np.stack(frames), rewards, terminated, truncated

    def close(self) -> None:
        self._envs = []

    def _start(self, ale: Any) -> np.ndarray:
        ale.reset_game()
        for _ in range(int(self._rng.integers(MAX_IDLE + 1))):
            ale.act(self._noop)
        return resize(ale.getScreenRGB())
