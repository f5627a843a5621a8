"""Does `native` decide what `torch` decides, on the packaged weights?

    OMP_NUM_THREADS=1 python -m benchmarks.engine_parity                 float32, 500 steps of 8 games
    OMP_NUM_THREADS=1 python -m benchmarks.engine_parity --precision int4 --steps 50

Every step is decided by both from one history, that of `torch`: where they differ, `native` goes back and observes
the true step. So one difference stays one. Same seeds and noise; keyframes fall where they fall. Counts steps, and
tokens in front of the first difference of a step. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.engine_step import actions
from gamegen_env.canvas import Canvas
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.engine.base import StepBatch
from gamegen_env.engine.cached import CachedEngine
from gamegen_env.engine.native import PRECISIONS, NativeEngine
from gamegen_env.image import load_image, packaged_images
from gamegen_env.stream import Step


def spell(batch: StepBatch, action: int) -> list[tuple[int, ...]]:
    """The step as a list of what was decided, token by token."""
    scroll = tuple(int(x) for x in batch.scroll[0])
    said = [scroll] if any(scroll) else []
    said += [(int(cell), int(code)) for cell, code in zip(batch.cells, batch.codes, strict=True)]
    return [(action,), *said, (int(batch.reward_class[0]), int(batch.done[0]), -1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--games", type=int, default=8)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=0.5)
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    built = checkpoint.config, checkpoint.transformer, 1
    cached = CachedEngine(*built, temperature=args.temperature)
    natives = {p: NativeEngine(*built, temperature=args.temperature, precision=p) for p in args.precision}
    counts = {p: {"steps": 0, "equal_steps": 0, "tokens": 0, "equal_tokens": 0} for p in args.precision}
    for seed, name in enumerate(tqdm(sorted(packaged_images())[: args.games], unit="game")):
        canvas = Canvas(checkpoint.config, checkpoint.tokenizer, 1)
        canvas.reset(np.zeros(1, np.int64), load_image(packaged_images()[name], checkpoint.config.frame_size)[None])
        for engine in (cached, *natives.values()):
            engine.reset(0, canvas.codes[0], seed)
        for action in actions(args.steps, 1, seed)[:, 0].tolist():
            batch = cached.step([0], [action])
            truth = spell(batch, action)
            known = Step(
                action, tuple(batch.scroll[0].tolist()), batch.cells, batch.codes,
                int(batch.reward_class[0]), bool(batch.done[0]), batch.motions,
            )  # fmt: skip
            for precision, native in natives.items():
                state, count = native.save(0), counts[precision]
                got = spell(native.step([0], [action]), action)
                same = next((i for i, (a, b) in enumerate(zip(got, truth, strict=False)) if a != b), len(truth))
                count["steps"] += 1
                count["equal_steps"] += got == truth
                count["tokens"] += len(truth) - 1
                count["equal_tokens"] += max(same - 1, 0)
                if got != truth:
                    native.load(0, state)
                    native.observe(0, known)
    print("| precision | steps | the same | tokens before a step's first difference |\n|---|---|---|---|")
    for precision, n in counts.items():
        share = n["equal_steps"] / n["steps"], n["equal_tokens"] / n["tokens"]
        print(f"| {precision} | {n['steps']} | {100 * share[0]:.1f} % | {100 * share[1]:.1f} % |")
    print(json.dumps({"threads": torch.get_num_threads(), **counts}))


if __name__ == "__main__":
    main()
