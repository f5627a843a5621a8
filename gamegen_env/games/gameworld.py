"""gameworld: ten small games drawn from rectangles, 210x160, no camera movement.

The package's games are single, unseeded plays: they draw from NumPy's global generator
and have no time limit. This source gives the batch a generator state of its own and swaps
it in around every call, so equal seeds give equal frames and nothing else in the process
is disturbed. Found by reading and by experiment with gameworld 0.1.0: `step` never resets
by itself, so the frame that arrives with `terminated` is the true last one; the source
then resets that play on its next step. Reset keeps some state (where the paddle stood), as
in the original. Explode never ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gamegen_env.actions import token
from gamegen_env.games.base import GameSource, Step, action_table, check_tokens, require, resize

_NOOP, _UP, _RIGHT, _LEFT, _DOWN = (token(d) for d in ("NOOP", "UP", "RIGHT", "LEFT", "DOWN"))
_UP_DOWN = {_NOOP: 0, _UP: 1, _DOWN: 2}
_LEFT_RIGHT = {_NOOP: 0, _LEFT: 1, _RIGHT: 2}
_FOUR_WAYS = {_LEFT: 0, _RIGHT: 1, _UP: 2, _DOWN: 3, _NOOP: 4}

# name -> token -> the game's own action, read from its code (comments there are partly wrong)
ACTIONS: dict[str, dict[int, int]] = {
    "Aviate": {_NOOP: 0, _UP: 1},
    "Bounce": _UP_DOWN,
    "Cross": _UP_DOWN,
    "Drive": _LEFT_RIGHT,
    "Explode": _LEFT_RIGHT,
    "Fruits": {_LEFT: 0, _NOOP: 1, _RIGHT: 2},
    "Gold": _FOUR_WAYS,
    "Hunt": _FOUR_WAYS,
    "Impact": _LEFT_RIGHT,
    "Jump": {_NOOP: 0, _UP: 1},
}


class GameworldSource(GameSource):
    """Plays of a gameworld game."""

    licence = "MIT (code; pictures are drawn by it)"

    def __init__(self, game: str, num_envs: int, seed: int, split: str) -> None:
        name = game.partition(":")[2]
        if name not in ACTIONS:
            raise ValueError(f"game: expected a gameworld game of {sorted(ACTIONS)}, got {name!r}")
        make = require("gameworld.envs").create_gameworld_env
        # All splits see the same rules; a seed of another split is another stream of chance.
        sequence = np.random.SeedSequence((seed, *split.encode()))
        self._random_state = np.random.RandomState(sequence.generate_state(8)).get_state()
        super().__init__(game, num_envs, tuple(ACTIONS[name]), {"game": name}, ("gameworld",))
        self._name = name
        self._actions = action_table(ACTIONS[name], ACTIONS[name][_NOOP])
        self._over = np.zeros(num_envs, bool)
        with self._chance():
            self._envs = [make(name) for _ in range(num_envs)]

    @contextmanager
    def _chance(self) -> Iterator[None]:
        """Lend the global generator to the games, and put it back as it was."""
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._random_state)  # noqa: NPY002
        try:
            yield
        finally:
            self._random_state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002

    def reset(self) -> np.ndarray:
        self._over[:] = False
        with self._chance():
            return np.stack([resize(env.reset()[0]) for env in self._envs])

    def step(self, action_tokens: np.ndarray) -> Step:
        tokens = check_tokens(action_tokens, self.num_envs)
        frames, rewards = [], np.zeros(self.num_envs, np.float32)
        with self._chance():
            for i, env in enumerate(self._envs):
                if self._over[i]:
                    frame, self._over[i] = env.reset()[0], False
                else:
                    frame, rewards[i], self._over[i], _, _ = env.step(self._actions[tokens[i]])
                frames.append(resize(frame))
        return np.stack(frames), rewards, self._over.copy(), np.zeros(self.num_envs, bool)

    def hint(self) -> np.ndarray | None:
        """Return the scripted player's tokens, (n,), so that rallies last and fruit is caught."""
        script = _SCRIPTS.get(self._name)
        return None if script is None else np.array([script(env) for env in self._envs])

    def close(self) -> None:
        self._envs = []


def _toward(position: float, goal: float, reach: float, back: int, forth: int) -> int:
    if abs(goal - position) <= reach:
        return _NOOP
    return forth if goal > position else back


def _bounce(env: Any) -> int:
    return _toward(env.player_y + env.paddle_height / 2, env.ball_y, 8, _UP, _DOWN)


def _impact(env: Any) -> int:
    return _toward(env.paddle_x + env.paddle_width / 2, env.ball_x, 8, _LEFT, _RIGHT)


def _explode(env: Any) -> int:
    goal = env.bombs[0][0] if env.bombs else env.bomber_x
    return _toward(env.player_x + env.bucket_width / 2, goal, 6, _LEFT, _RIGHT)


def _fruits(env: Any) -> int:
    fruit = [item for item in env.falling_objects if not item[2]]
    if not fruit:
        return _NOOP
    lowest = max(fruit, key=lambda item: item[1])
    return _toward(env.player_x + env.player_width / 2, lowest[0] + env.fruit_size / 2, 6, _LEFT, _RIGHT)


def _gold(env: Any) -> int:
    if not env.items:
        return _NOOP
    x, y = env.items[0][:2]
    sideways = _toward(env.player_x, x, 8, _LEFT, _RIGHT)
    return sideways if sideways != _NOOP else _toward(env.player_y, y, 8, _UP, _DOWN)


def _aviate(env: Any) -> int:
    ahead = [pipe for pipe in env.pipes if pipe["x"] + env.pipe_width > env.bird_x - env.bird_radius]
    # one flap climbs about half a gap, so it is due in the lower quarter
    floor = ahead[0]["gap_y"] + env.pipe_gap if ahead else 150
    return _UP if env.bird_y + env.bird_vel_y > floor - 30 else _NOOP


def _cross(env: Any) -> int:
    """Go up if that is safe for the next steps, else wait, else go back."""
    for move, tok in ((-env.player_speed, _UP), (0, _NOOP), (env.player_speed, _DOWN)):
        hit = False
        for t in range(1, 6):
            y = min(max(env.player_y + t * move, 0), env.height - env.player_size)
            for car_x, car_y, speed, _ in env.cars:
                beside = abs(car_x + t * speed + 2 - env.player_x) <= 14
                hit |= beside and y - env.car_size < car_y < y + env.player_size
        if not hit:
            return tok
    return _NOOP


_SCRIPTS = {
    "Aviate": _aviate,
    "Bounce": _bounce,
    "Cross": _cross,
    "Explode": _explode,
    "Fruits": _fruits,
    "Gold": _gold,
    "Impact": _impact,
}
