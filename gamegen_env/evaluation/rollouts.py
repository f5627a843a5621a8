"""Rollouts beside recorded play: next frames, 16 and 64 steps, and their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen_env.codec import Stream
from gamegen_env.evaluation.metrics import flicker, ghosts, moving, psnr, ssim
from gamegen_env.stream import Step
from gamegen_env.world import World

CONTEXT = 16  # true steps before the model plays on
TRIED = 12  # of the context's last steps, before each of which the model is asked for the next frame
HORIZONS = (16, 64, 256)  # steps


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


def choose(
    stream: Stream, frames: Sequence[np.ndarray], count: int, rng: np.random.Generator, horizon: int = 64
) -> Clips:
    """Draw `count` clips that are long enough; if there are not as many, the longest ones and a shorter horizon.

    Raises: ValueError if there are not `count` clips with a step after the context.
    """
    lengths = np.diff(stream.clip_ptr)
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
            world.canvas.apply(slots[slot : slot + 1], np.array([step.scroll]), *step.painted())
        shown.append(world.canvas.view(slots))
        if t < CONTEXT:
            world.canvas.show(slots, clips.truth(t, t + 1)[:, 0])
    return np.stack(shown, axis=1)


@dataclass(frozen=True)
class Rollouts:
    """What a model and its controls made of n clips."""

    clips: Clips
    tried: np.ndarray  # (n, TRIED, H, W, 3) uint8, next frames after true histories
    played: np.ndarray  # (n, horizon, H, W, 3), alone, under the true actions
    shuffled: np.ndarray  # the same under another clip's actions
    decoded: np.ndarray  # (n, CONTEXT + horizon, H, W, 3), the true steps

    @property
    def truth(self) -> np.ndarray:
        return self.clips.truth(CONTEXT, CONTEXT + self.clips.horizon)

    @property
    def before(self) -> np.ndarray:
        """The last true frame that the model has seen, (n, H, W, 3)."""
        return self.clips.truth(CONTEXT - 1, CONTEXT)[:, 0]

    def strip(self) -> np.ndarray:
        """A strip to look at, of the first clip: real above generated, (2 H, 8 W, 3) uint8."""
        places = np.linspace(0, self.clips.horizon - 1, 8).astype(int)
        return np.concatenate([np.concatenate(list(x[0, places]), axis=1) for x in (self.truth, self.played)])

    def film(self) -> np.ndarray:
        """The first clip, real beside generated: (horizon, H, 2 W, 3) uint8."""
        return np.concatenate([self.truth[0], self.played[0]], axis=2)


def roll_out(world: World, clips: Clips) -> Rollouts:
    """Let a model play on from clips, and its controls."""
    actions = clips.actions(CONTEXT, CONTEXT + clips.horizon)
    tried, played = play_on(world, clips, actions)
    other = np.random.default_rng(0).permutation(clips.horizon)
    _, shuffled = play_on(world, clips, np.roll(actions, 1, axis=0)[:, other])
    return Rollouts(clips, tried, played, shuffled, ceiling(world, clips))


def fidelity(rollouts: Rollouts) -> dict[str, Any]:
    """Return PSNR and SSIM of the model and its controls, ghosts, flicker, with half-widths of 95 % intervals.

    `curves` holds the PSNR of each at every step of the rollouts.
    """
    clips, truth = rollouts.clips, rollouts.truth
    horizon = clips.horizon
    figures: dict[str, Any] = {"clips": len(clips.frames), "horizon": horizon}

    def put(name: str, values: np.ndarray) -> None:
        values = values[np.isfinite(values)]
        if len(values):
            half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
            figures[name], figures[f"{name}_interval"] = round(float(values.mean()), 2), round(float(half), 2)

    true_next, before = clips.truth(CONTEXT - TRIED, CONTEXT), clips.truth(CONTEXT - TRIED - 1, CONTEXT - 1)
    mask = moving(before, true_next)
    decoded = rollouts.decoded
    for name, frames in (
        ("model", rollouts.tried), ("frozen", before), ("ceiling", decoded[:, CONTEXT - TRIED : CONTEXT])
    ):  # fmt: skip
        put(f"next_{name}", psnr(frames, true_next).mean(1))
        put(f"next_ssim_{name}", ssim(frames, true_next).mean(1))
        put(f"next_moving_{name}", np.nanmean(psnr(frames, true_next, mask), axis=1) if mask.any() else np.array([]))
    frozen = np.broadcast_to(rollouts.before[:, None], truth.shape)
    kinds = {"model": rollouts.played, "frozen": frozen, "shuffled": rollouts.shuffled, "ceiling": decoded[:, CONTEXT:]}
    for h in sorted({h for h in HORIZONS if h < horizon} | {horizon}):
        at = truth[:, h - 1]
        for name, frames in kinds.items():
            put(f"{h}_{name}", psnr(frames[:, h - 1], at))
            put(f"{h}_ssim_{name}", ssim(frames[:, h - 1], at))
            put(f"{h}_moving_{name}", psnr(frames[:, h - 1], at, moving(rollouts.before, at)))
        put(f"{h}_ghosts_per_100", 100.0 * ghosts(rollouts.played, truth, rollouts.before)[:, h - 1])
    figures["curves"] = {name: psnr(frames, truth).mean(0).round(2).tolist() for name, frames in kinds.items()}
    if horizon >= 3:
        put("flicker_percent", 100 * flicker(rollouts.played, truth))
    return figures
