"""`ImageGame-v0` as a single Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle

from gamegen_env.actions import meaning
from gamegen_env.episode import Games
from gamegen_env.keyboard import sdl_keycodes

State = dict[str, Any]


class ImageGameEnv(gym.Env[np.ndarray, np.int64], EzPickle):
    """A game generated from a picture.

    ## Description
    The picture is coded into a tile map, and a causal transformer decides, action by action,
    which tiles change. Everything, reward and game over included, is the model's own play.

    ## Action Space
    `Discrete(18)`, the full ALE set: no-op, fire, eight directions, and each with fire.
    `action_set="procgen"`: `Discrete(15)` in Procgen's order.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`: the frame.

    ## Rewards
    `reward="model"`: the sign that the trained head gives, -1, 0 or 1. `reward="survival"`:
    1 per step. `info["reward_source"]` says which one paid.

    ## Starting State
    `options={"image": path | bytes | PIL image | array}` for one episode, else the `image`
    argument, else a packaged picture chosen by the seed.

    ## Episode End
    `terminated` comes from the model. `gym.make` truncates after 1,000 steps.

    ## Arguments
    - model: name of a packaged model or path of a checkpoint folder.
    - image, fit: default picture; "crop", "letterbox" or "stretch".
    - action_set: "ale" or "procgen".
    - reward: "model" or "survival".
    - repeat_action_probability: chance that the previous action is played again.
    - engine: "auto" (the native one), "native", "torch", "reference" or "cuda". device: "cpu", "cuda" or "auto".
    - temperature: of the sampler; 0 plays the most likely game.
    - kv_bits: 4 or 16, precision of the KV cache.
    - precision: of the arithmetic, "int8", "int4" or "float32"; "auto" is int8 where the engine has it.
    - threads: of the native engine; None is one per core, one for a few games.

    ## Version History
    - v0: first release. The id changes with weights, tokenizer, sampler or reward rule, not with speed.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  (Gymnasium's protocol)

    def __init__(
        self,
        render_mode: str | None = None,
        *,
        model: str = "pocket",
        image: str | None = None,
        fit: str = "crop",
        action_set: str = "ale",
        reward: str = "model",
        repeat_action_probability: float = 0.0,
        engine: str = "auto",
        device: str = "cpu",
        temperature: float = 0.5,
        kv_bits: int = 4,
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        options = {
            "model": model,
            "image": image,
            "fit": fit,
            "action_set": action_set,
            "reward": reward,
            "repeat_action_probability": repeat_action_probability,
            "engine": engine,
            "device": device,
            "temperature": temperature,
            "kv_bits": kv_bits,
            "precision": precision,
            "threads": threads,
        }
        EzPickle.__init__(self, render_mode, **options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self._games: Games | None = Games(1, **options)  # type: ignore[arg-type]
        self._action_set = action_set
        self.observation_space = gym.spaces.Box(0, 255, self._games.frame_shape, np.uint8)
        self.action_space = gym.spaces.Discrete(len(self._games.tokens))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        games = self._open()
        pictures = games.pictures(options, 1)
        super().reset(seed=seed)
        frames, infos = games.reset([0], [self.np_random], pictures)
        return frames[0], infos[0]

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        games = self._open()
        if not games.started[0]:
            raise gym.error.ResetNeeded("expected reset() before step()")
        outcome = games.step([0], games.check_actions([action], 1), [self.np_random])
        return outcome.frames[0], float(outcome.rewards[0]), bool(outcome.terminated[0]), False, outcome.infos[0]

    def render(self) -> np.ndarray | None:
        """Return the frame (H, W, 3) uint8 under `render_mode="rgb_array"`, else None."""
        games = self._open()
        if not games.started[0]:
            raise gym.error.ResetNeeded("expected reset() before render()")
        return games.frame(0) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        if self._games is not None:
            self._games.world.close()
        self._games = None

    def clone_state(self, include_rng: bool = True) -> State:
        """Copy the whole game: the same actions lead to the same future. Fit for pickle.

        Args: include_rng: with the environment's generator, which chooses pictures and seeds of later episodes.
        """
        games = self._open()
        if not games.started[0]:
            raise gym.error.ResetNeeded("expected reset() before clone_state()")
        return games.save(0, self.np_random if include_rng else None)

    def restore_state(self, state: State) -> None:
        """Go on from a copied game, in this environment or another one of the same model.

        The step count comes along, but Gymnasium's `TimeLimit` around this environment counts its own steps
        since its last reset; the vector environment keeps its limit itself and goes by the game's.

        Raises: ValueError or TypeError if the state does not fit; the game is then unchanged.
        """
        self._open().load_state(0, state, self.np_random)

    def observations_dlpack(self) -> Any:
        """Return the frame (1, H, W, 3) uint8 in the GPU's memory, for `torch.from_dlpack` without a copy.

        The memory is the environment's own, the same at every call: the next step or reset overwrites it.
        Raises: RuntimeError on an engine that plays on a CPU.
        """
        return self._open().world.observations()

    def get_action_meanings(self) -> list[str]:
        """Return the actions' names, spelled as ALE does."""
        return [meaning(token) for token in self._open().tokens]

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return key combinations for `gymnasium.utils.play`."""
        return sdl_keycodes(self._action_set)

    def _open(self) -> Games:
        if self._games is None:
            raise gym.error.ClosedEnvironmentError("expected an open environment, got one after close()")
        return self._games


def check_render_mode(render_mode: str | None) -> None:
    """Raises: ValueError if the mode is not supported."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
