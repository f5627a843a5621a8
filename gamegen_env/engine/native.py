"""The `native` engine: the token loop in C++ (`kernels/`), no PyTorch while it plays.

Persistent memory per slot is the 4-bit ring of the last `window` tokens; attention reads it
as it is. A step of all slots is one call without the interpreter's lock. Results depend on
neither batch nor threads nor instruction set, to the bit.

In precision "int8", weights (one scale per output) and activations (one per row) are 8-bit
integers and their products exact; "int4" is the same with 4-bit weights (one scale per 32)
in the blocks, for models larger than the caches; "float32" computes what the `torch` engine computes, with
sums in another order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gamegen_env.config import ModelConfig
from gamegen_env.engine import _native
from gamegen_env.engine.base import INTEGERS, Engine, State, StepBatch
from gamegen_env.sampling import gumbel_table
from gamegen_env.transformer import Transformer

HALVES = {"kv_half", "kv_scale_minimum"}  # arrays of a state that are fp16; C++ counts them as 16-bit integers
PRECISIONS = ("int8", "int4", "float32")
FEW_SLOTS = 4  # below that, threads cost more than they give


@dataclass(frozen=True)
class Counts:
    """Passes through the transformer, summed over slots; tokens guessed, and how many of them were right."""

    passes: int
    drafted: int
    right: int


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batch(arrays: tuple[np.ndarray, ...]) -> StepBatch:
    """Name what a binding returns of finished steps."""
    scroll, ptr, cells, codes, motions, reward_class, done, tokens = arrays
    return StepBatch(scroll, ptr, cells, codes, motions, reward_class, done.astype(bool), tokens)


class NativeEngine(Engine):
    """Slots in C++; their integers are the arrays of the base class."""

    name = "native"

    def __init__(
        self,
        config: ModelConfig,
        transformer: Transformer,
        num_slots: int,
        *,
        temperature: float = 1.0,
        kv_bits: int = 4,
        precision: str = "int8",
        threads: int | None = None,
        isa: str = "auto",
        patches: np.ndarray | None = None,
    ) -> None:
        """Pack the weights.

        Args:   as `Engine`; precision: "int8", "int4" or "float32"; threads: >= 1, default one per core, or
                OMP_NUM_THREADS if that is set, and one for fewer than FEW_SLOTS slots; isa: "auto" or one of
                `available_isas()`.
        Raises: ValueError on values outside these.
        """
        super().__init__(config, transformer, num_slots, temperature=temperature, kv_bits=kv_bits, patches=patches)
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {PRECISIONS}, got {precision!r}")
        if threads is None:
            wanted = os.environ.get("OMP_NUM_THREADS", "")
            threads = int(wanted) if wanted.isdigit() and int(wanted) > 0 else cores()
            threads = 1 if num_slots < FEW_SLOTS else min(threads, num_slots)
        if not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise ValueError(f"threads: expected 1..1024, got {threads!r}")
        for wrong in _native.wrong_isas():
            warnings.warn(f"instruction set {wrong}: its products are wrong on this CPU: not used", stacklevel=2)
        self.precision = precision
        self._engine = _native.Engine(
            *self._described(transformer),
            num_slots,
            float(temperature),
            kv_bits,
            precision,
            isa,
            threads,
        )  # fmt: skip

    def _described(self, transformer: Transformer) -> tuple[dict, dict, dict, np.ndarray]:
        """Return what a binding is told: the config's numbers, weights, the slots' shared integers, the noise table."""
        s, t = self.config.stream, self.config.transformer
        numbers = {
            "map_cells": s.map_cells, "view_cells": s.view_cells, "max_scroll": s.max_scroll,
            "cell_size": self.config.tokenizer.cell_size, "n_codes": self.config.tokenizer.codebook_size,
            "n_actions": t.n_actions, "n_layers": t.n_layers, "d_model": t.d_model, "n_heads": t.n_heads,
            "n_kv_heads": t.n_kv_heads, "d_ff": t.d_ff, "window": t.window, "pointer": t.pointer,
            "ballistics": t.ballistics, "anchor": t.anchor, "sprites": s.sprites,
            "things": s.things, "max_motion": s.max_motion,
        }  # fmt: skip
        weights = {name: tensor.contiguous().numpy() for name, tensor in transformer.state_dict().items()}
        if self.motions is not None:
            weights["patches"] = self.motions.patches.astype(np.float32)
        return numbers, weights, {name: getattr(self, name) for name in INTEGERS}, gumbel_table().numpy()

    @property
    def isa(self) -> str:
        """Instruction set in use."""
        return str(self._engine.isa)

    @property
    def threads(self) -> int:
        return int(self._engine.threads)

    def counts(self) -> Counts:
        """Return what decoding has cost so far, keyframes and known steps apart."""
        return Counts(*self._engine.counts())

    def draft(self, when: str) -> None:
        """Guess updates and check several in one pass, "auto" (where it pays), "never" or "always".

        The games are the same, to the bit. Raises: ValueError on another word.
        """
        self._engine.set_drafting(when)

    def bytes_per_slot(self, slot: int = 0) -> int:
        """Return the memory that a slot holds between steps."""
        return int(self._engine.bytes(slot))

    def _clear(self, slot: int) -> None:
        self._engine.clear(slot)

    def _prefill(self, slot: int, rows: np.ndarray) -> None:
        self._engine.prefill(slot, np.ascontiguousarray(rows, np.int64))

    def _step(self, slots: Sequence[int], actions: Sequence[int]) -> StepBatch:
        return _batch(self._engine.step([int(slot) for slot in slots], [int(action) for action in actions]))

    def _send(self, slots: Sequence[int], actions: Sequence[int]) -> None:
        self._engine.send([int(slot) for slot in slots], [int(action) for action in actions])
        super()._send(slots, actions)

    def _recv(self, min_count: int) -> tuple[np.ndarray, StepBatch]:
        slots, steps = self._engine.receive(min_count)
        return slots, _batch(steps)

    def load(self, slot: int, state: State) -> None:
        self.check_slots([slot])
        before = self.save(slot)
        self._check_integers(state)
        try:
            super().load(slot, state)
        except ValueError:
            super().load(slot, before)
            raise

    def _check_integers(self, state: State) -> None:
        """Refuse numbers that no slot can have: in C++ they would be addresses."""
        size, many = self.grammar.size, 2**31 - 1
        limits = {
            "codes": self.config.tokenizer.codebook_size - 1, "anchor": self.config.tokenizer.codebook_size - 1,
            "origin": size - 1, "camera": self.grammar.n_scrolls - 1, "seed": 2**63 - 1,
            "position": 2**62, "time": many, "since_keyframe": many,
        }  # fmt: skip
        for name, limit in limits.items():
            array = np.asarray(state[name]) if name in state else np.zeros(1, np.int64)
            if array.size and (array.min() < 0 or array.max() > limit):
                raise ValueError(f"state[{name!r}]: expected 0..{limit}, got {array.min()}..{array.max()}")

    def _save_context(self, slot: int) -> State:
        context: State = self._engine.save(slot)
        return context | {name: context[name].view(np.float16) for name in HALVES & context.keys()}

    def _load_context(self, slot: int, state: State) -> None:
        context = {k: np.ascontiguousarray(v) for k, v in state.items() if k.startswith(("kv_", "held_", "latest_"))}
        self._engine.load(slot, context | {name: context[name].view(np.uint16) for name in HALVES & context.keys()})
