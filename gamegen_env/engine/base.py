"""What every engine is: slots that reset, step, save and load. No pixels, no tokenizer.

A slot is one game. Its stream is `keyframe step* (keyframe step*)*`; an engine decides,
token by token, what the step's events, codes, reward class and termination are. This
class keeps the integers of every slot and the rules that all engines share; a subclass
adds where hidden states come from.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gamegen_env.config import ModelConfig
from gamegen_env.engine.decide import Decoded
from gamegen_env.motion import Motions
from gamegen_env.stream import Grammar, Step
from gamegen_env.transformer import Transformer

State = dict[str, np.ndarray]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepBatch:
    """One game step of n slots, in the order asked for. Updates of slot i: ptr[i]:ptr[i+1]."""

    scroll: np.ndarray  # (n, 2) int64, pixels x, y
    ptr: np.ndarray  # (n + 1,) int64
    cells: np.ndarray  # (ptr[-1],) int64, ascending within a slot
    codes: np.ndarray  # (ptr[-1],) int64
    motions: np.ndarray  # (ptr[-1],) int64, -1 where a cell is repainted
    reward_class: np.ndarray  # (n,) int64 in 0..2
    done: np.ndarray  # (n,) bool
    tokens: np.ndarray  # (n,) int64, tokens of the step, ACT and END included

    def with_carried(self, row: np.ndarray, cells: np.ndarray, codes: np.ndarray, motions: np.ndarray) -> StepBatch:
        """Return the steps with what things carry along behind a slot's own updates: cells (k,) of slot `row` (k,)."""
        at = self.ptr[1:][row]
        ptr = self.ptr + np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(self.ptr) - 1))])
        more = {"cells": cells, "codes": codes, "motions": motions}
        return replace(self, ptr=ptr, **{name: np.insert(getattr(self, name), at, x) for name, x in more.items()})


