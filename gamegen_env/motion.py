"""Updates that move the picture instead of repainting it.

A code has 13 bits for 48 numbers: a thing that the tokenizer never met, at a place between
cells, comes out blurred. But most of what changes on screen was there a step ago, some pixels
away. So an update may carry a motion (dx, dy): the cell takes the pixels that lay at
(x - dx, y - dy) before the step. The canvas moves true pixels; the tile map, which is all
that a model sees, gets the code that looks most like what the old codes show there. That is
integer arithmetic, the same in every engine.

A thing seldom fills its cells: with its pixels a motion carries off those beside it, which a ground of one colour
forgives and any other does not. So a model may have sprites, and every motion twice. A sprite's motion takes of the
pixels there those alone that stand out from the anchor's picture (`anchor.py`), and where it brings none the anchor
shows: the thing moves as a whole over a ground that stays.

Source: motion compensation of video codecs, such as H.261, with the pictures' codes moved beside the pixels; objects
over a background, the sprites of MPEG-4 part 2.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.config import ModelConfig

STANDS_OUT = 30  # sum of the channels' distances from the anchor, above which a pixel is of something before it


class Motions:
    """The geometry of motions on the torus, for one model.

    Motion i is `vectors[i]` = (dx, dy), in raster order from (-max_motion, -max_motion); with sprites motion
    n_vectors + i is that of what stands out. R = max_motion, c = cell_size, M = map_cells.
    """

    def __init__(self, config: ModelConfig, patches: np.ndarray) -> None:
        """Prepare. Args: patches: (codebook_size, c, c, 3) uint8, what codes look like: `Tokenizer.patches`."""
        size = (config.tokenizer.codebook_size, config.tokenizer.cell_size, config.tokenizer.cell_size, 3)
        if patches.shape != size or patches.dtype != np.uint8:
            raise ValueError(f"patches: expected uint8 {size}, got {patches.dtype} {patches.shape}")
        s = config.stream
        self.reach, self.map_cells, self.cell_size = s.max_motion, s.map_cells, config.tokenizer.cell_size
        self.size = self.map_cells * self.cell_size
        axis = np.arange(-self.reach, self.reach + 1)
        self.vectors = np.stack([np.tile(axis, len(axis)), np.repeat(axis, len(axis))], axis=1)
        self.sprites, self.things, self.n_vectors, self.still = s.sprites, s.things, s.n_vectors, s.still
        nearest = np.argsort(np.square(self.vectors).sum(1), kind="stable")[1:]
        # Of a motion of all and one of what stands out, where both will do, the latter: it holds elsewhere, too.
        self.nearest_first = np.stack([nearest + self.n_vectors, nearest], 1).ravel() if self.sprites else nearest
        self.patches = patches
        # Squares of 48 bytes add up to less than 2 ** 24: exact in float32, in whatever order.
        self._flat = patches.reshape(len(patches), -1).astype(np.float32)
        self._square = np.square(self._flat).sum(1)

    def sources(self, cells: np.ndarray, motions: np.ndarray, near: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the torus pixels that cells (k,) take under motions (k,): rows (k, c, 1), columns (k, 1, c).

        Args: near: and so many pixels around them, c then being 2 near more.
        """
        dx, dy = self.vectors[motions % self.n_vectors].T
        within = np.arange(-near, self.cell_size + near)
        y = (cells // self.map_cells * self.cell_size - dy)[:, None] + within
        x = (cells % self.map_cells * self.cell_size - dx)[:, None] + within
        return (y % self.size)[:, :, None], (x % self.size)[:, None, :]

    def moved_pixels(
        self, pixels: np.ndarray, anchors: np.ndarray, slots: np.ndarray, cells: np.ndarray, motions: np.ndarray
    ) -> np.ndarray:
        """Return what cells (k,) of slots (k,) show after motions (k,): (k, c, c, 3) uint8.

        Args: pixels, anchors: (B, M * c, M * c, 3) uint8, what is there and what was at first.
        """
        slots = np.asarray(slots)[:, None, None]
        y, x = self.sources(cells, motions)
        moved = pixels[slots, y, x]
        over = (motions >= self.n_vectors).nonzero()[0]
        if len(over):
            slots, y, x = slots[over], y[over], x[over]
            below = anchors[(slots, *self.sources(cells[over], np.full(len(over), self.still)))]
            moved[over] = np.where(stands_out(moved[over], anchors[slots, y, x]), moved[over], below)
        return moved

    def moved_codes(self, codes: np.ndarray, anchors: np.ndarray, cells: np.ndarray, motions: np.ndarray) -> np.ndarray:
        """Return the code (k,) int32 that looks most like what tile maps show there, the lowest of equals.

        Args: codes, anchors: (k, M * M) integer, the tile map before the step of each update, and its anchor.
        """
        c = self.cell_size
        y, x = self.sources(cells, motions)
        moved = self._looks(codes, y, x)
        over = (motions >= self.n_vectors).nonzero()[0]
        if len(over):
            at_first = self._looks(anchors[over], y[over], x[over])
            below = self._looks(anchors[over], *self.sources(cells[over], np.full(len(over), self.still)))
            moved[over] = np.where(stands_out(moved[over], at_first), moved[over], below)
        patch = moved.reshape(len(cells), 3 * c * c).astype(np.float32)
        distance = self._square - 2 * (patch @ self._flat.T)
        return distance.argmin(1).astype(np.int32)

    def _looks(self, codes: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the pixels (k, c, c, 3) of tile maps (k, M * M) at rows (k, c, 1) and columns (k, 1, c)."""
        k, c = len(codes), self.cell_size
        there = np.take_along_axis(codes, (y // c * self.map_cells + x // c).reshape(k, c * c), axis=1)
        return self.patches[there.reshape(k, c, c), y % c, x % c]

    def errors(
        self, pixels: np.ndarray, anchors: np.ndarray, slots: np.ndarray, cells: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """Return how far each motion would leave each cell from a patch: mean squares (k, n_motions) float32.

        Args: pixels, anchors: (B, M * c, M * c, 3) uint8 before the step; slots, cells: (k,); wanted: (k, c, c, 3).
        """
        c, reach = self.cell_size, self.reach
        near = np.arange(-reach, c + reach)
        slots = np.asarray(slots)[:, None, None]
        y = ((cells // self.map_cells * c)[:, None] + near)[:, :, None] % self.size
        x = ((cells % self.map_cells * c)[:, None] + near)[:, None, :] % self.size
        around, goal = pixels[slots, y, x].astype(np.float32), wanted.astype(np.float32)
        # Sums of 48 products of bytes, less than 2 ** 24: exact in float32, in whatever order.
        total = _apart(around, goal)
        if self.sprites:
            at_first = anchors[slots, y, x]
            out = stands_out(pixels[slots, y, x], at_first).astype(np.float32)
            below = at_first[:, reach:-reach, reach:-reach].astype(np.float32)
            # Where something stands out, that against the goal; elsewhere what is below.
            gained = (np.square(goal) - np.square(below - goal)).sum(-1, keepdims=True)
            over = _apart(around * out, goal) - np.square(goal).sum((1, 2, 3))[:, None]
            over += np.square(below - goal).sum((1, 2, 3))[:, None] + _dot(out, gained)
            total = np.concatenate([total, over], axis=1)
        return np.asarray(total / (3 * c * c), np.float32)

    def agreed(self, allowed: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Let the cells of a group move with as few motions as can be: -1 where none is allowed.

        The motion that most of them may take is theirs, the shortest of equals, then that of most of the others, and
        so on: things move as a whole, and where any motion would do, in a surface of one colour, none must be guessed.

        Args:    allowed: (k, n_motions) bool; groups: (k,) integer, ascending, such as the slot.
        Returns: (k,) int64.
        """
        chosen = np.full(len(groups), -1, np.int64)
        allowed = allowed[:, self.nearest_first]
        waiting = np.flatnonzero(allowed.any(1))
        while len(waiting):
            _, first, mine = np.unique(groups[waiting], return_index=True, return_inverse=True)
            votes = np.add.reduceat(allowed[waiting], first, dtype=np.int32)
            common = votes.argmax(1)[mine]
            takes = allowed[waiting, common]
            chosen[waiting[takes]] = self.nearest_first[common[takes]]
            waiting = waiting[~takes]
        return chosen

    def joined(self, groups: np.ndarray, movers: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pair cells with the ways in which others of their group move, of all and of what stands out.

        Args:    groups: (k,) of the cells; movers, chosen: (j,) groups and motions of the others, -1: none.
        Returns: indices of cells (p,) and motions (p,) int64; of one cell, what stands out first.
        """
        moves = chosen >= 0
        pairs = np.unique(np.stack([movers[moves], chosen[moves] % self.n_vectors]), axis=1)
        cell, pair = (groups[:, None] == pairs[0]).nonzero()
        return np.repeat(cell, 2), (pairs[1][pair][:, None] + np.array([self.n_vectors, 0])).ravel()


def stands_out(pixels: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Tell which pixels (..., 3) uint8 are of something that stands before what was there at first: (..., 1) bool."""
    apart = np.abs(pixels.astype(np.int16) - anchors)
    # NumPy's own sum over an axis of three takes seven times as long.
    return np.asarray(apart[..., :1] + apart[..., 1:2] + apart[..., 2:] > STANDS_OUT)


def _dot(around: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Multiply neighbourhoods (k, n, n, v), where motions bring them, by patches (k, c, c, v): (k, motions).

    Pixel by pixel, for all cells at once: with the cells on the last axis three times as fast as a product per cell.
    """
    c = patch.shape[1]
    m = around.shape[1] - c + 1
    around, patch = (np.ascontiguousarray(x.transpose(3, 1, 2, 0)) for x in (around, patch))
    total = np.zeros((m, m, patch.shape[3]), np.float32)
    product = np.empty_like(total)
    for v, y, x in np.ndindex(len(patch), c, c):
        np.multiply(around[v, y : y + m, x : x + m], patch[v, y, x], out=product)
        total += product
    # Content that moves by +d comes from -d: the last place is the least motion.
    return total[::-1, ::-1].reshape(m * m, -1).T


def _apart(around: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return squared distances (k, motions) of neighbourhoods, where each motion would bring them, from patches."""
    squares = np.square(around).sum(-1, keepdims=True)
    here = _dot(squares, np.ones_like(goal[..., :1]))
    return np.asarray(here - 2 * _dot(around, goal) + np.square(goal).sum((1, 2, 3))[:, None])
