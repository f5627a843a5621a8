"""ViZDoom's scenarios: first-person 3D with Freedoom art, four tics per step.

Found by experiment with vizdoom 1.3.2: once an episode has ended there is no state any
more, so the true last frame is not to be had. The source advances tic by tic and repeats
the picture of the last tic that still had one, at most one tic old; the next step of that
play starts a new episode. A scenario's own time limit counts as truncation.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gamegen_env.actions import DIRECTIONS, OFFSETS, token
from gamegen_env.games.base import GameSource, Step, action_table, check_tokens, require, resize

TICS = 4
SCENARIOS = (
    "basic",
    "deadly_corridor",
    "defend_the_center",
    "defend_the_line",
    "health_gathering",
    "health_gathering_supreme",
    "my_way_home",
    "predict_position",
    "take_cover",
)


class VizdoomSource(GameSource):
    """Plays of a ViZDoom scenario. Left and right turn where the scenario allows, else strafe."""

    licence = "MIT (ViZDoom and its scenarios); art BSD-3-Clause (Freedoom), keep its notice"

    def __init__(self, game: str, num_envs: int, seed: int, split: str) -> None:
        name = game.partition(":")[2]
        if name not in SCENARIOS:
            raise ValueError(f"game: expected a ViZDoom scenario of {SCENARIOS}, got {name!r}")
        doom = require("vizdoom")
        seeds = np.random.SeedSequence((seed, *split.encode())).generate_state(num_envs) & 0x7FFFFFFF
        self._scratch = tempfile.TemporaryDirectory()  # the engine leaves an .ini file behind
        self._envs = []
        for env_seed in seeds:
            env = doom.DoomGame()
            env.load_config(str(Path(doom.scenarios_path) / f"{name}.cfg"))
            env.set_doom_config_path(str(Path(self._scratch.name) / "vizdoom.ini"))
            env.set_window_visible(False)
            env.set_sound_enabled(False)
            env.set_screen_resolution(doom.ScreenResolution.RES_160X120)
            env.set_screen_format(doom.ScreenFormat.RGB24)
            env.set_mode(doom.Mode.PLAYER)
            env.set_seed(int(env_seed))
            env.init()
            self._envs.append(env)
        buttons = [str(b).rpartition(".")[2] for b in self._envs[0].get_available_buttons()]
        table = _actions(buttons)
        kwargs = {"scenario": name, "tics": TICS, "resolution": "160x120"}
        super().__init__(game, num_envs, tuple(table), kwargs, ("vizdoom",))
        self._actions = action_table(table, [0] * len(buttons))
        self._frames = np.zeros((num_envs, 0))
        self._over = np.zeros(num_envs, bool)

    def reset(self) -> np.ndarray:
        self._over[:] = False
        for env in self._envs:
            env.new_episode()
        self._frames = np.stack([_screen(env) for env in self._envs])
        return self._frames.copy()

    def step(self, action_tokens: np.ndarray) -> Step:
        tokens = check_tokens(action_tokens, self.num_envs)
        n = self.num_envs
        rewards = np.zeros(n, np.float32)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        for i, env in enumerate(self._envs):
            if self._over[i]:
                env.new_episode()
                self._frames[i] = _screen(env)
                continue
            state = env.get_state()
            for _ in range(TICS):
                rewards[i] += env.make_action(self._actions[tokens[i]])
                if env.is_episode_finished():
                    truncated[i] = env.is_episode_timeout_reached()
                    terminated[i] = not truncated[i]
                    break
                state = env.get_state()
            self._frames[i] = resize(state.screen_buffer)
        self._over = terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated

    def close(self) -> None:
        for env in self._envs:
            env.close()
        self._scratch.cleanup()


def _screen(env: Any) -> np.ndarray:
    return resize(env.get_state().screen_buffer)


def _actions(buttons: list[str]) -> dict[int, list[int]]:
    """Return token -> pressed buttons for every token that a scenario's buttons can express."""
    turn = "TURN" if "TURN_LEFT" in buttons else "MOVE"
    table: dict[int, list[int]] = {}
    for button in ("", "FIRE"):
        for direction, (dx, dy) in zip(DIRECTIONS, OFFSETS, strict=True):
            wanted = set()
            if dx:
                wanted.add(f"{turn}_{'LEFT' if dx < 0 else 'RIGHT'}")
            if dy:
                wanted.add(f"MOVE_{'FORWARD' if dy < 0 else 'BACKWARD'}")
            if button:
                wanted.add("ATTACK")
            if wanted <= set(buttons):
                table[token(direction, button)] = [int(b in wanted) for b in buttons]
    return table