class Engine(ABC):
    """A batch of slots that advance by whole game steps."""

    name: str

    def __init__(
        self,
        config: ModelConfig,
        transformer: Transformer,
        num_slots: int,
        *,
        temperature: float = 1.0,
        kv_bits: int = 4,
        patches: np.ndarray | None = None,
    ) -> None:
        """Allocate slots.

        Args:   transformer: eval mode; num_slots: >= 1; temperature: >= 0, of events and codes
                (reward and termination are drawn at 1), 0 = most likely of all; kv_bits: 4 or
                16, precision of committed keys and values; patches: (codebook_size, c, c, 3) uint8, what
                codes look like (`Tokenizer.patches`): for models whose updates may move the picture.
        Raises: ValueError on values outside these.
        """
        if not isinstance(num_slots, int) or num_slots < 1:
            raise ValueError(f"num_slots: expected an integer >= 1, got {num_slots!r}")
        if not isinstance(temperature, int | float) or not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature: expected a finite number >= 0, got {temperature!r}")
        if kv_bits not in (4, 16):
            raise ValueError(f"kv_bits: expected 4 or 16, got {kv_bits!r}")
        if config.stream.max_motion and patches is None:
            raise ValueError("patches: expected what codes look like, since this model moves cells, got none")
        self.motions = Motions(config, patches) if config.stream.max_motion and patches is not None else None
        self.config, self.transformer = config, transformer
        self.num_slots, self.temperature, self.kv_bits = num_slots, float(temperature), kv_bits
        self.grammar = Grammar(config)
        n_cells = config.stream.n_cells
        self.codes = np.zeros((num_slots, n_cells), np.int64)
        self.anchor = np.zeros((num_slots, n_cells), np.int64)  # `anchor.py`
        self.origin = np.zeros((num_slots, 2), np.int64)
        self.camera = np.full(num_slots, self.grammar.camera(0, 0), np.int64)  # how the last step moved it
        self.seed = np.zeros(num_slots, np.int64)
        self.position = np.zeros(num_slots, np.int64)  # tokens in the stream so far
        self.time = np.zeros(num_slots, np.int64)  # game steps since reset
        self.since_keyframe = np.zeros(num_slots, np.int64)  # step tokens since the last keyframe
        self._before = self.codes.copy() if config.stream.things else self.codes  # the maps when the last steps began
        self._under_way: dict[int, int] = {}  # slots whose step was sent and not received yet: its action

    def reset(self, slot: int, codes: np.ndarray, seed: int) -> None:
        """Start a new game from a tile map.

        Args:   codes: (n_cells,) integer in [0, codebook_size); seed: in [0, 2**63).
        Raises: ValueError on a wrong shape, range, slot or seed; the slot is then untouched.
        """
        self.check_slots([slot])
        codes = np.asarray(codes)
        size, n_cells = self.config.tokenizer.codebook_size, self.config.stream.n_cells
        if codes.shape != (n_cells,) or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes: expected ({n_cells},) integers, got {codes.shape} {codes.dtype}")
        if codes.min() < 0 or codes.max() >= size:
            raise ValueError(f"codes: expected 0..{size - 1}, got {codes.min()}..{codes.max()}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed: expected 0..2**63-1, got {seed}")
        self.codes[slot], self.anchor[slot], self.origin[slot], self.seed[slot] = codes, codes, 0, seed
        self.camera[slot] = self.grammar.camera(0, 0)
        self.position[slot] = self.time[slot] = self.since_keyframe[slot] = 0
        self._clear(slot)
        self._keyframe(slot)

    def step(self, slots: Sequence[int], actions: Sequence[int]) -> StepBatch:
        """Advance slots by one game step each.

        Args:   slots: distinct; actions: one action token per slot.
        Raises: ValueError on bad slots or actions; nothing has moved then.
        """
        self._begin(slots, actions)
        batch = self._step(slots, actions)
        self._drop_anchors(slots, batch.scroll)
        return batch

    def send(self, slots: Sequence[int], actions: Sequence[int]) -> None:
        """Let slots begin a step each, the first half of `step`; they are busy until `recv` returns them.

        A busy slot can neither step nor be reset, saved, loaded or shown a step; others can.

        Args:   as `step`.
        Raises: ValueError on bad or busy slots or bad actions; nothing was sent then.
        """
        self._begin(slots, actions)
        self._send(slots, actions)

    def recv(self, min_count: int = 1) -> tuple[np.ndarray, StepBatch]:
        """Decode until enough of the sent steps are finished, and return all that are.

        Their games are those that `step` plays, to the bit, whatever is sent and received when; which slots come
        first, and whether more than `min_count` come, is the engine's choice.

        Returns: slots (n,) int64 and their steps in that order, n >= min_count.
        Raises:  ValueError unless 1 <= min_count <= the number of busy slots.
        """
        busy = len(self._under_way)
        if not isinstance(min_count, int | np.integer) or not 1 <= min_count <= busy:
            raise ValueError(f"min_count: expected 1 to {busy} slots whose step was sent, got {min_count!r}")
        slots, batch = self._recv(int(min_count))
        for slot in slots.tolist():
            del self._under_way[slot]
        self._drop_anchors(slots, batch.scroll)
        return slots, batch

    def busy(self) -> list[int]:
        """Return the slots whose step was sent and not received yet, the oldest first."""
        return list(self._under_way)

    def _begin(self, slots: Sequence[int], actions: Sequence[int]) -> None:
        """Refuse what cannot step; where a keyframe is due, append it."""
        self.check_slots(slots)
        n_actions = self.config.transformer.n_actions
        if len(actions) != len(slots):
            raise ValueError(f"actions: expected {len(slots)}, got {len(actions)}")
        for action in actions:
            if not 0 <= action < n_actions:
                raise ValueError(f"action token: expected 0..{n_actions - 1}, got {action}")
        for slot in slots:
            if self.position[slot] == 0:
                raise ValueError(f"slot {slot}: expected a reset before the first step")
        for slot in slots:
            if self.since_keyframe[slot] > self.config.updates_per_keyframe:
                self._keyframe(slot)
        if self.config.stream.things:
            self._before[slots] = self.codes[slots]

    def _send(self, slots: Sequence[int], actions: Sequence[int]) -> None:
        """Take note of checked slots and actions."""
        self._under_way.update(zip(map(int, slots), map(int, actions), strict=True))

    def _recv(self, min_count: int) -> tuple[np.ndarray, StepBatch]:
        """Return at least `min_count` of the steps under way; here, all of them, decoded now."""
        slots, actions = list(self._under_way), list(self._under_way.values())
        return np.array(slots, np.int64), self._step(slots, actions)

    def observe(self, slot: int, step: Step) -> None:
        """Append a step that is known, as if the engine had decoded it: context for what follows.

        Raises: ValueError if the step does not fit the slot's tile map; the slot is then untouched.
        """
        self.check_slots([slot])
        if self.since_keyframe[slot] > self.config.updates_per_keyframe:
            self._keyframe(slot)
        origin, time = self.origin[slot], int(self.time[slot])
        rows = self.grammar.step_tokens(step, origin, time, int(self.camera[slot]))
        before = self.grammar.keyframe_tokens(self.codes[slot], origin, max(time - 1, 0))
        self.grammar.validate(np.concatenate([before, rows]))
        self._prefill(slot, rows.astype(np.int64))
        _, cells, codes, motions = (x.astype(np.int64) for x in step.painted())
        self._finish(
            [slot],
            [
                Decoded(
                    np.array(step.scroll),
                    cells,
                    codes,
                    motions,
                    step.reward_class,
                    step.done,
                    len(rows),
                    rows[-1, 3:5].astype(np.int64),
                )
            ],
        )
        self._drop_anchors([slot], np.array([step.scroll]))

    def carry(self, slots: np.ndarray, cells: np.ndarray, motions: np.ndarray) -> np.ndarray:
        """Tell the games what the things of their last steps carried along (`things.py`), before the next.

        Args:    slots, cells: (k,) integers, by slot, then by cell; motions: (k,) those of what stands out.
        Returns: the cells' new codes (k,) int64.
        """
        if not len(cells) or self.motions is None:
            return np.zeros(0, np.int64)
        self.check_slots(np.unique(slots).tolist())
        codes = self.motions.moved_codes(self._before[slots], self.anchor[slots], cells, motions).astype(np.int64)
        self.codes[slots, cells] = codes
        for slot in np.unique(slots).tolist():
            mine, origin, time = slots == slot, self.origin[slot], int(self.time[slot]) - 1
            rows = self.grammar.carried_tokens(cells[mine], codes[mine], motions[mine], origin, time)
            self._prefill(slot, rows.astype(np.int64))
            self.position[slot] += len(rows)
            self.since_keyframe[slot] += len(rows)
        return codes

    def save(self, slot: int) -> State:
        """Return a copy of everything that the slot's future depends on."""
        self.check_slots([slot])
        return {name: np.array(getattr(self, name)[slot]) for name in INTEGERS} | self._save_context(slot)

    def load(self, slot: int, state: State) -> None:
        """Put a saved state into a slot, of this engine or another one of the same name and kv_bits.

        Raises: ValueError if the state's arrays are not those of this engine; the slot is then untouched.
        """
        self.check_slots([slot])
        here = self.save(slot)
        if set(state) != set(here):
            raise ValueError(f"state: expected arrays {sorted(here)}, got {sorted(state)}")
        for name, array in here.items():
            got = np.asarray(state[name])
            if got.dtype != array.dtype or (got.shape != array.shape and name != "stream"):
                raise ValueError(f"state[{name!r}]: expected {array.shape} {array.dtype}, got {got.shape} {got.dtype}")
        for name in INTEGERS:
            getattr(self, name)[slot] = state[name]
        self._load_context(slot, state)

    def _finish(self, slots: Sequence[int], results: Sequence[Decoded]) -> StepBatch:
        """Move the slots' integers past their decoded steps and gather what happened."""
        for slot, result in zip(slots, results, strict=True):
            self.codes[slot, result.cells] = result.codes
            self.origin[slot] = result.origin
            self.camera[slot] = self.grammar.camera(*result.scroll.tolist())
            self.position[slot] += result.tokens
            self.since_keyframe[slot] += result.tokens
            self.time[slot] += 1
        return StepBatch(
            scroll=np.array([r.scroll for r in results]).reshape(-1, 2),
            ptr=np.concatenate([[0], np.cumsum([len(r.cells) for r in results])]).astype(np.int64),
            cells=np.concatenate([np.zeros(0, np.int64), *(r.cells for r in results)]),
            codes=np.concatenate([np.zeros(0, np.int64), *(r.codes for r in results)]),
            motions=np.concatenate([np.zeros(0, np.int64), *(r.motions for r in results)]),
            reward_class=np.array([r.reward_class for r in results], np.int64),
            done=np.array([r.done for r in results], bool),
            tokens=np.array([r.tokens for r in results], np.int64),
        )

    def _keyframe(self, slot: int) -> None:
        time = max(int(self.time[slot]) - 1, 0)
        rows = self.grammar.keyframe_tokens(self.codes[slot], self.origin[slot], time, self.anchor[slot])
        self._prefill(slot, rows.astype(np.int64))
        self.position[slot] += len(rows)
        self.since_keyframe[slot] = 0

    def _drop_anchors(self, slots: Sequence[int] | np.ndarray, scroll: np.ndarray) -> None:
        """After a step that moved the views by `scroll` (n, 2): what came on screen is its cells' anchor."""
        if not self.grammar.anchored or not scroll.any():
            return
        moved = scroll.any(1)
        slot = np.asarray(slots)[moved]
        after = self.origin[slot]
        row, cell = self.grammar.appeared((after - scroll[moved]) % self.grammar.size, after).nonzero()
        self.anchor[slot[row], cell] = self.codes[slot[row], cell]

    def check_slots(self, slots: Sequence[int]) -> None:
        """Raise ValueError unless slots are distinct, in range and not busy."""
        if len(set(slots)) != len(slots) or not all(0 <= s < self.num_slots for s in slots):
            raise ValueError(f"slots: expected distinct numbers in 0..{self.num_slots - 1}, got {list(slots)}")
        for slot in slots:
            if slot in self._under_way:
                raise ValueError(f"slot {slot}: expected no step under way, got one that was sent and not received")

    @abstractmethod
    def _clear(self, slot: int) -> None:
        """Forget the slot's stream."""

    @abstractmethod
    def _prefill(self, slot: int, rows: np.ndarray) -> None:
        """Append the known tokens of one keyframe or one step, rows (n, 6) int64, at `position`."""

    @abstractmethod
    def _step(self, slots: Sequence[int], actions: Sequence[int]) -> StepBatch:
        """Decode one step of checked slots and update their integers."""

    @abstractmethod
    def _save_context(self, slot: int) -> State: ...

    @abstractmethod
    def _load_context(self, slot: int, state: State) -> None: ...


