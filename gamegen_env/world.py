"""The flow, whole and one way: a picture becomes a game.

    picture --image--> frame --tokenizer--> tile map --> engine.step(actions)
                                                          | transformer, KV cache, sampler
    pixels <-- frame <-- canvas <-- updates, reward, done <

A world is a batch of slots, one game each; slots never influence each other. It knows
nothing of Gymnasium, keyboards or time limits: those sit on top (`env.py`, `vector_env.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen_env.canvas import Canvas
from gamegen_env.cell_cache import CellCache
from gamegen_env.cell_decoder import coder_for
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.device_canvas import DeviceCanvas
from gamegen_env.engine import Engine, StepBatch, make_engine
from gamegen_env.stream import Step

CACHE_BITS = 14  # 2 MB


@dataclass(frozen=True)
class StepResult:
    """One game step of n slots, in the order asked for. Arrays are the caller's own."""

    frames: np.ndarray  # (n, H, W, 3) uint8
    rewards: np.ndarray  # (n,) float32 in {-1, 0, 1}
    terminated: np.ndarray  # (n,) bool
    tokens: np.ndarray  # (n,) int32, decoded tokens, ACT and END included
    updated: np.ndarray  # (n,) int32, cells repainted
    scroll: np.ndarray  # (n, 2) int32, pixels x, y that the view moved
    ptr: np.ndarray  # (n + 1,) int64: the cells of game i are cells[ptr[i]:ptr[i + 1]]
    cells: np.ndarray  # (ptr[-1],) int64, cells of the tile map that were repainted


def paint(engine: Engine, canvas: Canvas | DeviceCanvas, slots: np.ndarray, batch: StepBatch) -> StepBatch:
    """Show the steps that an engine has decoded; what their things carry along (`things.py`), it is told.

    Args:    slots: (n,) int64, those that stepped.
    Returns: the steps, with what was carried along behind a slot's own updates.
    """
    along = canvas.carried(slots, batch.scroll, batch.ptr, batch.cells, batch.motions)
    canvas.apply(slots, batch.scroll, batch.ptr, batch.cells, batch.codes, batch.motions)
    if not len(along.cells):
        return batch
    codes = engine.carry(slots[along.row], along.cells, along.motions)
    canvas.carry(slots, along, codes)
    return batch.with_carried(along.row, along.cells, codes, along.motions)


