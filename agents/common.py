"""What training and evaluation share: the games, and agents on disk.

An agent is a folder with `agent.safetensors` (policy and optimiser, and in its header the games
it was trained in) and `agent.json` (the same settings for people).
SB3's own zip files hold pickles, so they are neither written nor read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from gamegen_env.agent import read_agent
from gamegen_env.files import write_atomic
from gamegen_env.sb3 import ImageGameVecEnv

GAME_OPTIONS = ("model", "image", "reward", "temperature", "max_episode_steps")


def add_game_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="pocket", help="packaged name or checkpoint folder (default: %(default)s)")
    parser.add_argument("--image", default=None, help="picture that every game starts from (default: packaged ones)")
    parser.add_argument("--reward", default="model", choices=("model", "survival"))
    parser.add_argument("--temperature", type=float, default=0.5, help="of the generated game (default: %(default)s)")
    parser.add_argument("--max-episode-steps", type=int, default=200, help="game steps (default: %(default)s)")
    parser.add_argument("--num-envs", type=int, default=8, help="games side by side (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def make_games(args: argparse.Namespace, seed: int) -> VecEnv:
    """Build the games that the options describe, with episode statistics. Args: seed: of row 0; row i has seed + i."""
    options = {name: getattr(args, name) for name in GAME_OPTIONS}
    games = VecMonitor(ImageGameVecEnv(args.num_envs, **options))
    games.seed(seed)
    return games


def save_agent(folder: Path, agent: PPO, settings: dict[str, Any]) -> None:
    """Write the agent, all of it or nothing."""
    tensors = {f"policy.{k}": v.contiguous() for k, v in agent.policy.state_dict().items() if "optimizer" not in k}
    for index, state in agent.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    meta = {**settings, "num_timesteps": agent.num_timesteps}
    # One file decides: the settings travel in its header, agent.json is for people.
    write_atomic(folder / "agent.safetensors", save(_alone(tensors), {"agent": json.dumps(meta)}))
    write_atomic(folder / "agent.json", (json.dumps(meta, indent=2) + "\n").encode())


def load_settings(folder: Path) -> dict[str, Any]:
    """Return a saved agent's settings: its games' options and "num_timesteps".

    Raises: FileNotFoundError, or ValueError if the file is broken.
    """
    return read_agent(folder)[1]


def load_agent(folder: Path, agent: PPO) -> PPO:
    """Give a freshly built agent the saved policy, optimiser and step count.

    Raises: FileNotFoundError, or ValueError if the file is broken or of another network.
    """
    tensors, settings = read_agent(folder)
    try:
        agent.policy.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("policy.")})
    except RuntimeError as error:
        raise ValueError(f"{folder}: expected an agent of this network, got {error}") from None
    state = agent.policy.optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state["state"].setdefault(int(index), {})[name] = value
    agent.policy.optimizer.load_state_dict(state)
    agent.num_timesteps = settings["num_timesteps"]
    return agent


def _alone(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share memory (SB3's features extractor has three names): safetensors keeps each."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
