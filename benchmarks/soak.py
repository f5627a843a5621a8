"""Does a game go on for ever in flat memory and flat time?

    python -m benchmarks.soak --steps 100000 --num-envs 2

Regime: random sticky play in the vector environment with autoreset off the time limit, so that
streams run far beyond the window. Memory (resident set) and median step time are read in ten
equal parts; the last line is JSON. Fails if memory grows by more than 2 % after the first tenth,
if a frame has the wrong type, or if the cache holds a number that is not finite.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from tqdm import tqdm

import gamegen_env  # noqa: F401

PAGE_BYTES = 4096


def resident_mb() -> float:
    """Resident memory of this process in MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="vector steps (default: %(default)s)")
    parser.add_argument("--num-envs", type=int, default=2)
    parser.add_argument("--image", default="maze")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--engine", default="auto")
    args = parser.parse_args()
    envs = gym.make_vec(
        "ImageGame-v0",
        num_envs=args.num_envs,
        model=args.model,
        image=args.image,
        engine=args.engine,
        max_episode_steps=10**9,
    )
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.integers(18, size=args.num_envs)
    parts: list[dict[str, float]] = []
    tenth = max(1, args.steps // 10)
    seconds: list[float] = []
    tokens, endings = 0, 0
    for step in tqdm(range(args.steps), unit="step"):
        actions = np.where(rng.random(args.num_envs) < 0.85, actions, rng.integers(18, size=args.num_envs))
        began = time.perf_counter()
        frames, rewards, terminated, _, infos = envs.step(actions)
        seconds.append(time.perf_counter() - began)
        tokens += int(infos["tokens"].sum())
        endings += int(terminated.sum())
        if frames.dtype != np.uint8 or not np.isfinite(rewards).all():
            raise AssertionError(f"step {step}: a frame or reward is broken")
        if (step + 1) % tenth == 0:
            for slot in range(args.num_envs):
                for array in envs.unwrapped._games.world.engine.save(slot).values():  # type: ignore[attr-defined]
                    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                        raise AssertionError(f"step {step}: the cache of game {slot} holds NaN or infinity")
            parts.append(
                {
                    "steps": step + 1,
                    "resident_mb": resident_mb(),
                    "p50_ms": 1e3 * float(np.median(seconds)),
                    "ms_per_token": 1e3 * sum(seconds) / tokens,
                    "tokens_per_step": tokens / tenth / args.num_envs,
                    "endings": endings,
                }
            )
            seconds, tokens = [], 0
    print("| steps | resident MiB | p50 ms | ms/token | tokens/step | game overs |\n|---|---|---|---|---|---|")
    for p in parts:
        print(
            f"| {p['steps']} | {p['resident_mb']:.0f} | {p['p50_ms']:.1f} | {p['ms_per_token']:.2f} | "
            f"{p['tokens_per_step']:.1f} | {p['endings']} |"
        )
    growth = parts[-1]["resident_mb"] / parts[0]["resident_mb"] - 1
    print(json.dumps({"growth": growth, "parts": parts}))
    if growth > 0.02:
        raise SystemExit(f"memory grew by {growth:.1%} after the first tenth")


if __name__ == "__main__":
    main()
