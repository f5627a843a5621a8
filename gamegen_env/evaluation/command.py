"""Measure a model against recorded play that it has not seen.

    gamegen evaluate --model pocket --data data --clips 12 --out out/evaluation

Next frame: after each of the last context steps of a clip the model plays one step from
the true history. Rollouts: after CONTEXT true steps it plays on alone under the true
actions. The true frames of the context stand on the canvas, as a seed picture does, so the
model and the frozen frame start from the same pixels. PSNR in dB and SSIM against the real frame at that step, mean
over clips.

Controls stand beside each figure. "frozen": the last true frame, never changed.
"shuffled": the same model and noise under another clip's actions. "ceiling": the true
stream decoded, which is what the tokenizer allows. "moving" counts only the cells in which
the real frame differs from the frozen one: most of a still-camera picture never changes,
and a model that does nothing looks good on it.

With --branches N, N states of the live game: the model and the game hold the same keys from
equal states, and a generated branch is right if it looks most like its own real branch
(`branching.py`). That needs the game's package.

With --sequences N, N windows of true history per game: losses, rewards, ends, permanence, and the losses on what
was recorded to train on, if it was (`histories.py`).
With --inverse N, a network that has learned in N steps to read the keys off real clips reads
them off generated ones (`inverse.py`). With --drift M, M minutes of play under random keys
(`drift.py`). With --rooms N, N rooms of each kind whose laws are known (`physics.py`).
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.evaluation.branching import BRANCHES, evaluate_branches, find
from gamegen_env.evaluation.drift import evaluate_drift
from gamegen_env.evaluation.histories import evaluate_histories, evaluate_training
from gamegen_env.evaluation.inverse import evaluate_inverse
from gamegen_env.evaluation.physics import evaluate_physics
from gamegen_env.evaluation.plot import draw_curves
from gamegen_env.evaluation.report import (
    consistency_table,
    control_table,
    fidelity_table,
    physics_table,
    similarity_table,
)
from gamegen_env.evaluation.rollouts import CONTEXT, HORIZONS, choose, fidelity, roll_out
from gamegen_env.files import write_atomic
from gamegen_env.games import make_source
from gamegen_env.games.physics import TOKENS as ROOMS
from gamegen_env.games.shards import iter_clips, read_meta, read_shard
from gamegen_env.training.data import load_streams
from gamegen_env.world import World


def enlarged(picture: np.ndarray) -> Image.Image:
    """Return a picture (H, W, 3) uint8 at twice its size."""
    image = Image.fromarray(picture)
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocket", help="packaged name or checkpoint folder (default: %(default)s)")
    parser.add_argument("--data", required=True, help="folder written by `gamegen record`")
    parser.add_argument("--split", default="heldout", help="(default: %(default)s)")
    parser.add_argument("--games", default=None, help="comma-separated folder names, e.g. procgen-maze (default: all)")
    parser.add_argument("--clips", type=int, default=12, help="clips per game (default: %(default)s)")
    parser.add_argument(
        "--branches", type=int, default=0, help="states per game from which to branch (default: %(default)s)"
    )
    parser.add_argument("--sequences", type=int, default=0, help="windows of true history per game (default: none)")
    parser.add_argument("--inverse", type=int, default=0, help="training steps of the key reader (default: none)")
    parser.add_argument("--drift", type=float, default=0, help="minutes of play per game (default: none)")
    parser.add_argument("--rooms", type=int, default=0, help="rooms per kind of physics (default: none)")
    parser.add_argument(
        "--horizon", type=int, default=64, help="steps that the model plays alone, at least 16 (default: %(default)s)"
    )
    parser.add_argument("--kv-bits", type=int, default=4, choices=(4, 16))
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--engine", default="auto", choices=("auto", "native", "torch", "reference"))
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "int8", "int4", "float32"), help="of the arithmetic"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder for figures.json, curves.png, and a strip and a film (real beside generated) per game",
    )
    args = parser.parse_args(argv)
    if args.horizon < HORIZONS[0]:
        parser.error(f"argument --horizon: expected at least {HORIZONS[0]} steps, got {args.horizon}")

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = load_checkpoint(args.model)
    games = args.games.split(",") if args.games else None
    streams = load_streams(args.data, args.split, checkpoint.config, checkpoint.tokenizer, 0.0, games)
    slots = max(args.clips, args.rooms, BRANCHES)
    world = World(
        args.model,
        slots,
        engine=args.engine,
        kv_bits=args.kv_bits,
        temperature=args.temperature,
        precision=args.precision,
    )
    report: dict[str, dict] = {}
    for stream in tqdm(streams, desc="games", unit="game"):
        shards, train = (
            sorted((Path(args.data) / split / stream.game).glob("shard-*.safetensors"))
            for split in (args.split, "train")
        )
        clips = [clip.frames for path in shards for clip in iter_clips(read_shard(path))]
        chosen = choose(stream, clips, args.clips, np.random.default_rng(0), args.horizon)
        rollouts = roll_out(world, chosen)
        figures = fidelity(rollouts) | {"updates_per_step": round(float(np.diff(stream.update_ptr).mean()), 2)}
        enlarged(rollouts.strip()).save(out / f"{stream.game}.png")
        film = [enlarged(frame) for frame in rollouts.film()]
        film[0].save(out / f"{stream.game}.gif", save_all=True, append_images=film[1:], duration=1000 // 15, loop=0)
        if args.branches:
            game_id = read_meta(shards[0])[0]["game"]
            starts = find(game_id, args.split, args.branches)
            figures.update(evaluate_branches(world, checkpoint, starts))
        if args.sequences:
            figures.update(evaluate_histories(checkpoint, stream, args.sequences))
            if train:
                figures.update(evaluate_training(checkpoint, train, args.sequences))
        if args.drift:
            tokens = np.unique(stream.action).tolist()
            with closing(make_source(read_meta(shards[0])[0]["game"], args.clips, 0, args.split)) as game:
                figures.update(evaluate_drift(world, game, clips, tokens, args.drift, args.clips))
        if args.inverse:
            figures.update(evaluate_inverse(rollouts, train, args.inverse))
        report[stream.game] = figures
        shown = {name: value for name, value in figures.items() if name != "curves"}
        tqdm.write(f"{stream.game}: " + json.dumps(shown))
    physics = {kind: evaluate_physics(world, checkpoint, kind, args.rooms) for kind in ROOMS if args.rooms}
    summary = {
        "model": args.model,
        "fingerprint": checkpoint.fingerprint,
        "engine": world.engine_name,
        "precision": args.precision,
        "kv_bits": args.kv_bits,
        "temperature": args.temperature,
        "context": CONTEXT,
        "games": report,
        "physics": physics,
    }
    write_atomic(out / "figures.json", (json.dumps(summary, indent=2) + "\n").encode())
    tables = [fidelity_table(report), similarity_table(report), control_table(report), consistency_table(report)]
    if physics:
        tables.append(physics_table(physics))
    print(*tables, sep="\n\n")
    draw_curves(report, out / "curves.png")  # last: nothing measured is lost where matplotlib is missing


if __name__ == "__main__":
    main()
