"""Updates that move the picture instead of repainting it.

A code has 13 bits for 48 numbers: a thing that the tokenizer never met, at a place between
cells, comes out blurred. But most of what changes on screen was there a step ago, some pixels
away. So an update may carry a motion (dx, dy): the cell takes the pixels that lay at
(x - dx, y - dy) before the step. The canvas moves true pixels; the tile map, which is all
that a model sees, gets the code that looks most like what the old codes show there. That is
integer arithmetic, the same in every engine.

Source: motion compensation of video codecs, such as H.261, with the pictures' codes moved beside the pixels.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.config import ModelConfig


class Motions:
    """The geometry of motions on the torus, for one model.

    Motion i is `vectors[i]` = (dx, dy), in raster order from (-max_motion, -max_motion). R = max_motion,
    c = cell_size, M = map_cells.
    """

    def __init__(self, config: ModelConfig, patches: np.ndarray) -> None:
        """Prepare. Args: patches: (codebook_size, c, c, 3) uint8, what codes look like: `Tokenizer.patches`."""
        size = (config.tokenizer.codebook_size, config.tokenizer.cell_size, config.tokenizer.cell_size, 3)
        if patches.shape != size or patches.dtype != np.uint8:
            raise ValueError(f"patches: expected uint8 {size}, got {patches.dtype} {patches.shape}")
        self.reach, self.map_cells = config.stream.max_motion, config.stream.map_cells
        self.cell_size = config.tokenizer.cell_size
        self.size = self.map_cells * self.cell_size
        axis = np.arange(-self.reach, self.reach + 1)
        self.vectors = np.stack([np.tile(axis, len(axis)), np.repeat(axis, len(axis))], axis=1)
        self.stay = len(self.vectors) // 2  # (0, 0), which is no motion
        self.nearest_first = np.argsort(np.square(self.vectors).sum(1), kind="stable")[1:]
        self.patches = patches
        # Squares of 48 bytes add up to less than 2 ** 24: exact in float32, in whatever order.
        self._flat = patches.reshape(len(patches), -1).astype(np.float32)
        self._square = np.square(self._flat).sum(1)

    def sources(self, cells: np.ndarray, motions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the torus pixels that cells (k,) take under motions (k,): rows (k, c, 1), columns (k, 1, c)."""
        dx, dy = self.vectors[motions].T
        within = np.arange(self.cell_size)
        y = (cells // self.map_cells * self.cell_size - dy)[:, None] + within
        x = (cells % self.map_cells * self.cell_size - dx)[:, None] + within
        return (y % self.size)[:, :, None], (x % self.size)[:, None, :]

    def moved_pixels(self, pixels: np.ndarray, slots: np.ndarray, cells: np.ndarray, motions: np.ndarray) -> np.ndarray:
        """Return what lies there: (k, c, c, 3) of pixels (B, M * c, M * c, 3), for slots, cells, motions (k,)."""
        y, x = self.sources(cells, motions)
        return pixels[np.asarray(slots)[:, None, None], y, x]

    def moved_codes(self, codes: np.ndarray, cells: np.ndarray, motions: np.ndarray) -> np.ndarray:
        """Return the code (k,) int32 that looks most like what tile maps show there, the lowest of equals.

        Args: codes: (k, M * M) integer, the tile map before the step of each update.
        """
        y, x = self.sources(cells, motions)
        c = self.cell_size
        there = np.take_along_axis(codes, (y // c * self.map_cells + x // c).reshape(len(cells), c * c), axis=1)
        within = np.broadcast_arrays(y % c, x % c)
        patch = self.patches[there, within[0].reshape(there.shape), within[1].reshape(there.shape)]
        distance = self._square - 2 * (patch.reshape(len(cells), 3 * c * c).astype(np.float32) @ self._flat.T)
        return distance.argmin(1).astype(np.int32)

    def errors(self, pixels: np.ndarray, slots: np.ndarray, cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Return how far each motion would leave each cell from a patch: mean squares (k, n_motions) float32.

        Args: pixels: (B, M * c, M * c, 3) uint8 before the step; slots, cells: (k,); wanted: (k, c, c, 3) uint8.
        """
        k, c, reach = len(cells), self.cell_size, self.reach
        near = np.arange(-reach, c + reach)
        y = (cells // self.map_cells * c)[:, None] + near
        x = (cells % self.map_cells * c)[:, None] + near
        around = pixels[np.asarray(slots)[:, None, None], (y % self.size)[:, :, None], (x % self.size)[:, None, :]]
        views = np.lib.stride_tricks.sliding_window_view(around, (c, c), axis=(1, 2))  # (k, 2R+1, 2R+1, 3, c, c)
        # Content that moves by +d comes from -d: the last window is the least motion.
        views = views[:, ::-1, ::-1].reshape(k, len(self.vectors), 3 * c * c).astype(np.float32)
        goal = wanted.transpose(0, 3, 1, 2).reshape(k, 3 * c * c, 1).astype(np.float32)
        error = np.square(views).sum(2) - 2 * (views @ goal)[:, :, 0] + np.square(goal).sum(1)
        return np.asarray(error / goal.shape[1], np.float32)

    def agreed(self, allowed: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Let the cells of a group move with as few motions as can be: -1 where none is allowed.

        The motion that most of them may take is theirs, the shortest of equals, then that of most of the others, and
        so on: things move as a whole, and where any motion would do, in a surface of one colour, none must be guessed.

        Args:    allowed: (k, n_motions) bool; groups: (k,) integer >= 0, such as the slot.
        Returns: (k,) int64.
        """
        chosen = np.full(len(groups), -1, np.int64)
        allowed = allowed[:, self.nearest_first]
        _, group = np.unique(groups, return_inverse=True)
        waiting = np.flatnonzero(allowed.any(1))
        while len(waiting):
            votes = np.zeros((group.max() + 1, allowed.shape[1]), np.int64)
            np.add.at(votes, group[waiting], allowed[waiting])
            common = votes.argmax(1)[group[waiting]]
            takes = allowed[waiting, common]
            chosen[waiting[takes]] = self.nearest_first[common[takes]]
            waiting = waiting[~takes]
        return chosen
