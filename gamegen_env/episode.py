"""The rules of an episode, once, for the single and the vector environment.

`Games` is a batch of games in one `World`: which picture starts a game, what its sampler's
seed is, sticky actions, which reward pays, and what a snapshot holds. Time limits and
autoreset are not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from gamegen_env.image import FITS, Source, load_image, packaged_images
from gamegen_env.keyboard import action_ids
from gamegen_env.world import StepResult, World

REWARDS = ("model", "survival")
# What a saved game is made of, beside "rng" (None or a generator's state).
STATE = {"world": dict, "step": int, "ended": bool, "action": int}


@dataclass(frozen=True)
class Outcome:
    """One step of n games, in the order asked for. Arrays are the caller's own."""

    frames: np.ndarray  # (n, H, W, 3) uint8
    rewards: np.ndarray  # (n,) float64
    terminated: np.ndarray  # (n,) bool
    infos: list[dict[str, Any]]


class Games:
    """`num_games` games with one generator each."""

    def __init__(
        self,
        num_games: int,
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
        """Check everything, then load the model. Arguments as in `env.ImageGameEnv`."""
        if reward not in REWARDS:
            raise ValueError(f"reward: expected one of {REWARDS}, got {reward!r}")
        if fit not in FITS:
            raise ValueError(f"fit: expected one of {FITS}, got {fit!r}")
        if not isinstance(repeat_action_probability, int | float) or not 0 <= repeat_action_probability <= 1:
            raise ValueError(f"repeat_action_probability: expected 0..1, got {repeat_action_probability!r}")
        self.tokens = action_ids(action_set)
        self.world = World(
            model,
            num_games,
            engine=engine,
            device=device,
            temperature=temperature,
            kv_bits=kv_bits,
            precision=precision,
            threads=threads,
        )
        self.reward, self.fit, self._sticky = reward, fit, repeat_action_probability
        self._image = None if image is None else self.load(image)
        self.started = np.zeros(num_games, bool)
        self.ended = np.zeros(num_games, bool)  # by the model; a time limit may add its own
        self.steps = np.zeros(num_games, np.int64)
        self._action = np.zeros(num_games, np.int64)  # last action token played

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.world.frame_shape

    def load(self, image: Source) -> np.ndarray:
        """Fit a picture to the frame. Raises as `image.load_image`."""
        return load_image(image, self.frame_shape[0], self.fit)

    def pictures(self, options: Mapping[str, Any] | None, count: int) -> list[np.ndarray | None]:
        """Read reset options for `count` games: {"image": one picture, or a list with one per game}.

        Returns: per game the fitted picture, or None where the options name none.
        Raises:  TypeError or ValueError naming the option, what was expected and what came.
        """
        options = option_dict(options)
        unknown = sorted(str(key) for key in set(options) - {"image"})
        if unknown:
            raise ValueError(f"options: expected only 'image', got {unknown}")
        image = options.get("image")
        if isinstance(image, list | tuple):
            if len(image) != count:
                raise ValueError(f"options['image']: expected {count} pictures, got {len(image)}")
            return [None if one is None else self.load(one) for one in image]
        return [None if image is None else self.load(image)] * count

    def reset(
        self, games: Sequence[int], generators: Sequence[np.random.Generator], pictures: Sequence[np.ndarray | None]
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Start games; a game without a picture gets the configured one, else a packaged one by its generator."""
        images, seeds = [], []
        for generator, picture in zip(generators, pictures, strict=True):
            # Both numbers are always drawn, so that a game's seed does not hang on where its picture came from.
            choice, seed = generator.integers(2**31), int(generator.integers(2**63 - 1))
            images.append(picture if picture is not None else self._default(int(choice)))
            seeds.append(seed)
        frames = self.world.reset(games, images, seeds)
        at = list(games)
        self.started[at], self.ended[at], self.steps[at], self._action[at] = True, False, 0, 0
        return frames, [self._info(game, 1 + self.world.config.stream.n_cells) for game in games]

    def _default(self, choice: int) -> np.ndarray:
        if self._image is not None:
            return self._image
        paths = list(packaged_images().values())
        return self.load(paths[choice % len(paths)])

    def step(self, games: Sequence[int], actions: Sequence[int], generators: Sequence[np.random.Generator]) -> Outcome:
        """Play one step of started games. Args: actions: ids of the action set."""
        played = self._played(games, actions, generators)
        result = self.world.step(games, played)
        self._action[list(games)] = played
        return self._outcome(games, result)

    def send(self, games: Sequence[int], actions: Sequence[int], generators: Sequence[np.random.Generator]) -> None:
        """Let started games begin a step, which `recv` ends; those whose step is under way are refused."""
        played = self._played(games, actions, generators)
        self.world.send(games, played)
        self._action[list(games)] = played

    def recv(self, min_count: int) -> tuple[list[int], Outcome]:
        """Return at least `min_count` of the games whose step is under way, and what happened in them."""
        at, result = self.world.recv(min_count)
        games = [int(game) for game in at]
        return games, self._outcome(games, result)

    def _played(
        self, games: Sequence[int], actions: Sequence[int], generators: Sequence[np.random.Generator]
    ) -> list[int]:
        """Return the games' action tokens, sticky or not."""
        played = []
        for game, action, generator in zip(games, actions, generators, strict=True):
            sticks = self._sticky > 0 and generator.random() < self._sticky
            played.append(int(self._action[game]) if sticks else self.tokens[action])
        return played

    def _outcome(self, games: Sequence[int], result: StepResult) -> Outcome:
        at = list(games)
        self.steps[at] += 1
        self.ended[at] = result.terminated
        rewards = result.rewards.astype(np.float64) if self.reward == "model" else np.ones(len(at))
        infos = [self._info(game, int(tokens)) for game, tokens in zip(games, result.tokens, strict=True)]
        return Outcome(result.frames, rewards, result.terminated, infos)

    def _info(self, game: int, tokens: int) -> dict[str, Any]:
        return {"reward_source": self.reward, "step": int(self.steps[game]), "tokens": tokens}

    def check_actions(self, actions: Any, count: int) -> list[int]:
        """Return `count` action ids as ints. Raises: gymnasium.error.InvalidAction with expected and got."""
        try:
            array = np.asarray(actions)
        except ValueError:  # rows of different lengths
            raise gym.error.InvalidAction(f"actions: expected {count} integers, got {actions!r}") from None
        if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
            raise gym.error.InvalidAction(f"actions: expected {count} integers, got {array.dtype} {array.shape}")
        if array.size and (array.min() < 0 or array.max() >= len(self.tokens)):
            raise gym.error.InvalidAction(f"action: expected 0..{len(self.tokens) - 1}, got {actions}")
        return [int(action) for action in array]

    def frame(self, game: int) -> np.ndarray:
        """Return what a started game shows: (H, W, 3) uint8, the caller's own."""
        return self.world.canvas.view(np.array([game]))[0]

    def save(self, game: int, generator: np.random.Generator | None) -> dict[str, Any]:
        """Copy a game's whole state: plain data, fit for pickle. Without a generator its state is left out."""
        return {
            "world": self.world.save(game),
            "step": int(self.steps[game]),
            "ended": bool(self.ended[game]),
            "action": int(self._action[game]),
            "rng": None if generator is None else generator.bit_generator.state,
        }

    def load_state(self, game: int, state: Mapping[str, Any], generator: np.random.Generator) -> None:
        """Put a saved game into place `game`, and into its generator if the state has one.

        Raises: ValueError or TypeError if the state is none, or of another model; nothing has changed then.
        """
        self.check_state(state)
        self.world.load(game, state["world"])
        self.started[game], self.ended[game] = True, state["ended"]
        self.steps[game], self._action[game] = state["step"], state["action"]
        if state["rng"] is not None:
            generator.bit_generator.state = state["rng"]

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check all of a saved game but its arrays, which the world checks. Raises: ValueError or TypeError."""
        if not isinstance(state, Mapping) or set(state) != {*STATE, "rng"}:
            raise TypeError("state: expected what clone_state returned")
        if any(type(state[name]) is not kind for name, kind in STATE.items()):
            raise TypeError("state: expected what clone_state returned")
        if state["world"].get("fingerprint") != self.world.fingerprint:
            got = state["world"].get("fingerprint")
            raise ValueError(f"state: expected fingerprint {self.world.fingerprint!r}, got {got!r}")
        if state["step"] < 0 or state["action"] < 0:
            raise ValueError(f"state: expected step and action >= 0, got {state['step']} and {state['action']}")
        if state["rng"] is not None:
            np.random.PCG64().state = state["rng"]  # raises here, not halfway through a restore


def option_dict(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Copy reset options, so that the caller's stay whole. Raises: TypeError if they are no mapping."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options: expected a dict, got {type(options).__name__}")
    return dict(options)
