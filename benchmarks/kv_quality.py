"""What does the 4-bit cache cost in quality?

    python -m benchmarks.kv_quality --data data --games procgen-maze,gameworld-Bounce

On held-out recordings, with 4 and with 16 bits per cached value: the loss (nats, all heads,
teacher-forced, every key and value through the format) and the PSNR of rollouts under the true
actions. Same clips, same seeds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.evaluation.rollouts import choose, fidelity, roll_out
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.kv4 import FakeQuantise
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from gamegen_env.training.objective import losses, total
from gamegen_env.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--data", required=True)
    parser.add_argument("--games", required=True, help="comma-separated folder names")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.5)
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    streams = load_streams(args.data, "heldout", checkpoint.config, checkpoint.tokenizer, 0.0, args.games.split(","))
    sampler = Sampler(streams, checkpoint.config, checkpoint.config.transformer.window, 2, seed=2**41)
    report: dict[int, dict[str, float]] = {}
    for bits, kv_noise in ((16, None), (4, FakeQuantise())):
        with torch.inference_mode():
            values = [float(total(losses(checkpoint.transformer, sampler(i), kv_noise))) for i in range(args.batches)]
        world = World(args.model, args.clips, kv_bits=bits, temperature=args.temperature)
        at: dict[str, list[float]] = {"next": [], "16": [], "64": []}
        for stream in streams:
            shards = sorted((Path(args.data) / "heldout" / stream.game).glob("shard-*.safetensors"))
            clips = [clip.frames for path in shards for clip in iter_clips(read_shard(path))]
            chosen = choose(stream, clips, args.clips, np.random.default_rng(0))
            figures = fidelity(roll_out(world, chosen))
            for h, values_at in at.items():
                values_at.append(figures[f"{h}_model"])
        t = checkpoint.config.transformer
        n_values = 2 * t.n_layers * t.n_kv_heads * t.window * t.head_dim
        report[bits] = {
            "bits_per_value": sum(a.nbytes for k, a in world.engine.save(0).items() if k.startswith("kv_"))
            * 8
            / n_values,
            "loss": float(np.mean(values)),
            "psnr_1": float(np.mean(at["next"])),
            "psnr_16": float(np.mean(at["16"])),
            "psnr_64": float(np.mean(at["64"])),
        }
    print("| cache | bits per value | loss, nats | next frame, dB | 16 steps, dB | 64 steps, dB |")
    print("|---|---|---|---|---|---|")
    for bits, r in report.items():
        quality = " | ".join(f"{r[name]:.2f}" for name in ("psnr_1", "psnr_16", "psnr_64"))
        print(f"| {bits}-bit | {r['bits_per_value']:.1f} | {r['loss']:.4f} | {quality} |")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
