"""What do true pictures gain from updates that move the picture, before any model is asked?

    python -m benchmarks.motion --data data --reach 6

The first frames of held-out recordings, coded by the packaged tokenizer four times: updates repaint only, may move by
up to `--reach` pixels, may move what stands out alone, and may carry along what hangs together with it. Updates per
step (what is carried along is none), the share of them that move, the different motions of a step in which something
does, and the PSNR of the decoded stream: of the whole picture, and of the cells that differ from the clip's first
picture. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np
from tqdm import tqdm

from benchmarks.encoder import LONGEST, chosen, coded, first_clips
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import Stream, decode_stream
from gamegen_env.evaluation.metrics import moving, psnr


def motions_per_step(stream: Stream) -> float:
    """Mean number of different (dx, dy) in the steps that have any; NaN if none has."""
    step = np.repeat(np.arange(len(stream.action)), np.diff(stream.update_ptr))
    moves = stream.update_motion >= 0
    pairs = np.stack([step[moves], stream.update_motion[moves] % max(1, stream.settings.n_vectors)])
    return np.unique(pairs, axis=1).shape[1] / max(1, len(np.unique(pairs[0]))) if moves.any() else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--games", default=None, help="comma-separated folder names (default: all)")
    parser.add_argument("--clips", type=int, default=8, help="per game (default: %(default)s)")
    parser.add_argument("--reach", type=int, default=6, help="pixels (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    report: dict[str, list[dict[str, float]]] = {}
    for folder in tqdm(chosen(args.data, args.split, args.games), unit="game"):
        clips = first_clips(folder, args.clips)
        report[folder.name] = []
        for forms in range(4):
            reach, sprites = args.reach * (forms > 0), forms > 1
            settings = dataclasses.replace(
                checkpoint.config.stream, max_motion=reach, sprites=sprites, things=forms > 2
            )
            transformer = dataclasses.replace(checkpoint.config.transformer, pointer=True, anchor=sprites)
            config = dataclasses.replace(checkpoint.config, stream=settings, transformer=transformer)
            stream = coded(clips, config, checkpoint, folder.name)
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
                    "motions": motions_per_step(stream),
                    "psnr": float(np.concatenate(whole).mean()),
                    "psnr_moving": float(np.nanmean(np.concatenate(moved))),
                }
            )
    print("| game | updates/step | moved | motions/step | dB | moving cells, dB |\n|---|---|---|---|---|---|")
    for game, kinds in report.items():
        cells = [
            " → ".join(f"{kind[name]:{form}}" for kind in kinds[first:])
            for name, form, first in (("updates", ".1f", 0), ("moved", ".0%", 1), ("motions", ".2f", 1),
                                      ("psnr", ".1f", 0), ("psnr_moving", ".1f", 0))
        ]  # fmt: skip
        print(f"| {game} |", " | ".join(cells), "|")
    print(json.dumps({"reach": args.reach, "games": report}))


if __name__ == "__main__":
    main()
