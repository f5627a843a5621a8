"""What do pointer memory and ballistic attention cost in an engine?

    OMP_NUM_THREADS=1 python -m benchmarks.modules
    OMP_NUM_THREADS=2 python -m benchmarks.modules --engine torch --steps 12

Regime: the packaged weights, their updates never moving the picture, with each module on or off; random sticky
play. Each round plays all variants in turn, a few steps each; time is counted per token, because variants differ
in the updates they draw. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.engine_step import actions
from gamegen_env.canvas import Canvas
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.engine import Engine, make_engine
from gamegen_env.image import load_image
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer

VARIANTS = {"plain": (False, False), "pointer": (True, False), "ballistics": (False, True), "both": (True, True)}
ROUNDS = 12


def build(name: str, model: str, slots: int, image: str, pointer: bool, ballistics: bool) -> Engine:
    checkpoint = load_checkpoint(model)
    switched = dataclasses.replace(checkpoint.config.transformer, pointer=pointer, ballistics=ballistics, anchor=False)
    repaints = dataclasses.replace(checkpoint.config.stream, max_motion=0)  # motions need the pointer
    config = dataclasses.replace(checkpoint.config, stream=repaints, transformer=switched)
    torch.manual_seed(0)
    transformer = Transformer(config)
    start_from(transformer, checkpoint.transformer, model)
    engine = make_engine(name, config, transformer.eval().requires_grad_(False), slots, temperature=0.5)
    canvas = Canvas(config, checkpoint.tokenizer, 1)
    canvas.reset(np.zeros(1, np.int64), load_image(image, 64)[None])
    for slot in range(slots):
        engine.reset(slot, canvas.codes[0], seed=slot)
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--image", default="explode")
    parser.add_argument("--engine", default="native", choices=("native", "torch"))
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100, help="steps per round (default: %(default)s)")
    args = parser.parse_args()
    engines = {name: build(args.engine, args.model, args.slots, args.image, *on) for name, on in VARIANTS.items()}
    played = actions((ROUNDS + 1) * args.steps, args.slots, 0)
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in tqdm(range(ROUNDS + 1), desc="rounds", unit="round"):  # the first warms up
        for name, engine in engines.items():
            began, tokens = time.perf_counter(), 0
            for keys in played[turn * args.steps : (turn + 1) * args.steps]:
                tokens += int(engine.step(range(args.slots), keys.tolist()).tokens.sum())
            rates[name].append(tokens / (time.perf_counter() - began))
    median = {name: float(np.median(of[1:])) for name, of in rates.items()}
    cost = {name: float(np.median(np.divide(rates["plain"][1:], of[1:]))) for name, of in rates.items()}
    print("| model | tokens/s | time per token |\n|---|---|---|")
    for name in VARIANTS:
        print(f"| {name} | {median[name]:.0f} | ×{cost[name]:.2f} |")
    threads = torch.get_num_threads()
    print(json.dumps({"slots": args.slots, "threads": threads, "tokens_per_s": median, "cost": cost}))


if __name__ == "__main__":
    main()
