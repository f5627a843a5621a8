"""Measure a model against recorded play that it has not seen.

    gamegen evaluate --model pocket --data data --clips 12 --out out/evaluation

Next frame: after each of the last context steps of a clip the model plays one step from
the true history. Rollouts: after CONTEXT true steps it plays on alone under the true
actions. The true frames of the context stand on the canvas, as a seed picture does, so the
model and the frozen frame start from the same pixels. PSNR in dB against the real frame at that step, mean over clips.

Controls stand beside each figure. "frozen": the last true frame, never changed.
"shuffled": the same model and noise under another clip's actions. "ceiling": the true
stream decoded, which is what the tokenizer allows. "moving" counts only the cells in which
the real frame differs from the frozen one: most of a still-camera picture never changes,
and a model that does nothing looks good on it.

With --branches N, N states of the live game: the model and the game hold the same keys from
equal states, and a generated branch is right if it looks most like its own real branch
(`branching.py`). That needs the game's package.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.evaluation.branching import BRANCHES, evaluate_branches, find
from gamegen_env.evaluation.report import table
from gamegen_env.evaluation.rollouts import CONTEXT, choose, evaluate_game
from gamegen_env.files import write_atomic
from gamegen_env.games.shards import iter_clips, read_meta, read_shard
from gamegen_env.training.data import load_streams
from gamegen_env.world import World


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
    parser.add_argument("--kv-bits", type=int, default=4, choices=(4, 16))
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--out", required=True, help="folder for figures.json and a strip per game")
    args = parser.parse_args(argv)

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = load_checkpoint(args.model)
    games = args.games.split(",") if args.games else None
    streams = load_streams(args.data, args.split, checkpoint.config, checkpoint.tokenizer, 0.0, games)
    world = World(args.model, max(args.clips, BRANCHES), kv_bits=args.kv_bits, temperature=args.temperature)
    report: dict[str, dict] = {}
    for stream in tqdm(streams, desc="games", unit="game"):
        shards = sorted((Path(args.data) / args.split / stream.game).glob("shard-*.safetensors"))
        clips = [clip.frames for path in shards for clip in iter_clips(read_shard(path))]
        chosen = choose(stream, clips, args.clips, np.random.default_rng(0))
        report[stream.game], strip = evaluate_game(world, stream, chosen)
        image = Image.fromarray(strip)
        image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(out / f"{stream.game}.png")
        if args.branches:
            game_id = read_meta(shards[0])[0]["game"]
            starts = find(game_id, args.split, args.branches)
            report[stream.game].update(evaluate_branches(world, checkpoint, starts))
        tqdm.write(f"{stream.game}: " + json.dumps(report[stream.game]))
    summary = {
        "model": args.model,
        "fingerprint": checkpoint.fingerprint,
        "kv_bits": args.kv_bits,
        "temperature": args.temperature,
        "context": CONTEXT,
        "games": report,
    }
    write_atomic(out / "figures.json", (json.dumps(summary, indent=2) + "\n").encode())
    print(table(report))


if __name__ == "__main__":
    main()
