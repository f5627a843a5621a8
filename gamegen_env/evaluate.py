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
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
TRIED = 12  # of the context's last steps, before each of which the model is asked for the next frame
HORIZONS = (16, 64)  # steps
PSNR_CAP = 60.0  # dB; an exact frame has no finite PSNR


def psnr(frames: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """PSNR in dB of each frame, at most PSNR_CAP.

    Args:    frames, truth: (..., H, W, 3) uint8; mask: (..., H, W) bool, the pixels that count.
    Returns: (...) float64; NaN where the mask is empty.
    """
    error = np.square(frames.astype(np.float64) - truth).mean(-1)
    if mask is None:
        mean = error.mean((-2, -1))
    else:
        count = mask.sum((-2, -1))
        mean = np.where(count > 0, (error * mask).sum((-2, -1)) / np.maximum(count, 1), np.nan)
    return 10 * np.log10(255**2 / np.maximum(mean, 255**2 / 10 ** (PSNR_CAP / 10)))


def moving(frozen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the pixels (..., H, W) of 4x4 cells in which two pictures differ by more than 8 somewhere."""
    differs = (np.abs(frozen.astype(np.int16) - truth) > 8).any(-1)
    *lead, height, width = differs.shape
    cells = differs.reshape(*lead, height // 4, 4, width // 4, 4).any((-3, -1))
    return cells.repeat(4, -2).repeat(4, -1)


@dataclass(frozen=True)
class Clips:
    """n clips of one game: their true frames and their coded steps."""

    frames: list[np.ndarray]  # per clip (T + 1, H, W, 3) uint8
    steps: list[list[Step]]  # per clip T
    horizon: int  # steps after the context

    def actions(self, start: int, stop: int) -> np.ndarray:
        """Action tokens of steps [start, stop): (n, stop - start)."""
        return np.array([[step.action for step in clip[start:stop]] for clip in self.steps])

    def truth(self, start: int, stop: int) -> np.ndarray:
        """True frames after steps [start, stop): (n, stop - start, H, W, 3)."""
        return np.stack([frames[start + 1 : stop + 1] for frames in self.frames])


def choose(stream: Stream, frames: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> Clips:
    """Draw `count` clips that are long enough; if there are not as many, the longest ones and a shorter horizon.

    Raises: ValueError if there are not `count` clips with a step after the context.
    """
    lengths = np.diff(stream.clip_ptr)
    horizon = max(HORIZONS)
    chosen = rng.permutation((lengths >= CONTEXT + horizon).nonzero()[0])[:count]
    if len(chosen) < count:
        chosen = np.argsort(-lengths, kind="stable")[:count]
        horizon = int(lengths[chosen].min()) - CONTEXT
    if len(chosen) < count or horizon < 1:
        raise ValueError(
            f"{stream.game}: expected {count} clips of {CONTEXT + 1} steps, got {len(chosen)} shorter ones"
        )
    return Clips([frames[i] for i in chosen], [list(stream.steps(int(i))) for i in chosen], horizon)


def play_on(world: World, clips: Clips, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the context, trying one step of the model beside each of its last steps, then play on alone.

    Args:    actions: (n, horizon) action tokens to play on with.
    Returns: next frames (n, TRIED, H, W, 3) after true histories, and the rollout (n, horizon, H, W, 3).
    """
    slots = range(len(clips.frames))
    world.reset(slots, [frames[0] for frames in clips.frames], [1000 + slot for slot in slots])
    tried = []
    for t in range(CONTEXT):
        if t >= CONTEXT - TRIED:
            states = [world.save(slot) for slot in slots]
            tried.append(world.step(slots, clips.actions(t, t + 1)[:, 0].tolist()).frames)
            for slot, state in zip(slots, states, strict=True):
                world.load(slot, state)
        world.observe(slots, [steps[t] for steps in clips.steps], clips.truth(t, t + 1)[:, 0])
    rollout = [world.step(slots, actions[:, t].tolist()).frames for t in range(actions.shape[1])]
    return np.stack(tried, axis=1), np.stack(rollout, axis=1)


def ceiling(world: World, clips: Clips) -> np.ndarray:
    """Decode the true steps, in the context each from the true frame before: (n, CONTEXT + horizon, H, W, 3) uint8."""
    slots = np.arange(len(clips.frames))
    world.canvas.reset(slots, np.stack([frames[0] for frames in clips.frames]))
    shown = []
    for t in range(CONTEXT + clips.horizon):
        for slot in range(len(slots)):
            step = clips.steps[slot][t]
            one, ptr = slots[slot : slot + 1], np.array([0, len(step.cells)])
            world.canvas.apply(one, np.array([step.scroll]), ptr, step.cells, step.codes)
        shown.append(world.canvas.view(slots))
        if t < CONTEXT:
            world.canvas.show(slots, clips.truth(t, t + 1)[:, 0])
    return np.stack(shown, axis=1)


def evaluate_game(world: World, stream: Stream, clips: Clips) -> tuple[dict, np.ndarray]:
    """Measure one game.

    Returns: figures by name, and a strip to look at: real above generated, (2 H, 8 W, 3) uint8.
    """
    horizon = clips.horizon
    actions = clips.actions(CONTEXT, CONTEXT + horizon)
    tried, played = play_on(world, clips, actions)
    other = np.random.default_rng(0).permutation(horizon)
    _, shuffled = play_on(world, clips, np.roll(actions, 1, axis=0)[:, other])
    decoded = ceiling(world, clips)
    truth = clips.truth(CONTEXT, CONTEXT + horizon)
    frozen = np.broadcast_to(clips.truth(CONTEXT - 1, CONTEXT), truth.shape)
    figures: dict[str, object] = {
        "clips": len(clips.frames), "horizon": horizon,
        "updates_per_step": round(float(np.diff(stream.update_ptr).mean()), 2),
    }  # fmt: skip

    def put(name: str, values: np.ndarray) -> None:
        values = values[np.isfinite(values)]
        if len(values):
            half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
            figures[name], figures[f"{name}_interval"] = round(float(values.mean()), 2), round(float(half), 2)

    true_next, before = clips.truth(CONTEXT - TRIED, CONTEXT), clips.truth(CONTEXT - TRIED - 1, CONTEXT - 1)
    mask = moving(before, true_next)
    for name, frames in (("model", tried), ("frozen", before), ("ceiling", decoded[:, CONTEXT - TRIED : CONTEXT])):
        put(f"next_{name}", psnr(frames, true_next).mean(1))
        put(f"next_moving_{name}", np.nanmean(psnr(frames, true_next, mask), axis=1) if mask.any() else np.array([]))
    kinds = {"model": played, "frozen": frozen, "shuffled": shuffled, "ceiling": decoded[:, CONTEXT:]}
    for h in sorted({min(h, horizon) for h in HORIZONS}):
        at = truth[:, h - 1]
        for name, frames in kinds.items():
            put(f"{h}_{name}", psnr(frames[:, h - 1], at))
            put(f"{h}_moving_{name}", psnr(frames[:, h - 1], at, moving(frozen[:, 0], at)))
    places = np.linspace(0, horizon - 1, 8).astype(int)
    strip = np.concatenate([np.concatenate(list(x[0, places]), axis=1) for x in (truth, played)])
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
    parser.add_argument("--temperature", type=float, default=0.5)
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
        chosen = choose(stream, clips, args.clips, np.random.default_rng(0))
        report[stream.game], strip = evaluate_game(world, stream, chosen)
        image = Image.fromarray(strip)
        image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(out / f"{stream.game}.png")
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


def table(report: dict[str, dict]) -> str:
    """Return the figures as a Markdown table: whole frame, and in brackets the moving cells."""
    columns = [("next", "model"), ("next", "frozen"), ("16", "model"), ("16", "frozen"), ("16", "shuffled"),
               ("64", "model"), ("64", "frozen"), ("64", "shuffled"), ("64", "ceiling")]  # fmt: skip
    lines = [
        "| game | updates/step | " + " | ".join(f"{when}: {name}" for when, name in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]

    def cell(figures: dict, when: str, name: str) -> str:
        if when == "64":
            when = str(figures["horizon"])
        if f"{when}_{name}" not in figures:
            return "–"
        mark = f" at {when}" if when not in ("next", "16", "64") else ""
        return f"{figures[f'{when}_{name}']:.1f} ({figures.get(f'{when}_moving_{name}', float('nan')):.1f}){mark}"

    for game, figures in report.items():
        cells = [cell(figures, when, name) for when, name in columns]
        lines.append(f"| {game} | {figures['updates_per_step']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
