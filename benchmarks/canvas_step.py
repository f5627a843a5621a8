"""What does the canvas cost per game step beside the engine, and what does the tokenizer's memory save?

    OMP_NUM_THREADS=1 python -m benchmarks.canvas_step

Regime: games from packaged pictures played by the native engine under random actions; every step is drawn by four
canvases in turns: the tokenizer decodes, or the decoder of one order (`CellDecoder`); each is asked every time, or
remembered (`CellCache`). Process time in microseconds per game step, one thread. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gamegen_env.canvas import Canvas
from gamegen_env.cell_cache import CellCache
from gamegen_env.cell_decoder import CellDecoder
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.image import load_image, packaged_images
from gamegen_env.world import CACHE_BITS, World


def timed(spent: dict[str, float], name: str, run: Callable[..., Any], *args: Any) -> Any:
    began = time.process_time()
    result = run(*args)
    spent[name] = spent.get(name, 0.0) + time.process_time() - began
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--images", default="explode,maze")
    parser.add_argument("--slots", default="1,64")
    parser.add_argument("--steps", type=int, default=3000, help="game steps in all (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(args.model)
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    report = []
    print(
        "| picture | games | engine, µs/step | tokenizer | remembered | one order | remembered |\n" + "|---" * 7 + "|"
    )
    for image in args.images.split(","):
        for slots in map(int, args.slots.split(",")):
            world = World(args.model, slots, engine="native", threads=1)
            picture, at = load_image(packaged_images()[image], config.frame_size), np.arange(slots)
            decoder, cell = CellDecoder(tokenizer), config.tokenizer.cell_size
            canvases = {
                "tokenizer": Canvas(config, tokenizer, slots),
                "tokenizer remembered": Canvas(config, CellCache(tokenizer, cell, CACHE_BITS), slots),
                "one order": Canvas(config, decoder, slots),
                "one order remembered": Canvas(config, CellCache(decoder, cell, CACHE_BITS), slots),
            }
            world.reset(at.tolist(), [picture] * slots, at.tolist())
            for canvas in canvases.values():
                canvas.reset(at, np.stack([picture] * slots))
            rng, spent, steps = np.random.default_rng(0), dict[str, float](), max(1, args.steps // slots)
            for _ in range(steps):
                actions = rng.integers(0, 18, slots).tolist()
                step = timed(spent, "engine", world.engine.step, at.tolist(), actions)
                for name, canvas in canvases.items():
                    timed(spent, name, canvas.apply, at, step.scroll, step.ptr, step.cells, step.codes)
            row = {name: 1e6 * seconds / (steps * slots) for name, seconds in spent.items()}
            report.append({"image": image, "slots": slots, **row})
            print(f"| {image} | {slots} | " + " | ".join(f"{time:.0f}" for time in row.values()) + " |", flush=True)
            world.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
