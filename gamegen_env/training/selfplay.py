"""Self-rollouts: streams in which the model plays some of the steps itself.

What a model meets when it plays on alone is not what it learned from: its own small errors,
then errors upon these. So now and then it takes a run of steps of a recording under the true
keys, and the closed-loop encoder, whose canvas shows what came of it, goes on from there: its
next updates are the repair. The model's steps carry no loss, the repair does. Long runs, in
some of the clips, show what short ones cannot: that a game does not stay without its ball.

Source: DAgger, arXiv 1011.0686, with the encoder as the expert. The model's steps that move the
camera are undone: from a view that is not where the game's is, everything would be repair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gamegen_env.closed_loop import Updates, noise
from gamegen_env.config import ModelConfig
from gamegen_env.engine.base import StepBatch, make_engine
from gamegen_env.stream import Step
from gamegen_env.transformer import Transformer

RUNS = (4, 4, 32)  # steps that the model plays in a row; each clip has one of these
SLOTS = 32


class SelfPlay:
    """The `codec.Player` that a trained model is."""

    def __init__(
        self, config: ModelConfig, transformer: Transformer, share: float, *, num_slots: int = SLOTS,
        seed: int = 0, temperature: float = 0.5, engine: str = "auto", patches: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Set up an engine.

        Args:   share: of the steps that the model plays, in RUNS; num_slots: clips encoded side by side;
                patches: as `Engine`.
        Raises: ValueError unless 0 < share < 1.
        """
        if not 0 < share < 1:
            raise ValueError(f"share: expected 0 < share < 1, got {share!r}")
        self.share, self.seed, self.num_slots = share, seed, num_slots
        self.engine = make_engine(engine, config, transformer, num_slots, temperature=temperature, patches=patches)

    def start(self, slots: np.ndarray, clips: np.ndarray, codes: np.ndarray) -> None:
        """Begin clips from their first maps (n, n_cells)."""
        for slot, clip, first in zip(slots.tolist(), clips.tolist(), codes, strict=True):
            self.engine.reset(slot, first, (self.seed << 32) + clip)

    def turns(self, clips: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Tell whose steps are the model's, (n,) bool."""
        run = np.array(RUNS)[noise(self.seed, clips) % np.uint64(len(RUNS))]
        drawn = noise(self.seed, clips, (times - 1) // run) & np.uint64(0xFFFFFFFF)
        return drawn < self.share * 2**32

    def play(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, StepBatch]:
        """Play one step of each slot. Returns: which of them (n,) bool hold; the others are undone; and the steps."""
        states = [self.engine.save(slot) for slot in slots.tolist()]
        batch = self.engine.step(slots.tolist(), actions.tolist())
        moved = np.asarray(batch.scroll.any(1))
        for i in moved.nonzero()[0]:
            self.engine.load(int(slots[i]), states[i])
        return ~moved, batch

    def carry(self, slots: np.ndarray, updates: Updates) -> None:
        """Tell the model what the things of its steps carried along."""
        if not self.engine.config.stream.things:
            return
        self.engine.carry(np.repeat(slots, np.diff(updates.carried_ptr)), updates.carried_cell, updates.carried_motion)

    def watch(self, slots: np.ndarray, steps: Sequence[Step]) -> None:
        """Let the model see the steps that the encoder took, in its own words."""
        stream = self.engine.config.stream
        for slot, step in zip(slots.tolist(), steps, strict=True):
            self.engine.observe(slot, step if stream.things else step.unfolded(stream.n_vectors))
