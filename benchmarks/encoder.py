"""What does the encoder make of recordings, and how fast?

    OMP_NUM_THREADS=1 python -m benchmarks.encoder --data data --clips 6

The first frames of held-out recordings, coded by the packaged tokenizer. Updates per step, and the share of them that
move the picture; the share of steps in which the camera moves; by how many pixels its movement differs from the step's
before, on average over those in which it moves or has just stopped (a camera with inertia: little); the PSNR of the
decoded stream; steps coded per second, on one thread. Two sets of rules are compared by running this from both
checkouts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gamegen_env.checkpoint import Checkpoint, load_checkpoint
from gamegen_env.codec import Stream, decode_stream, encode_clips
from gamegen_env.config import ModelConfig
from gamegen_env.evaluation.metrics import psnr
from gamegen_env.games.shards import Shard, iter_clips, read_shard
from gamegen_env.training.data import game_folders

LONGEST = 65  # frames of a clip: as far as rollouts are measured


def chosen(data: str, split: str, games: str | None) -> list[Path]:
    """Return the folders of recorded games, all or those named. Raises: SystemExit on a name that there is not."""
    folders = game_folders(data, split)
    if games is None:
        return folders
    unknown = sorted(set(games.split(",")) - {folder.name for folder in folders})
    if unknown:
        sys.exit(f"argument --games: expected some of {[folder.name for folder in folders]}, got {unknown}")
    return [folder for folder in folders if folder.name in games.split(",")]


def first_clips(folder: Path, count: int) -> list[Shard]:
    """Return the first clips of a game that are longer than 16 frames."""
    return [clip for clip in iter_clips(read_shard(folder / "shard-00000.safetensors")) if len(clip) > 16][:count]


def coded(clips: Sequence[Shard], config: ModelConfig, checkpoint: Checkpoint, game: str) -> Stream:
    """Return the first frames of clips as a stream."""
    return encode_clips(
        [c.frames[:LONGEST] for c in clips],
        [c.action[:LONGEST] for c in clips],
        [c.reward[:LONGEST] for c in clips],
        [c.terminated[:LONGEST] for c in clips],
        config,
        checkpoint.tokenizer,
        game=game,
        fingerprint=checkpoint.fingerprint,
    )


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
    report: dict[str, dict[str, float]] = {}
    for folder in tqdm(chosen(args.data, args.split, args.games), unit="game"):
        clips = first_clips(folder, args.clips)
        began = time.perf_counter()
        stream = coded(clips, config, checkpoint, folder.name)
        seconds = time.perf_counter() - began
        shown = [decode_stream(stream, i, c.frames[0], config, tokenizer) for i, c in enumerate(clips)]
        quality = [psnr(a, c.frames[:LONGEST])[1:].mean() for a, c in zip(shown, clips, strict=True)]
        report[folder.name] = {
            "updates": float(np.diff(stream.update_ptr).mean()),
            "moves": float((stream.update_motion >= 0).mean()),
            "scrolls": float(stream.scroll.any(1).mean()),
            "unsteadiness": unsteadiness(stream),
            "psnr": float(np.mean(quality)),
            "steps_per_s": len(stream.action) / seconds,
        }
    print("| game | updates/step | move % | scroll % | unsteady, px | dB | steps/s |\n|---|---|---|---|---|---|---|")
    for game, row in report.items():
        print(
            f"| {game} | {row['updates']:.1f} | {row['moves']:.0%} | {row['scrolls']:.0%} | {row['unsteadiness']:.2f} "
            f"| {row['psnr']:.1f} | {row['steps_per_s']:.0f} |"
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
