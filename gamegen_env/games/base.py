"""What a real game looks like to the recorder: a batch of plays under one action vocabulary.

It is not a Gymnasium environment and never trains anything: it only yields frames,
rewards and episode ends, with the actions of `gamegen_env.actions`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from gamegen_env.actions import N_ACTIONS, N_DIRECTIONS

FRAME_SIZE = 64  # pixels, both ways
SPLITS = ("train", "heldout", "reserved")

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class GameSource(ABC):
    """`num_envs` plays of one game, stepped together.

    Episode ends follow one rule, whatever the package underneath does: the frame that
    arrives with `terminated` or `truncated` is the last one of its episode, and the next
    `step` of that play ignores its action and returns the first frame of a new episode,
    with reward 0 and both flags False.

    Attributes:
        game: game id, "source:name".
        num_envs: plays in the batch.
        action_tokens: the tokens that mean something in this game.
        licence: licence of the code and of the pictures.
        ships: whether weights trained on these frames may be published.
        env_kwargs: what the package was asked for, JSON-able.
        packages: name -> version of the packages the frames depend on.
    """

    licence: str
    ships: bool = True

    def __init__(
        self,
        game: str,
        num_envs: int,
        action_tokens: tuple[int, ...],
        env_kwargs: Mapping[str, Any],
        packages: tuple[str, ...],
    ) -> None:
        self.game = game
        self.num_envs = num_envs
        self.action_tokens = action_tokens
        self.env_kwargs = dict(env_kwargs)
        self.packages = {name: importlib.metadata.version(name) for name in packages}

    @abstractmethod
    def reset(self) -> np.ndarray:
        """Start every play anew and return its first frame, (n, 64, 64, 3) uint8."""

    @abstractmethod
    def step(self, action_tokens: np.ndarray) -> Step:
        """Advance every play by one action.

        Args:
            action_tokens: (n,) integers in [0, N_ACTIONS).

        Returns:
            frames (n, 64, 64, 3) uint8, rewards (n,) float32, terminated (n,) bool,
            truncated (n,) bool.
        """

    def hint(self) -> np.ndarray | None:
        """Return the tokens a simple scripted player would press, (n,), or None if there is none."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Release the games."""


def require(package: str) -> ModuleType:
    """Import an optional game package.

    Raises: ImportError that says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        # gameworld pins an old Gymnasium that it does not need: it cannot be part of the extra.
        how = "--no-deps gameworld==0.1.0" if package == "gameworld" else "'gamegen-env[games]'"
        raise ImportError(f"{package} is needed to play this game ({error}): pip install {how}") from error


def action_table(table: Mapping[int, Any], default: Any) -> list[Any]:
    """Spread a game's few actions over the whole vocabulary.

    Args:
        table: token -> the game's own action.
        default: the game's action for a token whose direction it does not have either.

    Returns: for each token, the game's action; a token that is missing from `table` acts
        as its direction alone.
    """
    return [table.get(t, table.get(t % N_DIRECTIONS, default)) for t in range(N_ACTIONS)]


def check_tokens(action_tokens: np.ndarray, num_envs: int) -> np.ndarray:
    """Return the tokens as int64.

    Raises: ValueError if they are not `num_envs` integers in [0, N_ACTIONS).
    """
    tokens = np.asarray(action_tokens)
    if tokens.shape != (num_envs,) or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"action_tokens: expected {num_envs} integers, got shape {tokens.shape}, dtype {tokens.dtype}")
    if not ((tokens >= 0) & (tokens < N_ACTIONS)).all():
        raise ValueError(f"action_tokens: expected 0..{N_ACTIONS - 1}, got {tokens.tolist()}")
    return tokens.astype(np.int64)


def resize(frame: np.ndarray) -> np.ndarray:
    """Shrink an RGB frame (h, w, 3) uint8 to 64x64 by averaging areas, without cropping."""
    if frame.shape == (FRAME_SIZE, FRAME_SIZE, 3):
        return frame
    return np.asarray(Image.fromarray(frame).resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BOX))
