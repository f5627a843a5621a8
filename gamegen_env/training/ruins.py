"""Ruins: what has become of games that a model has played for long, and the nearest recorded picture as the way out.

Errors feed on errors: a bar in rags, a second ball, a piece that nobody took away. Self-play (`selfplay.py`) shows
what goes wrong within 32 steps, and then repairs it to where the game would be without the model; but where games are
after a minute is in no recording. So a model plays on by itself, and where its picture is farther from all recorded
ones than those are from each other, it is spliced to the nearest: a clip shows what the model made of its game, then in
one step what is nearly the same and has no faults, then how that went on. What the model made carries no loss; the
repair and what follows do. A clip begins with the picture that its play began with, which is what it has for anchor.

Source: DAgger, arXiv 1011.0686, with the nearest recorded picture as the expert. Games whose camera moves are left
out: a place between two recorded ones is near to none, and all would be repair.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

import numpy as np

from gamegen_env.canvas import CellCoder
from gamegen_env.closed_loop import AFTER_DROP, NO_OUTCOME, WRONG_CODE
from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import ModelConfig
from gamegen_env.games.shards import Shard
from gamegen_env.world import World

STYLES = 8  # of restyled recordings: in each there must be pictures near to what is played in it
SLOTS = 32  # plays side by side
STEPS = 1024  # of a play; one that ends begins anew, elsewhere
EVERY = 64  # steps, from one piece of a play to the next
HOLD = 0.8  # chance to keep a key
BEFORE, AFTER = 32, 32  # steps of a clip that the model made, and pictures that were recorded
STILL = 0.25  # share of the plays whose camera may move in the first steps
COMMON = 0.9  # share of the recorded pictures that are nearer to another one than a ruin is
WRONG = 4  # tolerances by which a cell that differs misses: what codes are worse at than pictures is no ruin
MOST_WRONG = 0.25  # share of the cells that a repair may touch
KEPT, FEWEST = 256, 32  # clips of a game: fewer would be learned by heart, and are none
CANDIDATES = 16  # pictures that are compared in full
APART = 32  # steps between pictures of a clip that count as two
SAMPLED = 256  # recorded pictures that say how near they are to each other

NAME = "ruins" + "-".join(  # what a stream of them depends on, beside the player and what was recorded
    f"{value:g}"
    for value in (SLOTS, STEPS, EVERY, HOLD, BEFORE, AFTER, STILL, COMMON, WRONG, MOST_WRONG, KEPT, FEWEST, STYLES)
)

# (BEFORE + 1, H, W, 3) uint8 and (BEFORE + 1,) uint8: a play's first picture and its latest ones, what led to each.
Piece = tuple[np.ndarray, np.ndarray]


class Recorded:
    """All pictures of a game, to find the nearest in."""

    def __init__(self, clips: Sequence[Shard], cell_size: int, tolerance: float) -> None:
        self.clips, self.cell_size, self.limit = clips, cell_size, WRONG * tolerance / 3
        lengths = [len(clip) for clip in clips]
        self.clip = np.repeat(np.arange(len(clips)), lengths)
        self.time = np.concatenate([np.arange(n) for n in lengths])
        self.left = np.repeat(lengths, lengths) - self.time
        self.means = np.concatenate([self._means(clip.frames) for clip in clips])
        self.square = np.square(self.means).sum(1)

    def _cells(self, frames: np.ndarray) -> np.ndarray:
        n, side, c = len(frames), frames.shape[1], self.cell_size
        return frames.reshape(n, side // c, c, side // c, c, 3)

    def _means(self, frames: np.ndarray) -> np.ndarray:
        """Mean colours of cells: (n, H, W, 3) uint8 -> (n, d) float32."""
        means: np.ndarray = self._cells(frames).mean((2, 4), dtype=np.float32).reshape(len(frames), -1)
        return means

    def nearest(self, frame: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
        """Return the picture that differs from `frame` (H, W, 3) in fewest cells, of those `allowed` (N,) bool, not
        none; and in how many."""
        means = self._means(frame[None])[0]
        near = allowed.nonzero()[0]
        near = near[np.argsort((self.square - 2 * self.means @ means)[near], kind="stable")[:CANDIDATES]]
        frames = np.stack([self.clips[self.clip[i]].frames[self.time[i]] for i in near])
        error = np.square(self._cells(frames).astype(np.float32) - self._cells(frame[None])).mean((2, 4, 5))
        wrong = (error > self.limit).sum((1, 2))
        best = int(wrong.argmin())
        return int(near[best]), int(wrong[best])

    def common(self, rng: np.random.Generator) -> float:
        """Return in how many cells most pictures differ, at most, from the nearest of another moment."""
        wrong = []
        for i in rng.integers(0, len(self.clip), SAMPLED):
            other = (self.clip != self.clip[i]) | (np.abs(self.time - self.time[i]) >= APART)
            if other.any():
                wrong.append(self.nearest(self.clips[self.clip[i]].frames[self.time[i]], other)[1])
        return float(np.quantile(wrong, COMMON)) if wrong else np.inf


def ruins(
    player: str, clips: Sequence[Shard], config: ModelConfig, tokenizer: CellCoder, *, game: str, fingerprint: str,
    error_rate: float, seed: int = 0,
) -> Stream:  # fmt: skip
    """Code what becomes of one game, and the way out.

    Args:    player: name or folder of the model that plays; clips: recorded, of one game; the others as `encode_clips`.
    Returns: a stream of FEWEST to KEPT clips, or of none.
    """
    rng = np.random.default_rng(seed)
    pieces = play(player, clips, rng)
    spliced = splice(pieces, clips, config, rng) if pieces else []
    if len(spliced) < FEWEST:
        return Stream.empty(
            game=game, tokenizer=fingerprint, settings=config.stream, cell_size=config.tokenizer.cell_size,
            error_rate=error_rate,
        )  # fmt: skip
    frames, actions, rewards, terminated = (
        [getattr(clip, name) for clip in spliced] for name in ("frames", "action", "reward", "terminated")
    )
    stream = encode_clips(
        frames, actions, rewards, terminated, config, tokenizer,
        game=game, fingerprint=fingerprint, error_rate=error_rate, seed=seed,
    )  # fmt: skip
    return unscored(stream)


def play(player: str, clips: Sequence[Shard], rng: np.random.Generator) -> list[Piece]:
    """Let a model play on from recorded pictures; return pieces of what it made of them.

    Plays whose camera moves begin anew; where many of them do, nothing is returned.
    """
    world = World(player, SLOTS, threads=1)
    keys = np.concatenate([clip.action[1:] for clip in clips])
    latest: list[deque[tuple[np.ndarray, int]]] = [deque(maxlen=BEFORE) for _ in range(SLOTS)]
    first: list[np.ndarray] = [np.zeros(0)] * SLOTS

    def begin(slots: np.ndarray) -> None:
        chosen = [clips[i].frames for i in rng.integers(0, len(clips), len(slots))]
        starts = [frames[rng.integers(0, len(frames))] for frames in chosen]
        world.reset(slots.tolist(), starts, rng.integers(0, 2**62, len(slots)).tolist())
        for slot, frame in zip(slots.tolist(), starts, strict=True):
            latest[slot].clear()
            first[slot] = frame

    begin(np.arange(SLOTS))
    pieces: list[Piece] = []
    key, moved = rng.choice(keys, SLOTS), np.zeros(SLOTS, bool)
    for step in range(1, STEPS + 1):
        key = np.where(rng.random(SLOTS) < HOLD, key, rng.choice(keys, SLOTS))
        result = world.step(range(SLOTS), key.tolist())
        scrolled = result.scroll.any(1)
        over = result.terminated | scrolled
        for slot in (~over).nonzero()[0].tolist():
            latest[slot].append((result.frames[slot], int(key[slot])))
            if len(latest[slot]) == BEFORE and (step + slot) % EVERY == 0:
                frames, actions = zip(*latest[slot], strict=True)
                pieces.append((np.stack([first[slot], *frames]), np.array([0, *actions], np.uint8)))
        if over.any():
            begin(over.nonzero()[0])
        moved |= scrolled
        if step == EVERY and moved.mean() > STILL:
            pieces.clear()
            break
    world.close()
    return pieces


def splice(
    pieces: Sequence[Piece], clips: Sequence[Shard], config: ModelConfig, rng: np.random.Generator
) -> list[Shard]:
    """Return at most KEPT clips: pieces that are ruins, each with the nearest picture and what was recorded after."""
    recorded = Recorded(clips, config.tokenizer.cell_size, config.stream.tolerance)
    common, goes_on = recorded.common(rng), recorded.left >= AFTER
    most = MOST_WRONG * config.stream.view_cells**2
    found: list[Shard] = []
    for i in rng.permutation(len(pieces)).tolist() if goes_on.any() else []:
        frames, actions = pieces[i]
        near, wrong = recorded.nearest(frames[-1], goes_on)
        if not common < wrong <= most:
            continue
        begin, real = int(recorded.time[near]), clips[recorded.clip[near]]
        later = slice(begin + 1, begin + AFTER)
        quiet = np.zeros(BEFORE + 2)  # the step to the nearest picture is none of its game, either
        found.append(
            Shard(
                frames=np.concatenate([frames, real.frames[begin : begin + AFTER]]),
                first=(np.arange(BEFORE + 1 + AFTER) == 0).astype(np.uint8),
                action=np.concatenate([actions, actions[-1:], real.action[later]]),
                reward=np.concatenate([quiet, real.reward[later]]),
                terminated=np.concatenate([quiet, real.terminated[later]]),
                truncated=np.zeros(BEFORE + 1 + AFTER),
            )
        )
        if len(found) == KEPT:
            break
    return found


def unscored(stream: Stream) -> Stream:
    """Take what the model made out of the loss; leave out clips where it or the repair looks like a moving camera."""
    time = np.arange(len(stream.action)) - np.repeat(stream.clip_ptr[:-1], np.diff(stream.clip_ptr))
    made = time < BEFORE
    moved = stream.scroll.any(1) & (time <= BEFORE)
    of_model = np.repeat(made, np.diff(stream.update_ptr))
    stream = dataclasses.replace(
        stream,
        update_flag=np.where(of_model, np.uint8(WRONG_CODE | AFTER_DROP), stream.update_flag),
        end_flag=np.where(made, np.uint8(AFTER_DROP | NO_OUTCOME), stream.end_flag),
    )
    return stream.keep(np.add.reduceat(moved, stream.clip_ptr[:-1]) == 0)
