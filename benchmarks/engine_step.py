"""How fast does the `torch` engine play, and what does coding only changes buy?

    python -m benchmarks.engine_step                         one game and 32 games, on a still-camera game
    python -m benchmarks.engine_step --image coinrun         a moving camera

Regime: the packaged model, random sticky play from one packaged picture, this machine's cores.
Paired in one run: steps as the engine decodes them, and the same model made to re-emit every
visible cell in every step, as IRIS-like models do (257 or more passes; what it draws is
meaningless, its work is not).
Correct before timed: one game alone and the same game among others must show equal frames.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time

import numpy as np
import torch

from gamegen_env.actions import ALE
from gamegen_env.image import load_image
from gamegen_env.stream import Grammar
from gamegen_env.world import World


def actions(count: int, slots: int, seed: int) -> np.ndarray:
    """Sticky random action tokens (count, slots)."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(ALE, (count, slots))
    for t in range(1, count):
        chosen[t] = np.where(rng.random(slots) < 0.85, chosen[t - 1], chosen[t])
    return chosen


def start(model: str, slots: int, image: str) -> World:
    world = World(model, slots)
    picture = load_image(image, world.frame_shape[0])
    world.reset(range(slots), [picture] * slots, list(range(slots)))
    return world


def verify(model: str, image: str, slots: int) -> str:
    """Check that game 0 is the same alone and among others; return a hash of its frames."""
    played = actions(12, slots, seed=1)
    alone, many = start(model, 1, image), start(model, slots, image)
    digest = hashlib.sha256()
    for row in played:
        a = alone.step([0], row[:1].tolist()).frames[0]
        b = many.step(range(slots), row.tolist()).frames[0]
        if not np.array_equal(a, b):
            raise AssertionError("a game alone and the same game in a batch differ")
        digest.update(a.tobytes())
    return digest.hexdigest()[:12]


class FullFrame(Grammar):
    """A grammar in which every visible cell must be updated, one after the other."""

    def event_mask(self, origins: np.ndarray, last_cell: np.ndarray, after_action: np.ndarray) -> np.ndarray:
        mask = super().event_mask(origins, last_cell, np.zeros_like(after_action))
        only = np.zeros_like(mask)
        np.put_along_axis(only, mask.argmax(-1)[..., None], True, -1)
        return only


def measure(model: str, image: str, slots: int, steps: int, full_frame: bool = False) -> dict[str, float]:
    """Time `steps` vector steps after half as many to warm up."""
    world = start(model, slots, image)
    if full_frame:
        world.engine.grammar = FullFrame(world.config)
    for row in actions(steps // 2, slots, seed=2):
        world.step(range(slots), row.tolist())
    seconds, tokens = [], 0
    for row in actions(steps, slots, seed=3):
        began = time.perf_counter()
        result = world.step(range(slots), row.tolist())
        seconds.append(time.perf_counter() - began)
        tokens += int(result.tokens.sum())
    total = sum(seconds)
    return {
        "steps_per_s": steps * slots / total,
        "p50_ms": 1e3 * float(np.median(seconds)),
        "p99_ms": 1e3 * float(np.quantile(seconds, 0.99)),
        "tokens_per_step": tokens / steps / slots,
        "tokens_per_s": tokens / total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--image", default="maze")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--steps", type=int, default=60, help="timed vector steps (default: %(default)s)")
    args = parser.parse_args()
    report: dict[str, object] = {
        "frames": verify(args.model, args.image, 5),
        "image": args.image,
        "threads": torch.get_num_threads(),
        "cpu": platform.machine(),
        "torch": torch.__version__,
    }
    print("| games | steps/s | p50 ms | p99 ms | tokens/step | full-frame steps/s | ratio |\n" + "|---" * 7 + "|")
    for slots in args.slots:
        figures = measure(args.model, args.image, slots, args.steps)
        full = measure(args.model, args.image, slots, max(2, 8 // slots), full_frame=True)["steps_per_s"]
        ratio = figures["steps_per_s"] / full
        print(
            f"| {slots} | {figures['steps_per_s']:.1f} | {figures['p50_ms']:.1f} | {figures['p99_ms']:.1f} | "
            f"{figures['tokens_per_step']:.1f} | {full:.2f} | {ratio:.1f} |"
        )
        report[f"slots_{slots}"] = {**figures, "full_frame_steps_per_s": full, "ratio": ratio}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
