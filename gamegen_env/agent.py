"""A trained agent, from the folder that `python -m agents.train` writes: frames in, action probabilities out.

The folder holds `agent.safetensors` (policy and optimiser; in its header the games it was trained in). SB3's own
zip files hold pickles and are never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from gamegen_env.actions import ALE, N_ACTIONS

try:
    from stable_baselines3.common.policies import ActorCriticCnnPolicy
except ImportError as error:
    raise ImportError("gamegen_env.agent needs stable-baselines3: pip install 'gamegen-env[agents]'") from error


def read_agent(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return a saved agent's tensors, `policy.*` and `optimizer.*`, and its settings.

    Raises: FileNotFoundError, or ValueError if the file is broken.
    """
    path = folder / "agent.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an agent written by `python -m agents.train`, found none")
    data = path.read_bytes()
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        settings = json.loads(header["__metadata__"]["agent"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: expected an agent written by `python -m agents.train`, got {error!r}") from None
    return tensors, settings


def load_policy(folder: Path, side: int = 64) -> Callable[[np.ndarray], np.ndarray]:
    """Load an agent to play with.

    Args:    side: of the frames that it saw, in pixels.
    Returns: frames (n, side, side, 3) uint8 -> probabilities by action token (n, N_ACTIONS) float64.
    Raises:  FileNotFoundError, or ValueError if the file is broken or of another network.
    """
    tensors, _ = read_agent(folder)
    seen = gym.spaces.Box(0, 255, (3, side, side), np.uint8)
    network = ActorCriticCnnPolicy(seen, gym.spaces.Discrete(len(ALE)), lambda _: 0.0)
    try:
        network.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("policy.")})
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: expected an agent of PPO's CnnPolicy on {side}x{side} frames, got {error}"
        ) from None
    network.set_training_mode(False)

    def policy(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            seen = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
            odds = network.get_distribution(seen).distribution.probs.double().numpy()  # type: ignore[union-attr]
        by_token = np.zeros((len(frames), N_ACTIONS))
        by_token[:, list(ALE)] = odds / odds.sum(1, keepdims=True)
        return by_token

    return policy
