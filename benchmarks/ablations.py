"""What is each module worth? Models with all of them, and with one taken away, trained alike.

    OMP_NUM_THREADS=1 python -m benchmarks.ablations --data data --games physics-fall,physics-bounce --rooms 64
    OMP_NUM_THREADS=1 python -m benchmarks.ablations --data data --games gameworld-Gold,procgen-maze --without pointer

Regime: the pocket preset, from scratch or from a model that has none of the modules (`--from`), the
schedule of `gamegen train-world` to its end, bf16; per seed equal batches in equal order, whatever is taken away.
Held-out figures, mean of the games: losses (nats), permanence (`evaluation/histories.py`), and with `--rooms` those of
`evaluation/physics.py`, mean of the rooms' kinds among the games. Every finished run is kept in `--out` and not done
again, its model beside it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from benchmarks.scaling import BATCH, keep, kept, train
from gamegen_env.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from gamegen_env.closed_loop import RULES_VERSION
from gamegen_env.config import PRESETS, ModelConfig
from gamegen_env.evaluation.histories import evaluate_histories
from gamegen_env.evaluation.physics import evaluate_physics
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from gamegen_env.world import World

MODULES = ("ballistics", "pointer", "anchor")
ARMS = ("nothing", *MODULES, "sprites")
# What falls too, as motions do with the pointer, and things with sprites.
NEEDED = {"pointer": ("anchor", "sprites"), "anchor": ("sprites",)}
SEQUENCES = 4  # held-out windows per game
ROOMS = "physics-"


def without(config: ModelConfig, module: str) -> ModelConfig:
    """Take a module away, and what cannot be without it."""
    off = {module, *NEEDED.get(module, ())}
    stream, transformer = config.stream, config.transformer
    sprites = stream.sprites and "sprites" not in off
    stream = dataclasses.replace(
        stream, max_motion=stream.max_motion * (module != "pointer"), sprites=sprites, things=stream.things and sprites
    )
    switches = dict.fromkeys(off & set(MODULES), False)
    return dataclasses.replace(config, stream=stream, transformer=dataclasses.replace(transformer, **switches))


def run(config: ModelConfig, args: argparse.Namespace, games: list[str], seed: int, folder: Path) -> dict[str, float]:
    """Train one model, leave it in a folder and measure it."""
    tokenizer = load_tokenizer(args.tokenizer)
    streams = load_streams(args.data, "train", config, tokenizer, 0.03, games)
    data = Sampler(streams, config, config.transformer.window, BATCH, seed)
    model = train(config, tokenizer, data, args.steps, args.learning_rate, seed, args.start_from)
    save_checkpoint(folder, config, tokenizer, model)
    checkpoint = load_checkpoint(folder)
    heldout = load_streams(args.data, "heldout", config, tokenizer, 0.0, games)
    parts = [evaluate_histories(checkpoint, stream, SEQUENCES) for stream in heldout]
    if args.rooms:
        world = World(str(folder), args.rooms)
        kinds = [game.removeprefix(ROOMS) for game in games if game.startswith(ROOMS)]
        parts += [evaluate_physics(world, checkpoint, kind, args.rooms)["model"] for kind in kinds]
    names = dict.fromkeys(name for part in parts for name in part)
    values = {name: [part[name] for part in parts if np.isfinite(part.get(name, np.nan))] for name in names}
    return {name: round(float(np.mean(found)), 4) for name, found in values.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", default="pocket")
    parser.add_argument("--games", required=True, help="comma-separated folder names")
    parser.add_argument("--without", default=",".join(ARMS[1:]), help=f"comma-separated, of {ARMS[1:]}")
    parser.add_argument("--seeds", default="0,1", help="comma-separated (default: %(default)s)")
    parser.add_argument("--from", dest="start_from", default=None, metavar="MODEL", help="without modules")
    parser.add_argument("--steps", type=int, default=700, help=f"of {BATCH} windows (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--rooms", type=int, default=0, help="rooms per kind of physics (default: none)")
    parser.add_argument("--out", default="runs/ablations.jsonl")
    args = parser.parse_args()
    games, arms = args.games.split(","), ["nothing", *args.without.split(",")]
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        parser.error(f"argument --without: expected some of {ARMS[1:]}, got {unknown}")
    preset = dataclasses.replace(PRESETS["pocket"], tokenizer=load_tokenizer(args.tokenizer).config)
    if args.rooms and not any(game.startswith(ROOMS) for game in games):
        parser.error(f"argument --rooms: expected a game {ROOMS}… among --games, got {games}")
    if args.start_from is not None:
        source = load_checkpoint(args.start_from).config.transformer
        held = [name for name in MODULES if getattr(source, name)]
        if held:
            parser.error(f"argument --from: expected a model without modules, got one with {held}")
    path = Path(args.out)
    runs = kept(path)
    regime = {
        "rules": RULES_VERSION, "games": args.games, "steps": args.steps, "rate": args.learning_rate,
        "rooms": args.rooms, "layers": preset.transformer.n_layers, "from": args.start_from,
        "sprites": preset.stream.sprites,
    }  # fmt: skip
    for seed, arm in itertools.product(map(int, args.seeds.split(",")), arms):
        what = regime | {"without": arm, "seed": seed}
        if any(what.items() <= one.items() for one in runs):
            continue
        folder = path.with_name(f"{path.stem}-{arm}-{seed}")
        runs.append(what | {"figures": run(without(preset, arm), args, games, seed, folder)})
        keep(path, runs[-1])
    same = [one for one in runs if regime.items() <= one.items() and one["without"] in arms]
    names = list(dict.fromkeys(name for one in same for name in one["figures"]))
    print("| without, seed |", " | ".join(names), "|\n" + "|---" * (1 + len(names)) + "|")
    for one in sorted(same, key=lambda one: (arms.index(one["without"]), one["seed"])):
        cells = (f"{one['figures'].get(name, float('nan')):.3f}" for name in names)
        print(f"| {one['without']}, {one['seed']} |", " | ".join(cells), "|")
    print(json.dumps(same))


if __name__ == "__main__":
    main()
