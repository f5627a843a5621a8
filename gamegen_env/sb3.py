"""Stable-Baselines3 over the native vector environment.

    from gamegen_env.sb3 import ImageGameVecEnv
    PPO("CnnPolicy", ImageGameVecEnv(8, image="photo.png")).learn(100_000)

Wrap with SB3's `VecMonitor` for episode statistics. Actions, seeds and options are the
vector environment's; it runs in SAME_STEP mode, which is what SB3 expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from gamegen_env.vector_env import ImageGameVectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError("gamegen_env.sb3 needs stable-baselines3: pip install 'gamegen-env[agents]'") from error

Indices = None | int | Iterable[int]


class ImageGameVecEnv(VecEnv):
    """`num_envs` generated games as SB3 wants them."""

    def __init__(self, num_envs: int, *, render_mode: str | None = "rgb_array", **options: Any) -> None:
        """Allocate the games. Args: options: as `ImageGameVectorEnv`, autoreset_mode excepted."""
        if "autoreset_mode" in options:
            raise ValueError("autoreset_mode: SB3 needs 'SameStep', which is set here; expected none")
        # VecEnv.__init__ asks for attributes of the environments, so they come first.
        self.env = ImageGameVectorEnv(
            num_envs, render_mode=render_mode, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )
        self._actions = np.zeros(num_envs, np.int64)
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)
        # After VecEnv.__init__, which writes its own; VecVideoRecorder reads the rate.
        self.metadata = {"render_fps": self.env.metadata["render_fps"], "render_modes": ["rgb_array"]}

    def reset(self) -> np.ndarray:
        # SB3 keeps one seed and one options dict per row, for the next reset only.
        images = [options.get("image") for options in self._options]
        unknown = sorted({key for options in self._options for key in options} - {"image"})
        if unknown:
            raise ValueError(f"options: expected only 'image', got {unknown}")
        seeds = [None if seed is None else int(seed) for seed in self._seeds]
        observations, infos = self.env.reset(seed=seeds, options={"image": images})
        self.reset_infos = [_row(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        rows = [
            _row({k: v for k, v in infos.items() if not k.startswith(("final_", "_final_"))}, row)
            for row in range(self.num_envs)
        ]
        for row in map(int, (terminated | truncated).nonzero()[0]):
            self.reset_infos[row] = rows[row]
            rows[row] = _row(infos["final_info"], row)
            rows[row]["terminal_observation"] = infos["final_obs"][row]
            rows[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        return observations, rewards.astype(np.float32), terminated | truncated, rows

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the vector environment. Raises: ValueError for some rows only, as all rows share it."""
        rows = list(self._get_indices(indices))
        if set(rows) != set(range(self.num_envs)):
            raise ValueError(f"indices: expected all {self.num_envs} rows, which share {attr_name!r}, got {rows}")
        setattr(self.env, attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        return hasattr(self.env, attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Call a single environment's clone_state or restore_state for each row, any other method once for all."""
        rows = list(self._get_indices(indices))
        if method_name == "clone_state":
            return self.env.clone_state(rows, *args, **kwargs)
        if method_name == "restore_state":

            def restore_state(state: dict[str, Any]) -> None:
                self.env.restore_state([state] * len(rows), rows)

            return [restore_state(*args, **kwargs)] * len(rows)  # type: ignore[func-returns-value]
        return [getattr(self.env, method_name)(*args, **kwargs)] * len(rows)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Indices = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def _row(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """Return one row of Gymnasium's vector infos: what its masks say that the row has."""
    return {
        key: value[row].item() if isinstance(value[row], np.generic) else value[row]
        for key, value in infos.items()
        if not key.startswith("_") and infos["_" + key][row]
    }
