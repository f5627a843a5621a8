"""The canvas in GPU memory: the pixels of `canvas.Canvas`, painted where a policy on the GPU can read them.

A reset, which needs the tokenizer's encoder, is computed by a `Canvas` on the host and loaded; steps stay on the
device (`kernels/cuda/canvas.cuh`). Pixels are those of a `Canvas` whose decoder is `cell_decoder.CellDecoder`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gamegen_env.canvas import Canvas
from gamegen_env.cell_decoder import CellDecoder, decoder_weights
from gamegen_env.config import ModelConfig
from gamegen_env.things import Along
from gamegen_env.tokenizer import Tokenizer


class DeviceCanvas:
    """Pixel state of `num_slots` games; methods and states as those of `Canvas`.

    Attributes: codes: (B, M * M) int32, the tile maps, on the host.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, num_slots: int, *, emulate: bool = False) -> None:
        """Allocate on the GPU. Args: emulate: on the host instead, for tests.

        Raises: ValueError on a decoder that is too wide; ImportError or RuntimeError naming what is missing.
        """
        from gamegen_env.engine.cuda import library  # not where only the CPU's PyTorch engine was built

        s, cell_size = config.stream, config.tokenizer.cell_size
        self._host = Canvas(config, CellDecoder(tokenizer), 1)
        self._device: Any = library(emulate).Canvas(
            decoder_weights(tokenizer),
            cell_size,
            num_slots,
            s.map_cells,
            s.view_cells,
            s.memory_per_cell,
            s.max_motion,
            s.sprites,
            s.things,
        )
        self.num_slots, self.frame_size, self.n_vectors = num_slots, config.frame_size, s.n_vectors
        self.things = s.things
        self.codes = np.zeros((num_slots, s.n_cells), np.int32)

    def reset(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Show new pictures. Args and errors as `Canvas.reset`."""
        if len(frames) != len(slots):
            raise ValueError(f"frames: expected {len(slots)}, got {len(frames)}")
        for slot, frame in zip(slots, frames, strict=True):
            self._host.reset(np.zeros(1, np.int64), frame[None])
            self.load(int(slot), self._host.save(0))

    def show(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Put true pixels into the views. Args and errors as `Canvas.show`."""
        if len(frames) != len(slots):
            raise ValueError(f"frames: expected {len(slots)}, got {len(frames)}")
        for slot, frame in zip(slots, frames, strict=True):
            self._host.load(0, self.save(int(slot)))
            self._host.show(np.zeros(1, np.int64), frame[None])
            self.load(int(slot), self._host.save(0))

    def apply(
        self,
        slots: np.ndarray,
        scrolls: np.ndarray,
        ptr: np.ndarray,
        cells: np.ndarray,
        codes: np.ndarray,
        motions: np.ndarray | None = None,
    ) -> None:
        """Perform one game step on the device. Args as `Canvas.apply`; ValueError on numbers that it cannot have."""
        if motions is None:
            motions = np.full(len(cells), -1)
        numbers = [np.ascontiguousarray(array, np.int64) for array in (slots, scrolls, ptr, cells, codes, motions)]
        self._device.apply(*numbers)
        self.codes[np.repeat(numbers[0], np.diff(ptr)), numbers[3]] = codes

    def carried(
        self, slots: np.ndarray, scrolls: np.ndarray, ptr: np.ndarray, cells: np.ndarray, motions: np.ndarray
    ) -> Along:
        """Find what things carry along, as `Canvas.carried` does; the pixels stay on the device until `carry`."""
        none = np.zeros(0, np.int64)
        if not self.things or not (motions >= 2 * self.n_vectors).any():
            return Along(none, none, none, none, None)
        numbers = [np.ascontiguousarray(array, np.int64) for array in (slots, scrolls, ptr, cells, motions)]
        along = self._device.carried(*numbers)
        row, cell = (along >= 0).nonzero()
        update = along[row, cell].astype(np.int64)
        return Along(row, cell, motions[update] - self.n_vectors, update, None)

    def carry(self, slots: np.ndarray, along: Along, codes: np.ndarray) -> None:
        """Show what the last `carried` found. Args as `Canvas.carry`."""
        slot = np.asarray(slots)[along.row]
        self._device.carry(*(np.ascontiguousarray(array, np.int64) for array in (slot, along.cells, codes)))
        self.codes[slot, along.cells] = codes

    def view(self, slots: np.ndarray) -> np.ndarray:
        """Copy what is on screen to the host: (n, H, W, 3) uint8."""
        return self._device.view(np.ascontiguousarray(slots, np.int64))

    def observations(self) -> Any:
        """Return what all slots show, (B, H, W, 3) uint8 in device memory, as an object that DLPack can read.

        It is the canvas's own memory: the next step or reset overwrites it.
        """
        return self._device.observations()

    def save(self, slot: int) -> dict[str, np.ndarray]:
        """Copy one slot's state, as `Canvas.save` does."""
        state: dict[str, np.ndarray] = self._device.save(int(slot))
        return state | {"original": state["original"].astype(bool)}

    def load(self, slot: int, state: dict[str, np.ndarray]) -> None:
        """Put a state from `save`, this one's or `Canvas`'s, into a slot.

        Raises: ValueError if an array is missing, unknown, or of another shape, dtype or range.
        """
        self._host.load(0, state)
        plain = {name: np.ascontiguousarray(array) for name, array in state.items()}
        self._device.load(int(slot), plain | {"original": plain["original"].astype(np.uint8)})
        self.codes[slot] = state["codes"]
