"""The canvas: what is on screen, for B slots, as pixels on the torus of the tile map.

It keeps the pixels of the seed picture: a cell that was never updated shows the original,
a cell whose code returns to one it had there shows the original again, a code that the
picture has in one plain colour elsewhere is painted in that, and only other new content
comes from the tokenizer's decoder. What was decoded is never remembered: it bears traces
of what stood beside it then, which would stay as trails. Pixels of a cell that is not
updated never change. No model and no grammar: it trusts the updates it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Protocol

import numpy as np

from gamegen_env.config import ModelConfig
from gamegen_env.motion import Motions, stands_out
from gamegen_env.things import Along, hanging

Place = tuple[int, slice, slice]

_STATE = ("codes", "pixels", "original", "origin", "memory_codes", "memory_pixels", "memory_next")


class CellCoder(Protocol):
    """The part of the tokenizer that the canvas and the codec rely on."""

    def encode_cells(self, patches: np.ndarray) -> np.ndarray: ...

    def decode_cells(self, codes: np.ndarray) -> np.ndarray: ...

    def patches(self) -> np.ndarray: ...


@cache
def view_spans(origin: int, view: int, size: int) -> tuple[tuple[slice, slice], ...]:
    """Cut one axis of the view at the torus seam: (slice of the torus, slice of the view) pairs."""
    first = min(view, size - origin)
    spans = [(slice(origin, origin + first), slice(0, first))]
    if first < view:
        spans.append((slice(0, view - first), slice(first, view)))
    return tuple(spans)


class Canvas:
    """Pixel state of `num_slots` games.

    Attributes (M = map_cells, c = cell_size, m = memory_per_cell, B slots):
        codes: (B, M * M) int32.
        pixels: (B, M * c, M * c, 3) uint8, the torus.
        original: (B, M * M) bool, the cell shows pixels of a true picture, not decoded ones.
        origin: (B, 2) int32, the view's top left corner (x, y).
        memory_codes: (B, M * M, m) int32, -1 where empty; memory_pixels: (B, M * M, m, c, c, 3)
            uint8; memory_next: (B, M * M) int32, the entry to be replaced next.
        anchors: as pixels, what each cell showed at the reset, or when all of it had come on screen (`anchor.py`);
            without sprites nobody asks, and it is `pixels`.
    """

    def __init__(self, config: ModelConfig, tokenizer: CellCoder, num_slots: int) -> None:
        if num_slots < 1:
            raise ValueError(f"num_slots: expected an integer >= 1, got {num_slots!r}")
        s, c = config.stream, config.tokenizer.cell_size
        self.map_cells, self.view_cells, self.cell_size = s.map_cells, s.view_cells, c
        self.size, self.frame_size = s.map_cells * c, config.frame_size
        self.num_slots, self.tokenizer = num_slots, tokenizer
        self.motions = Motions(config, tokenizer.patches()) if s.max_motion else None
        b, n, m = num_slots, s.n_cells, s.memory_per_cell
        self.codes = np.zeros((b, n), np.int32)
        self.pixels = np.zeros((b, self.size, self.size, 3), np.uint8)
        self.original = np.zeros((b, n), bool)
        self.origin = np.zeros((b, 2), np.int32)
        self.memory_codes = np.full((b, n, m), -1, np.int32)
        self.memory_pixels = np.zeros((b, n, m, c, c, 3), np.uint8)
        self.memory_next = np.zeros((b, n), np.int32)
        self.sprites = s.sprites
        self.anchors = self.pixels.copy() if s.sprites else self.pixels
        self._state = (*_STATE, "anchors") if s.sprites else _STATE

    def cells(self) -> np.ndarray:
        """Return the pixels cell by cell, a writable view (B, M, M, c, c, 3) of `pixels`."""
        return self._by_cell(self.pixels)

    def _by_cell(self, pixels: np.ndarray) -> np.ndarray:
        m, c = self.map_cells, self.cell_size
        return pixels.reshape(-1, m, c, m, c, 3).swapaxes(2, 3)

    def reset(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Show new pictures, origin (0, 0), memory empty.

        Args:   slots: (n,) integer, all different; frames: (n, H, W, 3) uint8.
        Raises: ValueError if the pictures have another shape or dtype.
        """
        slots = np.asarray(slots)
        self._check_frames(slots, frames)
        n, v, c = len(slots), self.view_cells, self.cell_size
        patches = frames.reshape(n, v, c, v, c, 3).swapaxes(2, 3)
        codes = self.tokenizer.encode_cells(patches.reshape(-1, c, c, 3)).reshape(n, v, v)
        # The spare row and column, not visible yet, repeat their neighbours.
        spare = [(0, 0), (0, 1), (0, 1)]
        self.codes[slots] = np.pad(codes, spare, mode="edge").reshape(n, -1)
        self.cells()[slots] = np.pad(patches, [*spare, (0, 0), (0, 0), (0, 0)], mode="edge")
        self.original[slots] = self.whole(np.zeros((n, 2), np.int32))
        self.origin[slots] = 0
        self.memory_codes[slots] = -1
        self.memory_pixels[slots] = 0
        self.memory_next[slots] = 0
        self.anchors[slots] = self.pixels[slots]

    def show(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Put true pixels into the views: what stands in the tile map stays, it only looks as it really does.

        Args:   slots: (n,) integer, all different; frames: (n, H, W, 3) uint8.
        Raises: ValueError if the frames have another shape or dtype.
        """
        self._check_frames(slots, frames)
        for on_torus, on_screen in self._views(slots):
            if self.sprites:  # where nothing stands before the anchor, that was what is there, too
                out = stands_out(self.pixels[on_torus], self.anchors[on_torus])
                self.anchors[on_torus] = np.where(out, self.anchors[on_torus], frames[on_screen])
            self.pixels[on_torus] = frames[on_screen]
        self.original[slots] |= self.whole(self.origin[slots])

    def apply(
        self,
        slots: np.ndarray,
        scrolls: np.ndarray,
        ptr: np.ndarray,
        cells: np.ndarray,
        codes: np.ndarray,
        motions: np.ndarray | None = None,
    ) -> None:
        """Perform one game step: move the views, then repaint or move the updated cells.

        Args: slots: (n,) integer, all different; scrolls: (n, 2) pixels (dx, dy);
              ptr: (n + 1,) integer, slot i's updates are ptr[i]:ptr[i + 1] of
              cells (U,) and codes (U,), integers; a slot's cells are visible and all different.
              motions: (U,) integer, -1 where an update repaints; None: all do.
        """
        before = self.origin[slots]
        self.origin[slots] = (before + scrolls) % self.size
        if len(cells):
            self._update(slots, ptr, cells, codes, motions)
        if self.sprites and np.any(scrolls):
            row, cell = (self.whole(self.origin[slots]) & ~self.whole(before)).nonzero()
            place = (np.asarray(slots)[row], cell // self.map_cells, cell % self.map_cells)
            self._by_cell(self.anchors)[place] = self.cells()[place]

    def _update(
        self, slots: np.ndarray, ptr: np.ndarray, cells: np.ndarray, codes: np.ndarray, motions: np.ndarray | None
    ) -> None:
        slot = np.repeat(np.asarray(slots), np.diff(ptr))
        painted, place = self.cells(), (slot, cells // self.map_cells, cells % self.map_cells)
        old, old_pixels = self.codes[slot, cells], painted[place]
        new_pixels, known = self.repainted(slot, cells, np.asarray(codes))
        if self.motions is not None and motions is not None:
            moved = motions >= 0
            new_pixels[moved] = self.motions.moved_pixels(
                self.pixels, self.anchors, slot[moved], cells[moved], motions[moved]
            )
            known = known & ~moved
        self.codes[slot, cells] = codes
        self._remember(slot, cells, old, old_pixels)
        self.original[slot, cells] = known
        painted[place] = new_pixels

    def repainted(self, slot: np.ndarray, cells: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what cells (k,) of slots (k,) will show when they all get codes (k,): nothing changes yet.

        Returns: pixels (k, c, c, 3) uint8, and which of them are of a true picture (k,) bool.
        """
        plain, colours = self._plain(slot, codes)
        match = self.memory_codes[slot, cells] == codes[:, None]
        known = match.any(1)
        pixels = np.empty_like(colours)
        pixels[known] = self.memory_pixels[slot[known], cells[known], match[known].argmax(1)]
        pixels[plain & ~known] = colours[plain & ~known]
        new = ~(known | plain)
        if new.any():
            before = self.codes[slot, cells]
            self.codes[slot, cells] = codes  # a patch depends on the codes around it, new ones among them
            pixels[new] = self.tokenizer.decode_cells(self._around(slot[new], cells[new]))
            self.codes[slot, cells] = before
        return pixels, known

    def _plain(self, slot: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find codes (k,) that some cell of their slot's true picture has in one plain colour.

        Returns: which (k,) bool, and such pixels (k, c, c, 3), others where there are none.
        """
        stands = (self.codes[slot] == codes[:, None]) & self.original[slot]
        cell = stands.argmax(1)
        pixels = self.cells()[slot, cell // self.map_cells, cell % self.map_cells]
        return stands.any(1) & (pixels == pixels[:, :1, :1]).all((1, 2, 3)), pixels

    def _remember(self, slot: np.ndarray, cells: np.ndarray, codes: np.ndarray, pixels: np.ndarray) -> None:
        """Keep what cells show and are about to lose: codes (k,), pixels (k, c, c, 3); true pixels only."""
        true = self.original[slot, cells]
        slot, cells, codes = slot[true], cells[true], codes[true]
        match = self.memory_codes[slot, cells] == codes[:, None]
        stands = match.any(1)
        entry = np.where(stands, match.argmax(1), self.memory_next[slot, cells])
        self.memory_codes[slot, cells, entry] = codes
        self.memory_pixels[slot, cells, entry] = pixels[true]
        advance = ~stands
        self.memory_next[slot[advance], cells[advance]] = (entry[advance] + 1) % self.memory_codes.shape[2]

    def carried(
        self, slots: np.ndarray, scrolls: np.ndarray, ptr: np.ndarray, cells: np.ndarray, motions: np.ndarray
    ) -> Along:
        """Find what the things of a step carry along (`things.py`), before it is applied; nothing changes yet.

        Where two things would change a cell, the one named first does. Args as `apply`.
        """
        table, m, c = self.motions, self.map_cells, self.cell_size
        mover = np.zeros(0, np.int64)
        if table is not None and table.things:
            mover = (motions >= 2 * table.n_vectors).nonzero()[0]
        if table is None or not len(mover):
            return Along(mover, mover, mover, mover, np.zeros((0, c, c, 3), np.uint8))
        slots, row = np.asarray(slots), np.repeat(np.arange(len(slots)), np.diff(ptr))
        origins = (self.origin[slots] + scrolls) % self.size
        free = self.whole(self.origin[slots]) & self.whole(origins)
        free[row, cells] = False
        at, motion = row[mover], motions[mover] - table.n_vectors
        seen = self._on_screen(origins[at])
        moved, changed = hanging(table, self.pixels[slots[at]], self.anchors[slots[at]], seen, cells[mover], motion)
        which, cell = (changed & free[at]).nonzero()
        _, first = np.unique(at[which] * m * m + cell, return_index=True)
        which, cell = which[first], cell[first]
        pixels = self._by_cell(moved)[which, cell // m, cell % m]
        return Along(at[which], cell, motion[which].astype(np.int64), mover[which], pixels)

    def carry(self, slots: np.ndarray, along: Along, codes: np.ndarray) -> None:
        """Show what things have carried along, after `apply`.

        Args: slots: (n,) integer, as there; along: of `carried`, before it; codes: (k,) integer, the cells' new ones.
        """
        slot, cells = np.asarray(slots)[along.row], along.cells
        painted, place = self.cells(), (slot, cells // self.map_cells, cells % self.map_cells)
        self._remember(slot, cells, self.codes[slot, cells], painted[place])
        self.codes[slot, cells], self.original[slot, cells] = codes, False
        painted[place] = along.pixels

    def _on_screen(self, origins: np.ndarray) -> np.ndarray:
        """Return which pixels of the torus (n, size, size) bool are on screen, views at `origins` (n, 2)."""
        seen = (np.arange(self.size) - origins[..., None]) % self.size < self.frame_size  # (n, 2, size)
        return np.asarray(seen[:, 1, :, None] & seen[:, 0, None, :])

    def whole(self, origins: np.ndarray) -> np.ndarray:
        """Return which cells (n, M * M) are on screen in full, views at `origins` (n, 2)."""
        m, c = self.map_cells, self.cell_size
        apart = (np.arange(m) * c - origins[..., None]) % self.size  # of a cell's first pixel from the view's
        whole = apart <= self.frame_size - c  # (n, 2, m): columns, rows
        return (whole[:, 1, :, None] & whole[:, 0, None, :]).reshape(len(origins), -1)

    def _check_frames(self, slots: np.ndarray, frames: np.ndarray) -> None:
        expected = (len(slots), self.frame_size, self.frame_size, 3)
        if frames.shape != expected or frames.dtype != np.uint8:
            raise ValueError(f"frames: expected uint8 {expected}, got {frames.dtype} {frames.shape}")

    def _around(self, slot: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Return the 3x3 codes (k, 3, 3) around cells, clamped to the view: what lies beyond is stale."""
        m, c = self.map_cells, self.cell_size
        axes = []
        for at, origin in ((cells // m, self.origin[slot, 1]), (cells % m, self.origin[slot, 0])):
            first, last = origin // c, self.view_cells - 1 + (origin % c > 0)
            place = ((at - first) % m)[:, None] + np.arange(-1, 2)
            axes.append((place.clip(0, last[:, None]) + first[:, None]) % m)
        return self.codes[slot[:, None, None], axes[0][:, :, None] * m + axes[1][:, None, :]]

    def view(self, slots: np.ndarray) -> np.ndarray:
        """Return what is on screen: a new array (n, H, W, 3) uint8."""
        frames = np.empty((len(slots), self.frame_size, self.frame_size, 3), np.uint8)
        for on_torus, on_screen in self._views(slots):
            frames[on_screen] = self.pixels[on_torus]
        return frames

    def _views(self, slots: np.ndarray) -> Iterator[tuple[Place, Place]]:
        """Cut the views at the torus seams: (where in `pixels`, where in the frames of `slots`)."""
        for i, (slot, (x, y)) in enumerate(zip(slots, self.origin[slots].tolist(), strict=True)):
            for torus_y, view_y in view_spans(y, self.frame_size, self.size):
                for torus_x, view_x in view_spans(x, self.frame_size, self.size):
                    yield (slot, torus_y, torus_x), (i, view_y, view_x)

    def save(self, slot: int) -> dict[str, np.ndarray]:
        """Copy one slot's state."""
        return {name: getattr(self, name)[slot].copy() for name in self._state}

    def load(self, slot: int, state: dict[str, np.ndarray]) -> None:
        """Put a state from `save` into a slot.

        Raises: ValueError if an array is missing, unknown, or of another shape or dtype.
        """
        if set(state) != set(self._state):
            raise ValueError(f"state: expected arrays {sorted(self._state)}, got {sorted(state)}")
        for name in self._state:
            want, got = getattr(self, name)[slot], state[name]
            if got.shape != want.shape or got.dtype != want.dtype:
                raise ValueError(f"state[{name!r}]: expected {want.dtype} {want.shape}, got {got.dtype} {got.shape}")
        for name in self._state:
            getattr(self, name)[slot] = state[name]
