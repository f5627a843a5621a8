"""What does the encoder make of recordings, and how fast?

    OMP_NUM_THREADS=1 python -m benchmarks.encoder --data data --clips 6

The first frames of held-out recordings, coded by the packaged tokenizer. Updates per step; the share of steps in which
the camera moves; by how many pixels its movement differs from the step's before, on average over those in which it
moves or has just stopped (a camera with inertia: little); the PSNR of the decoded stream; steps coded per second, on
one thread. Two sets of rules are compared by running this from both checkouts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import Stream, decode_stream, encode_clips
from gamegen_env.evaluation.metrics import psnr
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.training.data import game_folders

LONGEST = 65  # frames of a clip: as far as rollouts are measured


def unsteadiness(stream: Stream) -> float:
    """Mean change of the camera's movement, pixels, |x| + |y|; NaN where it never moves."""
    changes = []
    for clip in range(stream.n_clips):
        scroll = stream.only(clip).scroll.astype(np.int64)
        moves = (scroll != 0).any(1)
        changes.append(np.abs(np.diff(scroll, axis=0)).sum(1)[moves[1:] | moves[:-1]])
    every = np.concatenate(changes)
    return float(every.mean()) if len(every) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--games", default=None, help="comma-separated folder names (default: all)")
    parser.add_argument("--clips", type=int, default=6, help="per game (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    folders = game_folders(args.data, args.split)
    if args.games is not None:
        unknown = sorted(set(args.games.split(",")) - {folder.name for folder in folders})
        if unknown:
            parser.error(f"argument --games: expected some of {[folder.name for folder in folders]}, got {unknown}")
        folders = [folder for folder in folders if folder.name in args.games.split(",")]
    report: dict[str, dict[str, float]] = {}
    for folder in tqdm(folders, unit="game"):
        shard = read_shard(next(iter(sorted(folder.glob("shard-*.safetensors")))))
        clips = [c for c in iter_clips(shard) if len(c) > 16][: args.clips]
        began = time.perf_counter()
        stream = encode_clips(
            [c.frames[:LONGEST] for c in clips],
            [c.action[:LONGEST] for c in clips],
            [c.reward[:LONGEST] for c in clips],
            [c.terminated[:LONGEST] for c in clips],
            config,
            tokenizer,
            game=folder.name,
            fingerprint=checkpoint.fingerprint,
        )
        seconds = time.perf_counter() - began
        shown = [decode_stream(stream, i, c.frames[0], config, tokenizer) for i, c in enumerate(clips)]
        quality = [psnr(a, c.frames[:LONGEST])[1:].mean() for a, c in zip(shown, clips, strict=True)]
        report[folder.name] = {
            "updates": float(np.diff(stream.update_ptr).mean()),
            "scrolls": float(stream.scroll.any(1).mean()),
            "unsteadiness": unsteadiness(stream),
            "psnr": float(np.mean(quality)),
            "steps_per_s": len(stream.action) / seconds,
        }
    print("| game | updates/step | scroll % | unsteady, px | dB | steps/s |\n|---|---|---|---|---|---|")
    for game, row in report.items():
        print(
            f"| {game} | {row['updates']:.1f} | {row['scrolls']:.0%} | {row['unsteadiness']:.2f} | {row['psnr']:.1f} "
            f"| {row['steps_per_s']:.0f} |"
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
