"""What does it cost to find what hangs together with a thing (`things.py`)?

    OMP_NUM_THREADS=1 python -m benchmarks.things

Regime: one thing on a torus of 68×68 pixels, a square of so many pixels, named by one cell; and a picture half full of
noise, in which nearly all hangs together. The canvas's way, on long integers, and the plain one, on shifted arrays, in
turns: the same pixels, process time in microseconds, one thread. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from gamegen_env.things import fill

SIZE, CELL = 68, 4  # pixels


def plain_fill(thing: np.ndarray, out: np.ndarray) -> None:
    """Do what `things.fill` does, ring by ring, as one would write it down."""
    while True:
        shifted = [np.roll(thing, (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        wider = thing | np.logical_or.reduce(shifted) & out
        if np.array_equal(wider, thing):
            return
        thing[:] = wider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300, help="turns of each (default: %(default)s)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    pictures = {"noise": rng.random((1, SIZE, SIZE)) < 0.5}
    for side in (4, 10, 30):
        pictures[f"square of {side}"] = np.zeros((1, SIZE, SIZE), bool)
        pictures[f"square of {side}"][0, 20 : 20 + side, 20 : 20 + side] = True
    report = []
    print("| thing | long integers, µs | shifted arrays, µs | ratio |\n" + "|---" * 4 + "|")
    for name, out in pictures.items():
        named = np.zeros_like(out)
        named[0, 20 : 20 + CELL, 20 : 20 + CELL] = out[0, 20 : 20 + CELL, 20 : 20 + CELL]
        spent, grown = [0.0, 0.0], [named, named]
        for _ in range(args.repeats):
            for i, way in enumerate((fill, plain_fill)):
                grown[i] = named.copy()
                began = time.process_time()
                way(grown[i], out)
                spent[i] += time.process_time() - began
        if not np.array_equal(*grown):
            raise RuntimeError(f"{name}: expected the same pixels from both ways, got different ones")
        fast, plain = (1e6 * seconds / args.repeats for seconds in spent)
        report.append({"thing": name, "fast": fast, "plain": plain, "ratio": plain / fast})
        print(f"| {name} | {fast:.0f} | {plain:.0f} | ×{plain / fast:.1f} |", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