BUILD = "Building it needs a C++20 compiler: `pip install -e .` in a clone."
# Arrays of every engine, a row or number per slot: part of a snapshot, shared with the compiled engines.
INTEGERS = ("codes", "anchor", "origin", "camera", "seed", "position", "time", "since_keyframe")


def make_engine(
    name: str,
    config: ModelConfig,
    transformer: Transformer,
    num_slots: int,
    *,
    device: str = "cpu",
    temperature: float = 1.0,
    kv_bits: int = 4,
    precision: str = "auto",
    threads: int | None = None,
    patches: np.ndarray | None = None,
) -> Engine:
    """Build an engine by name.

    Args:   name: "native", "torch", "reference", "cuda", or "auto": what fits the device, on a CPU native, or torch
            with a warning where the native one was not built. device: "cpu", "cuda" (or "cuda:0"), or "auto": a GPU
            that can be used, else the CPU; the log says which. precision: of the arithmetic, "int8", "int4" or
            "float32", or "auto": int8 for native and cuda, float32 for the others, which have nothing else. threads:
            of the native engine, default one per core; the others go by `torch.set_num_threads`. patches: as `Engine`.
    Raises: ValueError naming the known engines, devices or precisions; ImportError if the engine was not built;
            RuntimeError naming what is missing for "cuda": driver, GPU or memory.
    """
    from gamegen_env.engine.cached import CachedEngine
    from gamegen_env.engine.reference import ReferenceEngine

    engines: dict[str, type[Engine]] = {e.name: e for e in (CachedEngine, ReferenceEngine)}
    known = ["auto", "native", "cuda", *engines]
    if name not in known:
        raise ValueError(f"engine: expected one of {known}, got {name!r}")
    if device not in ("cpu", "cuda", "cuda:0", "auto"):
        raise ValueError(
            f"device: expected 'cpu', 'cuda', 'cuda:0' or 'auto', got {device!r}"
            + ("; CUDA_VISIBLE_DEVICES chooses among GPUs" if str(device).startswith("cuda:") else "")
        )
    if name not in ("auto", "cuda") and device not in ("cpu", "auto"):
        raise ValueError(f"device: engine {name!r} runs on 'cpu' only, got {device!r}")
    if name == "cuda" and device == "cpu":
        raise ValueError("device: engine 'cuda' runs on 'cuda' only, got 'cpu', the default")
    if precision not in ("auto", "int8", "int4", "float32"):
        raise ValueError(f"precision: expected 'auto', 'int8', 'int4' or 'float32', got {precision!r}")
    if name == "cuda" or (name == "auto" and device != "cpu"):
        try:
            return _on_gpu(config, transformer, num_slots, temperature, kv_bits, precision, threads, patches)
        except (ImportError, RuntimeError, ValueError) as error:
            if name == "cuda" or device != "auto":
                raise
            _log.info("device 'auto': the CPU, because %s", error)
    if name in ("auto", "native"):
        try:
            from gamegen_env.engine.native import NativeEngine
        except ImportError as error:
            if name == "native" or precision in ("int8", "int4") or threads is not None:
                raise ImportError(f"engine 'native': expected it built, got: {error}; {BUILD}") from None
            warnings.warn(f"the native engine is not built; playing with 'torch', far slower. {BUILD}", stacklevel=2)
            name = "torch"
        else:
            chosen = "int8" if precision == "auto" else precision
            return NativeEngine(
                config,
                transformer,
                num_slots,
                temperature=temperature,
                kv_bits=kv_bits,
                precision=chosen,
                threads=threads,
                patches=patches,
            )
    if precision in ("int8", "int4"):
        raise ValueError(f"precision: engine {name!r} computes in float32 only, got {precision!r}")
    if threads is not None:
        raise ValueError(f"threads: engine {name!r} goes by torch.set_num_threads, got {threads!r}")
    return engines[name](config, transformer, num_slots, temperature=temperature, kv_bits=kv_bits, patches=patches)


def _on_gpu(
    config: ModelConfig, transformer: Transformer, num_slots: int, temperature: float, kv_bits: int, precision: str,
    threads: int | None, patches: np.ndarray | None,
) -> Engine:  # fmt: skip
    from gamegen_env.engine.cuda import CudaEngine

    if threads is not None:
        raise ValueError(f"threads: engine 'cuda' uses none of the host's, got {threads!r}")
    chosen = "int8" if precision == "auto" else precision
    engine = CudaEngine(
        config, transformer, num_slots, temperature=temperature, kv_bits=kv_bits, precision=chosen, patches=patches
    )
    _log.info("playing on a GPU")
    return engine
