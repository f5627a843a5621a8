"""How many updates per step does the codec spend, and how good is the canvas, at each tolerance?

    python -m benchmarks.rate_distortion --data data --split heldout

One shard per game, the packaged tokenizer; updates per step and the mean PSNR of the decoded
canvas against the recording, per tolerance (mean squared error of a cell). The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import decode_stream, encode_clips
from gamegen_env.evaluation.metrics import psnr
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.training.data import game_folders

TOLERANCES = (40.0, 75.0, 150.0, 300.0, 600.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--frames", type=int, default=600, help="per game (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    report: dict[str, list[tuple[float, float]]] = {}
    for folder in tqdm(game_folders(args.data, args.split), unit="game"):
        clips, total = [], 0
        for clip in iter_clips(read_shard(Path(folder) / "shard-00000.safetensors")):
            if total < args.frames and len(clip) > 1:
                clips.append(clip)
                total += len(clip)
        report[folder.name] = []
        for tolerance in TOLERANCES:
            stream_config = dataclasses.replace(checkpoint.config.stream, tolerance=tolerance)
            config = dataclasses.replace(checkpoint.config, stream=stream_config)
            stream = encode_clips(
                [c.frames for c in clips],
                [c.action for c in clips],
                [c.reward for c in clips],
                [c.terminated for c in clips],
                config,
                checkpoint.tokenizer,
                game=folder.name,
                fingerprint=checkpoint.fingerprint,
            )
            shown = [decode_stream(stream, i, c.frames[0], config, checkpoint.tokenizer) for i, c in enumerate(clips)]
            quality = np.concatenate([psnr(a, c.frames) for a, c in zip(shown, clips, strict=True)])
            report[folder.name].append((float(np.diff(stream.update_ptr).mean()), float(quality.mean())))
    print("| game | " + " | ".join(f"{t:g}" for t in TOLERANCES) + " |\n" + "|---" * (len(TOLERANCES) + 1) + "|")
    for game, points in report.items():
        print(f"| {game} | " + " | ".join(f"{u:.1f} / {q:.1f} dB" for u, q in points) + " |")
    print(json.dumps({"tolerances": TOLERANCES, "games": report}))


if __name__ == "__main__":
    main()
