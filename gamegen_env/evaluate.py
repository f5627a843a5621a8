"""Measure a model against recorded play that it has not seen.

    gamegen evaluate --model pocket --data data --clips 12 --out out/evaluation

Every clip gives the model CONTEXT true steps and then lets it play on under the true
actions. Beside each figure stand two controls: the frozen frame (the last true frame,
never changed) and the same model under another clip's actions. PSNR in dB of the frame
at that step against the real one, mean over clips, with a 95 % interval over clips.
"ceiling" is the true stream decoded: what the tokenizer allows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import Stream
from gamegen_env.files import write_atomic
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.stream import Step
from gamegen_env.training.data import load_streams
from gamegen_env.world import World

CONTEXT = 16  # true steps before the model plays on
HORIZONS = (1, 16, 64)  # steps
PSNR_CAP = 60.0  # dB; an exact frame has no finite PSNR


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame: (..., H, W, 3) uint8 twice -> (...), at most PSNR_CAP."""
    error = np.square(frames.astype(np.float64) - truth).mean((-3, -2, -1))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (PSNR_CAP / 10)))


def rollout(world: World, frames: Sequence[np.ndarray], steps: Sequence[list[Step]], actions: np.ndarray) -> np.ndarray:
    """Play on from the context of n clips.

    Args:    frames: per clip, its first frame; steps: per clip, at least CONTEXT true steps;
             actions: (n, horizon) action tokens to play.
    Returns: (n, horizon, H, W, 3) uint8.
    """
    slots = range(len(frames))
    world.reset(slots, frames, [1000 + slot for slot in slots])
    for t in range(CONTEXT):
        world.observe(slots, [clip[t] for clip in steps])
    return np.stack([world.step(slots, actions[:, t].tolist()).frames for t in range(actions.shape[1])], axis=1)


def ceiling(world: World, frames: Sequence[np.ndarray], steps: Sequence[list[Step]], horizon: int) -> np.ndarray:
    """Decode the true streams: (n, horizon, H, W, 3) uint8 after the context."""
    slots = np.arange(len(frames))
    world.canvas.reset(slots, np.stack(frames))
    shown = []
    for t in range(CONTEXT + horizon):
        for slot in range(len(frames)):
            step = steps[slot][t]
            world.canvas.apply(
                slots[slot : slot + 1], np.array([step.scroll]), np.array([0, len(step.cells)]), step.cells, step.codes
            )
        shown.append(world.canvas.view(slots))
    return np.stack(shown[CONTEXT:], axis=1)


def evaluate_game(
    world: World, stream: Stream, clips: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[dict, np.ndarray]:
    """Measure one game.

    Args:    stream: its coded clips; clips: their true frames, per clip (T, H, W, 3).
    Returns: figures by name, and a strip to look at: real above generated, (2 H, 8 W, 3) uint8.
    """
    horizon = max(HORIZONS)
    lengths = np.diff(stream.clip_ptr)
    usable = (lengths >= CONTEXT + horizon).nonzero()[0]
    chosen = rng.permutation(usable)[: world.num_slots]
    if len(chosen) < world.num_slots:
        # Short episodes: score what there is of each, and say for how long.
        chosen = np.argsort(-lengths, kind="stable")[: world.num_slots]
        horizon = max(1, int(lengths[chosen].min()) - CONTEXT)
    steps = [list(stream.steps(int(clip))) for clip in chosen]
    first = [clips[clip][0] for clip in chosen]
    truth = np.stack([clips[clip][CONTEXT + 1 : CONTEXT + 1 + horizon] for clip in chosen])
    actions = np.array([[s.action for s in clip[CONTEXT : CONTEXT + horizon]] for clip in steps])
    played = rollout(world, first, steps, actions)
    shuffled = rollout(world, first, steps, np.roll(actions, 1, axis=0)[:, rng.permutation(horizon)])
    decoded = ceiling(world, first, steps, horizon)
    frozen = np.stack([clips[clip][CONTEXT] for clip in chosen])[:, None]
    figures: dict[str, object] = {"clips": len(chosen), "horizon": horizon}
    updates = np.diff(stream.update_ptr)
    figures["updates_per_step"] = round(float(updates.mean()), 2)
    for h in sorted({min(h, horizon) for h in HORIZONS}):
        for name, frames in (("model", played), ("frozen", frozen), ("shuffled", shuffled), ("ceiling", decoded)):
            at = frames[:, min(h, frames.shape[1]) - 1]
            values = psnr(at, truth[:, h - 1])
            figures[f"{name}_{h}"] = round(float(values.mean()), 2)
            if name == "model":
                half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
                figures[f"{name}_{h}_interval"] = round(float(half), 2)
    at = np.linspace(0, horizon - 1, 8).astype(int)
    strip = np.concatenate([np.concatenate(list(x[0, at]), axis=1) for x in (truth, played)])
    return figures, strip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocket", help="packaged name or checkpoint folder (default: %(default)s)")
    parser.add_argument("--data", required=True, help="folder written by `gamegen record`")
    parser.add_argument("--split", default="heldout", help="(default: %(default)s)")
    parser.add_argument("--games", default=None, help="comma-separated folder names, e.g. procgen-maze (default: all)")
    parser.add_argument("--clips", type=int, default=12, help="clips per game (default: %(default)s)")
    parser.add_argument("--kv-bits", type=int, default=4, choices=(4, 16))
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", required=True, help="folder for figures.json and a strip per game")
    args = parser.parse_args(argv)

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = load_checkpoint(args.model)
    games = args.games.split(",") if args.games else None
    streams = load_streams(args.data, args.split, checkpoint.config, checkpoint.tokenizer, 0.0, games)
    world = World(args.model, args.clips, kv_bits=args.kv_bits, temperature=args.temperature)
    report: dict[str, dict] = {}
    for stream in tqdm(streams, desc="games", unit="game"):
        shards = sorted((Path(args.data) / args.split / stream.game).glob("shard-*.safetensors"))
        clips = [clip.frames for path in shards for clip in iter_clips(read_shard(path))]
        if not (np.diff(stream.clip_ptr) >= CONTEXT + 1).sum() >= args.clips:
            tqdm.write(f"{stream.game}: fewer than {args.clips} clips of {CONTEXT + 1} steps; left out")
            continue
        rng = np.random.default_rng(0)
        report[stream.game], strip = evaluate_game(world, stream, clips, rng)
        image = Image.fromarray(strip)
        image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(out / f"{stream.game}.png")
        tqdm.write(f"{stream.game:22s} " + "  ".join(f"{k} {v}" for k, v in report[stream.game].items()))
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


def table(report: dict[str, dict]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| game | updates/step | next frame | 16 steps | frozen | shuffled | 64 steps | frozen | shuffled | ceiling |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for game, f in report.items():

        def cell(name: str, h: int, f: dict = f) -> str:
            return f"{f[f'{name}_{h}']:.1f}" if f"{name}_{h}" in f else "–"

        last = f["horizon"]
        lines.append(
            f"| {game} | {f['updates_per_step']} | {cell('model', 1)} | "
            + " | ".join(cell(name, h) for h in (16, last) for name in ("model", "frozen", "shuffled"))
            + f" | {cell('ceiling', last)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