class World:
    """Games in `num_slots` slots, all from one model."""

    def __init__(
        self,
        model: str = "pocket",
        num_slots: int = 1,
        *,
        engine: str = "auto",
        device: str = "cpu",
        temperature: float = 0.5,
        kv_bits: int = 4,
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Load a model (once per process) and allocate slots.

        Args:   model: name of a packaged model or path of a checkpoint folder. engine:
                "auto", "native", "torch" or "reference". temperature: >= 0, 0 = most likely token.
                kv_bits: 4 or 16, precision of the KV cache. precision: of the arithmetic, "int8", "int4"
                or "float32". threads: of the native engine. Both by default as the engine likes best.
        Raises: FileNotFoundError or ValueError, naming what was expected and what came.
        """
        checkpoint = load_checkpoint(model)
        self.config, self.fingerprint = checkpoint.config, checkpoint.fingerprint
        coder = CellCache(coder_for(checkpoint.tokenizer), checkpoint.config.tokenizer.cell_size, CACHE_BITS)
        self.engine = make_engine(
            engine,
            checkpoint.config,
            checkpoint.transformer,
            num_slots,
            device=device,
            temperature=temperature,
            kv_bits=kv_bits,
            precision=precision,
            threads=threads,
            patches=coder.patches() if checkpoint.config.stream.max_motion else None,
        )
        self.canvas: Canvas | DeviceCanvas
        if self.engine.name == "cuda":
            self.canvas = DeviceCanvas(checkpoint.config, checkpoint.tokenizer, num_slots)
        else:
            self.canvas = Canvas(checkpoint.config, coder, num_slots)
        self.num_slots, self.engine_name = num_slots, self.engine.name
        self.frame_shape = (checkpoint.config.frame_size, checkpoint.config.frame_size, 3)

    def reset(self, slots: Sequence[int], images: Sequence[np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Start new games from pictures.

        Args:    images: per slot (H, W, 3) uint8, already fitted to `frame_shape`;
                 seeds: per slot, in [0, 2**63), of the sampler's noise.
        Returns: first frames (n, H, W, 3) uint8: the pictures themselves.
        """
        if not len(slots) == len(images) == len(seeds):
            raise ValueError(
                f"expected as many images and seeds as slots, {len(slots)}, got {len(images)}, {len(seeds)}"
            )
        self.engine.check_slots(slots)
        at = np.asarray(slots, np.int64)
        self.canvas.reset(at, np.stack([np.asarray(image) for image in images]))
        for slot, seed in zip(slots, seeds, strict=True):
            self.engine.reset(slot, self.canvas.codes[slot], seed)
        return self.canvas.view(at)

    def step(self, slots: Sequence[int], actions: Sequence[int]) -> StepResult:
        """Advance games by one step each. Args: actions: one action token (`actions.py`) per slot."""
        return self._shown(np.asarray(slots, np.int64), self.engine.step(slots, actions))

    def send(self, slots: Sequence[int], actions: Sequence[int]) -> None:
        """Let games begin a step each, so that a slow one holds no other; `recv` returns them as they finish.

        Raises: ValueError on a game whose step is under way already; nothing was sent then.
        """
        self.engine.send(slots, actions)

    def recv(self, min_count: int = 1) -> tuple[np.ndarray, StepResult]:
        """Return at least `min_count` of the games that were sent, and what happened in them, as `step` tells it.

        Returns: slots (n,) int64, and their results in that order.
        Raises:  ValueError unless 1 <= min_count <= games whose step is under way.
        """
        at, batch = self.engine.recv(min_count)
        return at, self._shown(at, batch)

    def _shown(self, at: np.ndarray, batch: StepBatch) -> StepResult:
        batch = paint(self.engine, self.canvas, at, batch)
        return StepResult(
            frames=self.canvas.view(at),
            rewards=(batch.reward_class - 1).astype(np.float32),
            terminated=batch.done,
            tokens=batch.tokens.astype(np.int32),
            updated=np.diff(batch.ptr).astype(np.int32),
            scroll=batch.scroll.astype(np.int32),
            ptr=batch.ptr,
            cells=batch.cells,
        )

    def observe(self, slots: Sequence[int], steps: Sequence[Step], frames: np.ndarray | None = None) -> np.ndarray:
        """Let games take steps that are known, from a coded recording (`codec.py`), instead of decoding them.

        Args:    frames: (n, H, W, 3) uint8, what was really seen after the steps; stays on screen, as the seed
                 picture does, where later steps do not change it. Default: what the steps' codes look like.
        Returns: frames after the steps (n, H, W, 3) uint8.
        Raises:  ValueError if a step does not fit its game.
        """
        at = np.asarray(slots, np.int64)
        for slot, step in zip(slots, steps, strict=True):
            self.engine.observe(slot, step)
            self.canvas.apply(np.array([slot]), np.array([step.scroll]), *step.painted())
        if frames is not None:
            self.canvas.show(at, frames)
        return self.canvas.view(at)

    def observations(self) -> Any:
        """Return what all slots show, (num_slots, H, W, 3) uint8 in the GPU's memory, for DLPack.

        Raises: RuntimeError on an engine that plays on a CPU.
        """
        if not isinstance(self.canvas, DeviceCanvas):
            raise RuntimeError(
                f"observations on the device: expected engine 'cuda' (device=\"cuda\"), got {self.engine_name!r}, "
                "whose frames are NumPy arrays already"
            )
        return self.canvas.observations()

    def save(self, slot: int) -> dict[str, Any]:
        """Copy a slot's whole state: plain arrays and strings, fit for pickle, in any process."""
        return {
            "fingerprint": self.fingerprint,
            "engine": self.engine_name,
            "canvas": self.canvas.save(slot),
            "context": self.engine.save(slot),
        }

    def load(self, slot: int, state: dict[str, Any]) -> None:
        """Put a saved state into a slot; the game goes on exactly as it would have there.

        Raises: ValueError if the state is of another model, engine or KV precision; the slot is then untouched.
        """
        for name, here in (("fingerprint", self.fingerprint), ("engine", self.engine_name)):
            if state.get(name) != here:
                raise ValueError(f"state: expected {name} {here!r}, got {state.get(name)!r}")
        before = self.canvas.save(slot)
        self.canvas.load(slot, state["canvas"])
        try:
            self.engine.load(slot, state["context"])
        except ValueError:
            self.canvas.load(slot, before)
            raise

    def close(self) -> None:
        """Give the slots' memory back; a second call does nothing. The world cannot be used afterwards."""
        self.__dict__.pop("engine", None)
        self.__dict__.pop("canvas", None)
