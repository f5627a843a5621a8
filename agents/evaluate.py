"""Roll out a trained agent and a random one, side by side, many games at once.

    python -m agents.evaluate runs/ppo-maze --episodes 64

Plays the games that the agent was trained in, unless options name others. Prints mean return and
length with 95 % bootstrap intervals. Reward and game over are the generated game's own; what the
agent would score in the real game is another question.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from agents.common import GAME_OPTIONS, add_game_options, load_agent, load_settings, make_games
from gamegen_env.files import write_atomic

Policy = Callable[[np.ndarray], np.ndarray]


def roll_out(games: VecEnv, policy: Policy, episodes: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Play until every game has given its share of episodes: returns and lengths, (episodes,) each.

    Each game counts the same number of episodes: first come, first served would favour short ones.
    """
    share = -(-episodes // games.num_envs)
    counted = np.zeros(games.num_envs, int)
    returns: list[float] = []
    lengths: list[int] = []
    observations = games.reset()
    with tqdm(total=share * games.num_envs, desc=name, unit="episode") as progress:
        while (counted < share).any():
            observations, _, _, infos = games.step(policy(observations))  # type: ignore[assignment]
            for row, info in enumerate(infos):
                if "episode" in info and counted[row] < share:
                    returns.append(float(info["episode"]["r"]))
                    lengths.append(int(info["episode"]["l"]))
                    counted[row] += 1
                    progress.update()
    return np.array(returns), np.array(lengths)


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (draws, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def report(args: argparse.Namespace, agent: PPO, episodes: int, path: Path) -> dict:
    """Evaluate `agent` and a random one on the same seeds, print the table, write the JSON."""
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")
    set_random_seed(args.seed)  # of the trained agent's own dice
    rng = np.random.default_rng(args.seed)
    policies: dict[str, Policy] = {
        "trained": lambda observations: agent.predict(observations, deterministic=False)[0],
        "random": lambda observations: rng.integers(agent.action_space.n, size=len(observations)),  # type: ignore[attr-defined]
    }
    results = {}
    for name, policy in policies.items():
        games = make_games(args, args.seed)
        returns, lengths = roll_out(games, policy, episodes, name)
        games.close()
        results[name] = {
            "episodes": len(returns),
            "return": float(returns.mean()),
            "return_interval": interval(returns),
            "length": float(lengths.mean()),
            "length_interval": interval(lengths),
        }
    print("\n| agent | episodes | return (95 %) | length (95 %) |\n|---|---|---|---|")
    for name, r in results.items():
        print(
            "| {} | {} | {:.2f} [{:.2f}, {:.2f}] | {:.1f} [{:.1f}, {:.1f}] |".format(
                name, r["episodes"], r["return"], *r["return_interval"], r["length"], *r["length_interval"]
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(results, indent=2) + "\n").encode())
    return results


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m agents.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("agent", help="folder written by `python -m agents.train`")
    add_game_options(parser)
    parser.add_argument("--episodes", type=int, default=64, help="per agent (default: %(default)s)")
    parser.add_argument("--out", default=None, help="JSON to write (default: evaluation.json in the agent's folder)")
    saved = load_settings(Path(parser.parse_args(argv).agent))
    parser.set_defaults(**{name: saved[name] for name in GAME_OPTIONS})
    args = parser.parse_args(argv)
    games = make_games(args, args.seed)
    agent = load_agent(Path(args.agent), PPO("CnnPolicy", games, device="cpu"))
    games.close()
    report(args, agent, args.episodes, Path(args.out) if args.out else Path(args.agent) / "evaluation.json")


if __name__ == "__main__":
    main()
