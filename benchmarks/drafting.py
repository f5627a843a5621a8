"""What does guessing what comes next save, in passes and in time?

    OMP_NUM_THREADS=1 python -m benchmarks.drafting                          one game, the still-camera pictures
    OMP_NUM_THREADS=1 python -m benchmarks.drafting --slots 4

Regime: packaged weights, int8, random sticky keys, the temperature that ships. Two engines play the same games in
turns, one guesses and one does not; their games must be equal. Tokens per step are the passes of sequential decoding,
one per token. Fewer without guesses: END travels with the next action. Times are the process's own. "Again" is a second
game from the same picture, with other keys and noise: what was learned in the first is kept. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

import numpy as np

from benchmarks.engine_step import actions
from gamegen_env.canvas import Canvas
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.engine.base import StepBatch
from gamegen_env.engine.native import NativeEngine
from gamegen_env.image import load_image, packaged_images

STILL = ("maze", "explode", "chaser", "impact", "gold", "fruits", "bounce", "heist", "miner", "bigfish")
CHUNK = 25  # steps of a turn


class Player:
    """One engine: what its games cost."""

    def __init__(self, engine: NativeEngine, when: str) -> None:
        self.engine, self.slots = engine, range(engine.num_slots)
        engine.draft(when)
        self.seconds, self.tokens = 0.0, 0

    def begin(self, codes: np.ndarray, seed: int) -> None:
        for slot in self.slots:
            self.engine.reset(slot, codes, seed + slot)
        self.seconds, self.tokens, self.before = 0.0, 0, self.engine.counts()

    def play(self, keys: np.ndarray) -> list[StepBatch]:
        began = time.process_time()
        steps = [self.engine.step(self.slots, row) for row in keys.tolist()]
        self.seconds += time.process_time() - began
        self.tokens += sum(int(step.tokens.sum()) for step in steps)
        return steps

    def passes(self) -> int:
        return self.engine.counts().passes - self.before.passes


def equal(a: StepBatch, b: StepBatch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def measure(never: Player, auto: Player, codes: np.ndarray, steps: int, seed: int) -> dict[str, float]:
    """Play one game with and without guesses, in turns."""
    gc.collect()  # or the engines of the picture before are freed while somebody is timed
    for player in (never, auto):
        player.begin(codes, seed)
    played = actions(steps, len(never.slots), seed)
    for i in range(0, steps, CHUNK):
        order = (never, auto) if i // CHUNK % 2 else (auto, never)
        first, second = (player.play(played[i : i + CHUNK]) for player in order)
        if not all(map(equal, first, second)):
            raise AssertionError("guesses changed a game")
    game_steps = steps * len(never.slots)
    guessed = auto.engine.counts()
    return {
        "tokens": never.tokens / game_steps,
        "unguessed": never.passes() / game_steps,
        "passes": auto.passes() / game_steps,
        "guesses": (guessed.drafted - auto.before.drafted) / game_steps,
        "right": (guessed.right - auto.before.right) / game_steps,
        "fewer": never.tokens / auto.passes(),
        "time": auto.seconds / never.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--image", nargs="+", default=STILL)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=0.5)
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    coder = checkpoint.tokenizer
    report: dict[str, list[dict[str, float]]] = {}
    print("| picture | game | tokens/step | passes, END riding | with guesses | guesses | right | fewer | time |")
    print("|---" * 9 + "|")
    for name in args.image:
        canvas = Canvas(checkpoint.config, coder, 1)
        canvas.reset(np.zeros(1, np.int64), load_image(packaged_images()[name], checkpoint.config.frame_size)[None])
        never, auto = (
            Player(
                NativeEngine(checkpoint.config, checkpoint.transformer, args.slots, temperature=args.temperature,
                             patches=checkpoint.patches),
                when,
            )
            for when in ("never", "auto")
        )  # fmt: skip
        report[name] = []
        for game, seed in (("new", 2), ("again", 1002)):
            found = measure(never, auto, canvas.codes[0], args.steps, seed)
            report[name].append(found)
            print(
                f"| {name} | {game} | {found['tokens']:.2f} | {found['unguessed']:.2f} | {found['passes']:.2f} | "
                f"{found['guesses']:.2f} | {found['right']:.2f} | ×{found['fewer']:.2f} | ×{found['time']:.2f} |",
                flush=True,
            )
    for i, game in enumerate(("new", "again")):
        mean = {key: float(np.mean([found[i][key] for found in report.values()])) for key in ("fewer", "time")}
        riding = np.mean([found[i]["unguessed"] / found[i]["passes"] for found in report.values()])
        print(f"mean, {game}: ×{mean['fewer']:.2f} fewer, ×{riding:.2f} beside END riding; time ×{mean['time']:.2f}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
