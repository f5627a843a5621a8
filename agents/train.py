"""Train PPO in a generated game.

    python -m agents.train --image maze --steps 50000 --out runs/ppo-maze
    python -m agents.train --image maze --steps 512 --num-envs 2 --out /tmp/ppo      (a quick look)

Writes `progress.csv` (SB3's log), the agent after every `--save-every` steps, and at the
end an evaluation against random play. An existing folder is resumed: policy, optimiser and step
count go on, the games start anew, and the log continues in `progress-STEP.csv`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.vec_env import VecEnv

from agents.common import GAME_OPTIONS, add_game_options, load_agent, load_settings, make_games, save_agent
from agents.evaluate import report


class SaveEvery(BaseCallback):
    """Write the agent every `every` steps, between rollouts."""

    def __init__(self, folder: Path, every: int, settings: dict) -> None:
        super().__init__()
        self.folder, self.every, self.settings, self._next = folder, every, settings, every

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            save_agent(self.folder, self.model, self.settings)  # type: ignore[arg-type]
            self._next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        return True


def build(games: VecEnv, args: argparse.Namespace, seed: int) -> PPO:
    """Build PPO with the settings of SB3's Atari recipe, sized for few games at a time. It seeds the games, too."""
    return PPO(
        "CnnPolicy",
        games,
        n_steps=args.n_steps,
        batch_size=min(256, args.n_steps * args.num_envs),
        n_epochs=4,
        learning_rate=2.5e-4,
        clip_range=0.1,
        ent_coef=0.01,
        gamma=0.99,
        seed=seed,
        device="cpu",
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m agents.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_game_options(parser)
    parser.add_argument("--steps", type=int, default=50_000, help="game steps in all (default: %(default)s)")
    parser.add_argument("--n-steps", type=int, default=128, help="steps per game and update (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=5_000, help="steps (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=16, help="of the closing evaluation (default: %(default)s)")
    parser.add_argument("--out", required=True, help="folder of the agent and its log")
    args = parser.parse_args(argv)
    out = Path(args.out)
    settings = {name: getattr(args, name) for name in GAME_OPTIONS}

    done = 0
    if (out / "agent.safetensors").exists():
        saved = load_settings(out)
        done = saved.pop("num_timesteps")
        if saved != settings:
            raise ValueError(f"{out}: expected to resume with its own games, {saved}, got {settings}")
    # Other games than those before a resume: the same starts again would be played by heart.
    games = make_games(args, args.seed + done)
    agent = build(games, args, args.seed + done)
    if done:
        load_agent(out, agent)
        print(f"resumed at step {done}")
    # SB3 empties the log that it opens; the part before a resume is kept.
    suffix = f"-{done}" if done else ""
    agent.set_logger(Logger(str(out), [make_output_format(kind, str(out), suffix) for kind in ("stdout", "csv")]))
    remaining = args.steps - agent.num_timesteps
    if remaining > 0:
        agent.learn(
            remaining, callback=SaveEvery(out, args.save_every, settings), reset_num_timesteps=False, progress_bar=False
        )
    save_agent(out, agent, settings)
    games.close()
    with torch.inference_mode():
        report(args, agent, args.episodes, out / "evaluation.json")


if __name__ == "__main__":
    main()
