"""Turn an image into a game, let a player play it, and write what was seen.

    gamegen generate --out out/game.gif
    gamegen generate picture.png --player right --steps 200 --out out/mine.gif

Uses the environment as anybody would: `gym.make` and `step`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image
from tqdm import tqdm

import gamegen_env  # noqa: F401  (registers the environment)
from gamegen_env.actions import ALE, DIRECTIONS, token

KEEP = 0.85  # chance that the random player holds its keys for another step


def scripted(player: str) -> list[int]:
    """Return the action ids that a named player cycles through: one direction, or "tour"."""
    names = DIRECTIONS[1:5] if player == "tour" else (player.upper(),)
    hold = 12 if player == "tour" else 1
    return [ALE.index(token(name)) for name in names for _ in range(hold)]


def main(argv: list[str] | None = None) -> None:
    players = ["random", "tour", *(d.lower() for d in DIRECTIONS)]
    parser = argparse.ArgumentParser(
        prog="gamegen generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "image", nargs="?", default="gold", help="any picture, or a packaged one (default: %(default)s)"
    )
    parser.add_argument("--out", default="out/game.gif", help="animation to write: .gif, .webp or .png")
    parser.add_argument("--steps", type=int, default=150, help="game steps (default: %(default)s)")
    parser.add_argument("--player", default="random", choices=players, help="(default: %(default)s)")
    parser.add_argument("--model", default="pocket", help="packaged name or checkpoint folder")
    parser.add_argument("--temperature", type=float, default=0.5, help="0 = most likely token (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="enlargement of the pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    out = Path(args.out)
    if out.suffix not in (".gif", ".webp", ".png"):
        raise ValueError(f"--out: expected a name ending in .gif, .webp or .png, got {args.out!r}")
    if args.steps < 1 or args.scale < 1:
        raise ValueError(f"--steps and --scale: expected at least 1, got {args.steps} and {args.scale}")
    out.parent.mkdir(parents=True, exist_ok=True)

    env = gym.make(
        "ImageGame-v0",
        model=args.model,
        image=args.image,
        temperature=args.temperature,
        max_episode_steps=args.steps + 1,
    )
    frame, _ = env.reset(seed=args.seed)
    rng = np.random.default_rng(args.seed)
    script = None if args.player == "random" else scripted(args.player)
    frames, action, total, endings, seconds = [frame], 0, 0.0, 0, 0.0
    for step in tqdm(range(args.steps), desc="playing", unit="step"):
        if script is not None:
            action = script[step % len(script)]
        elif rng.random() > KEEP or step == 0:
            action = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
        began = time.perf_counter()
        frame, reward, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - began
        total += float(reward)
        frames.append(frame)
        if terminated or truncated:
            endings += 1
            frame, _ = env.reset()
            frames.append(frame)
    fps = int(env.metadata["render_fps"])
    env.close()

    pictures = [
        Image.fromarray(f).resize((f.shape[1] * args.scale, f.shape[0] * args.scale), Image.Resampling.NEAREST)
        for f in frames
    ]
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=1000 // fps, loop=0)
    print(
        f"{out}: {args.steps} steps at {args.steps / seconds:.1f} frames/s, reward {total:+.0f}, {endings} game overs"
    )


if __name__ == "__main__":
    main()
