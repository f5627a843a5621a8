"""What do true pictures gain from updates that move the picture, before any model is asked?

    python -m benchmarks.motion --data data --reach 6

The first frames of held-out recordings, coded twice by the packaged tokenizer: updates repaint only, and may move by
up to `--reach` pixels. Updates per step, the share of them that move, and the PSNR of the decoded stream: of the whole
picture, and of the cells that differ from the clip's first picture. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import decode_stream, encode_clips
from gamegen_env.evaluation.metrics import moving, psnr
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.training.data import game_folders

LONGEST = 65  # frames of a clip: as far as rollouts are measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--clips", type=int, default=8, help="per game (default: %(default)s)")
    parser.add_argument("--reach", type=int, default=6, help="pixels (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    report: dict[str, list[dict[str, float]]] = {}
    for folder in tqdm(game_folders(args.data, args.split), unit="game"):
        clips = [c for c in iter_clips(read_shard(folder / "shard-00000.safetensors")) if len(c) > 16][: args.clips]
        report[folder.name] = []
        for reach in (0, args.reach):
            settings = dataclasses.replace(checkpoint.config.stream, max_motion=reach)
            transformer = dataclasses.replace(checkpoint.config.transformer, pointer=True, anchor=False)
            config = dataclasses.replace(checkpoint.config, stream=settings, transformer=transformer)
            stream = encode_clips(
                [c.frames[:LONGEST] for c in clips],
                [c.action[:LONGEST] for c in clips],
                [c.reward[:LONGEST] for c in clips],
                [c.terminated[:LONGEST] for c in clips],
                config,
                checkpoint.tokenizer,
                game=folder.name,
                fingerprint=checkpoint.fingerprint,
            )
            whole, moved = [], []
            for i, clip in enumerate(clips):
                truth = clip.frames[:LONGEST]
                shown = decode_stream(stream, i, truth[0], config, checkpoint.tokenizer)
                whole.append(psnr(shown, truth)[1:])
                moved.append(psnr(shown, truth, moving(truth[0], truth))[1:])
            report[folder.name].append(
                {
                    "updates": float(np.diff(stream.update_ptr).mean()),
                    "moved": float((stream.update_motion >= 0).mean()),
                    "psnr": float(np.concatenate(whole).mean()),
                    "psnr_moving": float(np.nanmean(np.concatenate(moved))),
                }
            )
    print("| game | updates/step | moved | dB | moving cells, dB |\n|---|---|---|---|---|")
    for game, (still, free) in report.items():
        pairs = [f"{still[name]:.1f} → {free[name]:.1f}" for name in ("updates", "psnr", "psnr_moving")]
        print(f"| {game} | {pairs[0]} | {free['moved']:.0%} | {pairs[1]} | {pairs[2]} |")
    print(json.dumps({"reach": args.reach, "games": report}))


if __name__ == "__main__":
    main()
