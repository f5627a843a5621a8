"""What do the canvas and its tile memory give?

    python -m benchmarks.canvas --data data --games procgen-maze,gameworld-Bounce

The true streams of held-out recordings, shown in three ways: by the canvas (pixels of the first picture stay, a
cell that gets an earlier code back gets its pixels back), by the canvas without the memory of earlier codes, and
by decoding the whole tile map at every step, as a video tokenizer would. PSNR against the recording, and of the
cells whose pixels do not change in the recording the share that changes on screen. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from gamegen_env.canvas import Canvas
from gamegen_env.checkpoint import Checkpoint, load_checkpoint
from gamegen_env.codec import Stream
from gamegen_env.evaluation.metrics import differing, psnr
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.training.data import game_folders, load_streams

SLOT = np.zeros(1, np.int64)


def show(stream: Stream, clip: int, first: np.ndarray, checkpoint: Checkpoint, how: str) -> np.ndarray:
    """Show a clip of a stream from its first picture: (steps + 1, H, W, 3) uint8."""
    canvas = Canvas(checkpoint.config, checkpoint.tokenizer, 1)
    canvas.reset(SLOT, first[None])
    shown = [canvas.view(SLOT)[0]]
    for step in stream.steps(clip):
        canvas.apply(SLOT, np.array([step.scroll]), *step.painted())
        if how != "canvas":
            canvas.memory_codes[:] = -1
        if how == "whole frames":
            m, c = canvas.map_cells, canvas.cell_size
            whole = checkpoint.tokenizer.decode(canvas.codes.reshape(1, m, m))[0]
            x, y = canvas.origin[0]
            shown.append(np.roll(whole, (-y, -x), axis=(0, 1))[: (m - 1) * c, : (m - 1) * c])
        else:
            shown.append(canvas.view(SLOT)[0])
    return np.stack(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--games", default=None)
    parser.add_argument("--clips", type=int, default=4, help="per game (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    games = args.games.split(",") if args.games else [f.name for f in game_folders(args.data, args.split)]
    ways = ("canvas", "no memory", "whole frames")
    report: dict[str, dict[str, list[float]]] = {}
    print("| game | " + " | ".join(f"{way}: dB, changed %" for way in ways) + " |\n" + "|---" * (len(ways) + 1) + "|")
    streams = load_streams(args.data, args.split, checkpoint.config, checkpoint.tokenizer, 0.0, games)
    for game, stream in zip(games, streams, strict=True):
        path = Path(args.data) / args.split / game / "shard-00000.safetensors"
        clips = [clip.frames for clip in iter_clips(read_shard(path))]
        longest = sorted(range(len(clips)), key=lambda i: -len(clips[i]))[: args.clips]
        report[game] = {}
        for way in ways:
            quality, changed, still = [], 0, 0
            for clip in longest:
                shown, truth = show(stream, clip, clips[clip][0], checkpoint, way), clips[clip]
                quality.append(psnr(shown[1:], truth[1:]))
                at_rest = ~(truth[1:] != truth[:-1]).any(-1).reshape(-1, 16, 4, 16, 4).any((2, 4))
                changed += int((differing(shown[1:], shown[:-1]) & at_rest).sum())
                still += int(at_rest.sum())
            report[game][way] = [float(np.concatenate(quality).mean()), 100 * changed / max(still, 1)]
        print(f"| {game} | " + " | ".join(f"{a:.2f}, {b:.3f}" for a, b in report[game].values()) + " |")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
