"""The closed-loop encoder: recorded pictures in, updates out, one step of many clips at a time.

As in a video codec, the encoder runs the decoder (`Canvas`) beside it and updates a cell
when the true picture differs from what the canvas shows by more than the tolerance: small
errors cannot pile up, and a training stream looks exactly as it does when served.

For training, errors can be put in: an update is lost or gets a wrong code, as a model will
do one day, and the loop repairs it at once or after some steps. Flags keep the errors out of
the loss, and every choice that passes over one: what is learned is that an error, however
old, is repaired now. (Were all repaired in the next step, or those left alone scored, then
what has stood for some steps would be no error, and a model would leave for good what it has
once missed: of pieces put into `pocket`'s maps, 0.64 to 1.00 were there after 48 steps.)
Whole recordings, and streams on disk, are the business of `codec.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gamegen_env.canvas import Canvas, CellCoder, view_spans
from gamegen_env.cell_cache import CellCache
from gamegen_env.config import ModelConfig
from gamegen_env.scroll import find_scrolls
from gamegen_env.stream import Grammar
from gamegen_env.things import groups

RULES_VERSION = 9  # of what the encoder decides: raise it with every change, streams kept from before are then not used
WRONG_CODE, AFTER_DROP = 1, 2  # bits of an update's flag; a step's END has the second, and:
NO_OUTCOME = 4  # its reward and termination are not the game's
AT_REST = 4  # steps after which a camera that has stopped must set out again: at the top of a jump it only pauses
# An update must leave at most this share of what the cell misses without it, or mend so many tolerances. Measured:
# codes of a texture miss nearly as much as what they replace, and are hard to foretell; without such updates dodgeball
# needs 32 % fewer, climber 22, leaper 25, ninja 29, and looks no worse. At a share of 0.4 all lose 0.3 to 0.7 dB; at 8
# tolerances maze, whose player is smaller than a cell, loses sight of it, and obeys 0.59 of its keys for 0.69.
WORTH, WORTH_TOLERANCES = 0.6, 2
# An update moves the picture if repainting misses so many tolerances, and moving leaves at most such a share of that
# error. Measured at 1, 2, 4 and 8 tolerances: a game of flat colours moves in 19, 8, 3 and 0 % of its updates and gains
# 0.6 to 0 dB, which is little for one more thing to foretell; a strange body in 82, 82, 82 and 43 %, and 10 to 2 dB.
MOTION_MISS, MOTION_GAIN = 4, 0.7
# How much worse than its best motion, if that misses the tolerance, a cell may take the others'. A sprite must not miss
# it: else, of twice as many motions, 31 % of chaser's updates and 22 % of bossfight's find one by chance, not 13 and 9.
MOTION_SLACK = 1.5
LASTING = 32  # an error stands for fewer steps than that; as many stand for 1 as for 2 or 3, 4 to 7, 8 to 15, 16 to 31
CACHE_BITS = 16  # measured on Procgen, four times as many patches are found 1 to 5 % more often


@dataclass(frozen=True)
class Updates:
    """What one encoder step decided for n slots: arrays as in `Stream`, the ptrs (n + 1,) into the ragged ones."""

    scroll: np.ndarray
    ptr: np.ndarray
    cell: np.ndarray
    code: np.ndarray
    motion: np.ndarray
    flag: np.ndarray
    end_flag: np.ndarray
    carried_ptr: np.ndarray
    carried_cell: np.ndarray
    carried_code: np.ndarray
    carried_motion: np.ndarray


class ClosedLoop:
    """Encodes up to `num_slots` clips side by side; `canvas` shows what a player of the streams sees."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: CellCoder,
        num_slots: int,
        error_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= error_rate < 1:
            raise ValueError(f"error_rate: expected 0 <= rate < 1, got {error_rate!r}")
        self.tokenizer = CellCache(tokenizer, config.tokenizer.cell_size, CACHE_BITS)
        self.canvas = Canvas(config, self.tokenizer, num_slots)
        self.grammar = Grammar(config)
        self.limit = 3 * config.stream.tolerance  # per pixel of three channels
        self.error_rate, self.seed = error_rate, seed
        self.scrolled = np.zeros((num_slots, 2), np.int32)  # by how much, in the step before
        self.rested = np.full(num_slots, AT_REST)  # steps since the view moved, AT_REST at most
        self.anchor = self.canvas.codes.copy()  # `anchor.py`
        # For how many more steps a cell's error is not repaired, while the truth there still looks like that code.
        self.unseen, self.looks = self.canvas.codes * 0, self.canvas.codes.copy()
        size, c, m = self.canvas.size, self.canvas.cell_size, self.canvas.map_cells
        # On one axis, by origin: how many pixels of each cell are visible, and for each pixel of a
        # cell the visible one nearest to it in the same cell.
        pixel = np.arange(size)
        shown = ((pixel - pixel[:, None]) % size < self.canvas.frame_size).reshape(size, m, c)
        self.n_shown = shown.sum(2).astype(np.float32)
        distance = np.abs(np.arange(c)[:, None] - np.arange(c))
        self.nearest = (distance + c * ~shown[:, :, None, :]).argmin(-1)  # (size, m, c)
        self.cell_sum = np.repeat(np.eye(m, dtype=np.float32), 3 * c, axis=0)  # a row of pixels -> cells

    def start(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Begin clips from their first pictures (n, H, W, 3) uint8."""
        self.canvas.reset(slots, frames)
        self.scrolled[slots], self.rested[slots] = 0, AT_REST
        self.anchor[slots], self.unseen[slots] = self.canvas.codes[slots], 0

    def step(self, slots: np.ndarray, after: np.ndarray, clips: np.ndarray, times: np.ndarray) -> Updates:
        """Choose the updates that turn the canvas into the next true picture, and apply them.

        Args: slots: (n,); after: (n, H, W, 3) uint8, the true pictures; clips, times: (n,) what the noise of injected
              errors depends on.
        """
        moving = self.rested[slots] < AT_REST
        scroll = find_scrolls(self.canvas.view(slots), after, self.scrolled[slots], moving, self.grammar.max_scroll)
        self._moved_on(slots, scroll)
        differs, truth = self._differing(slots, after, self.grammar.move(self.canvas.origin[slots], scroll))
        row, cell = differs.nonzero()
        looks = self.tokenizer.encode_cells(self._patches(slots, scroll, truth, row, cell))
        code, motion, worth = self._moved(slots, scroll, truth, row, cell, looks)
        news = worth & ((code != self.canvas.codes[slots[row], cell]) | (motion >= 0))
        row, cell, code, motion, looks = row[news], cell[news], code[news], motion[news], looks[news]
        motion, told = self._as_things(slots, scroll, truth, row, cell, motion)
        row, cell, code, motion, looks = row[told], cell[told], code[told], motion[told], looks[told]
        flag, end_flag = np.zeros(len(cell), np.uint8), np.zeros(len(slots), np.uint8)
        if self.error_rate:
            row, cell, code, motion, flag, end_flag = self._spoil(slots, clips, times, row, cell, code, motion, looks)
        before = self.canvas.origin[slots]
        updates = self._apply(slots, scroll, _ptr(row, len(slots)), cell, code, motion, flag, end_flag)
        if scroll.any():
            row, cells = self.grammar.appeared(before, self.canvas.origin[slots]).nonzero()
            self.anchor[slots[row], cells] = self.canvas.codes[slots[row], cells]
        return updates

    def accept(
        self, slots: np.ndarray, ptr: np.ndarray, cell: np.ndarray, code: np.ndarray, motion: np.ndarray
    ) -> Updates:
        """Apply the steps that somebody else has decided, without a scroll: all that is in them counts as an error."""
        scroll = np.zeros((len(slots), 2), np.int32)
        flag = np.full(len(cell), WRONG_CODE | AFTER_DROP, np.uint8)
        end_flag = np.full(len(slots), AFTER_DROP, np.uint8)
        updates = self._apply(slots, scroll, ptr, cell, code, motion, flag, end_flag)
        self._moved_on(slots, scroll)
        return updates

    def _apply(
        self, slots: np.ndarray, scroll: np.ndarray, ptr: np.ndarray,
        cell: np.ndarray, code: np.ndarray, motion: np.ndarray, flag: np.ndarray, end_flag: np.ndarray,
    ) -> Updates:  # fmt: skip
        """Show a step, with what its things carry along."""
        canvas = self.canvas
        along = canvas.carried(slots, scroll, ptr, cell, motion)
        at, looks = slots[along.row], np.zeros(0, np.int32)
        if len(at) and canvas.motions is not None:
            looks = canvas.motions.moved_codes(canvas.codes[at], self.anchor[at], along.cells, along.motions)
        canvas.apply(slots, scroll, ptr, cell, code, motion)
        canvas.carry(slots, along, looks)
        begin = _ptr(along.row, len(slots))
        return Updates(scroll, ptr, cell, code, motion, flag, end_flag, begin, along.cells, looks, along.motions)

    def _moved_on(self, slots: np.ndarray, scroll: np.ndarray) -> None:
        self.scrolled[slots] = scroll
        self.rested[slots] = np.where(scroll.any(1), 0, np.minimum(self.rested[slots] + 1, AT_REST))

    def _differing(self, slots: np.ndarray, frames: np.ndarray, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the cells that would show something else than the truth, were the views at `origins`.

        Returns: (n, n_cells) bool, and the canvas with the truth pasted in, (n, size, size, 3).
        """
        canvas, side = self.canvas, self.canvas.frame_size
        shown = canvas.pixels[slots]
        truth = shown.copy()
        for picture, frame, (x, y) in zip(truth, frames, origins.tolist(), strict=True):
            for torus_y, view_y in view_spans(y, side, canvas.size):
                for torus_x, view_x in view_spans(x, side, canvas.size):
                    picture[torus_y, torus_x] = frame[view_y, view_x]
        # A square is at most 255 ** 2, which a uint16 holds; sums stay below 2 ** 24, exact in float32.
        square = np.subtract(truth, shown, dtype=np.int16).view(np.uint16)
        np.multiply(square, square, out=square)
        n, m = len(slots), canvas.map_cells
        rows = square.reshape(n, m, canvas.cell_size, -1).sum(2, dtype=np.float32)
        error = (rows.reshape(n * m, -1) @ self.cell_sum).reshape(n, m, m)
        count = self.n_shown[origins[:, 1], :, None] * self.n_shown[origins[:, 0], None, :]
        return (error > self.limit * count).reshape(n, -1), truth

    def _patches(
        self, slots: np.ndarray, scroll: np.ndarray, truth: np.ndarray, row: np.ndarray, cell: np.ndarray
    ) -> np.ndarray:
        """Return the true patches (k, c, c, 3) of cells.

        A cell cut by the edge of the view repeats its nearest visible pixels, so that its code
        says nothing about what is not on screen. Measured against hidden pixels taken from the
        canvas: coinrun and climber need 5 % fewer updates, starpilot 4 % more, none looks worse.
        """
        m, c = self.canvas.map_cells, self.canvas.cell_size
        y, x = cell // m, cell % m
        patches = truth.reshape(-1, m, c, m, c, 3).swapaxes(2, 3)[row, y, x]
        origin = self.grammar.move(self.canvas.origin[slots], scroll)[row]
        shown = self.n_shown[origin[:, 1], y] * self.n_shown[origin[:, 0], x]
        cut = (shown < c * c).nonzero()[0]
        near_y, near_x = self.nearest[origin[cut, 1], y[cut]], self.nearest[origin[cut, 0], x[cut]]
        patches[cut] = patches[cut[:, None, None], near_y[:, :, None], near_x[:, None, :]]
        return patches

    def _moved(
        self, slots: np.ndarray, scroll: np.ndarray, truth: np.ndarray,
        row: np.ndarray, cell: np.ndarray, code: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Choose the updates that move the picture: where repainting misses by far, and moving is better.

        A cell cut by the edge of the view is repainted, whatever it is worth. With sprites, where something moves, all
        of it does: the other cells of the step, if the camera stays, take one of its motions where that shows them
        better than repainting.

        Returns: codes (k,) and motions (k,) int64, -1: none; and which updates are worth it, (k,) bool.
        """
        motion = np.full(len(cell), -1, np.int64)
        motions, canvas = self.canvas.motions, self.canvas
        if not len(cell):
            return code, motion, np.zeros(0, bool)
        m, c = canvas.map_cells, canvas.cell_size
        y, x, slot = cell // m, cell % m, slots[row]
        wanted = truth.reshape(-1, m, c, m, c, 3).swapaxes(2, 3)[row, y, x]
        origin = self.grammar.move(self.canvas.origin[slots], scroll)[row]
        # A cell is never repainted with the code that it has; all that can help there is a motion.
        same = code == canvas.codes[slot, cell]
        now = canvas.cells()[slot, y, x]
        shown = np.where(same[:, None, None, None], now, canvas.repainted(slot, cell, code)[0])
        stay, missed = (np.square(p.astype(np.float32) - wanted).mean((1, 2, 3)) for p in (now, shown))
        left = missed.copy()
        whole = self.n_shown[origin[:, 1], y] * self.n_shown[origin[:, 0], x] == c * c
        tried = (whole & (missed > MOTION_MISS * self.limit / 3)).nonzero()[0]
        if motions is not None and len(tried):
            error = motions.errors(canvas.pixels, canvas.anchors, slot[tried], cell[tried], wanted[tried])
            good = np.maximum(self.limit / 3, MOTION_SLACK * error[:, motions.nearest_first].min(1))
            allowed = error <= np.minimum(good, MOTION_GAIN * missed[tried])[:, None]
            allowed[:, motions.n_vectors :] &= error[:, motions.n_vectors :] <= self.limit / 3
            motion[tried] = motions.agreed(allowed, row[tried])
            moved = (motion[tried] >= 0).nonzero()[0]
            left[tried[moved]] = error[moved, motion[tried[moved]]]
            if motions.sprites:
                rest = np.setdiff1d((whole & ~scroll[row].any(1)).nonzero()[0], tried)
                at, taken = motions.joined(row[rest], row, motion)
                shown = motions.moved_pixels(canvas.pixels, canvas.anchors, slot[rest[at]], cell[rest[at]], taken)
                error = np.square(shown.astype(np.float32) - wanted[rest[at]]).mean((1, 2, 3))
                fits = ((error <= self.limit / 3) & (error < missed[rest[at]])).nonzero()[0][::-1]
                fits = fits[np.argsort(-error[fits], kind="stable")]
                # Of a cell's the last stays: the best, the first of equals.
                motion[rest[at[fits]]], left[rest[at[fits]]] = taken[fits], error[fits]
            better = (motion >= 0).nonzero()[0]
            code = code.copy()
            code[better] = motions.moved_codes(
                canvas.codes[slot[better]], self.anchor[slot[better]], cell[better], motion[better]
            )
        worth = ~whole | (left <= WORTH * stay) | (stay - left >= WORTH_TOLERANCES * self.limit / 3)
        return code, motion, worth

    def _as_things(
        self, slots: np.ndarray, scroll: np.ndarray, truth: np.ndarray,
        row: np.ndarray, cell: np.ndarray, motion: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Let one update tell of a thing, where nothing that it carries along goes wrong for it.

        Returns: motions (k,) int64; and which updates are told, (k,) bool: the others are carried along.
        """
        motions, canvas = self.canvas.motions, self.canvas
        told = np.ones(len(row), bool)
        if motions is None or not motions.things or not (motion >= motions.n_vectors).any():
            return motion, told
        n, m, c = motions.n_vectors, canvas.map_cells, canvas.cell_size
        # Were every group told by the one in its middle: what would be carried along, and by whom?
        moving = (motion >= n).nonzero()[0]
        middle = moving[groups(row[moving], cell[moving], motion[moving], m)]
        told[moving] = middle == moving
        named = told.nonzero()[0]
        trial = np.where(motion >= n, motion + n, motion)[named]
        found = canvas.carried(slots, scroll, _ptr(row[named], len(slots)), cell[named], trial)
        teller, y, x = named[found.update], found.cells // m, found.cells % m
        wanted = truth.reshape(-1, m, c, m, c, 3).swapaxes(2, 3)[found.row, y, x]
        before = canvas.cells()[slots[found.row], y, x]
        stay, error = (np.square(p.astype(np.float32) - wanted).mean((1, 2, 3)) for p in (before, found.pixels))
        update = np.full((len(slots), m * m), -1)
        update[row, cell] = np.arange(len(row))
        carried = update[found.row, found.cells]  # the update that would be spared, if there is one
        group = np.full(len(row) + 1, -1)  # the last: of none
        group[moving] = middle
        own = group[carried] == teller
        right = np.ones(len(row), bool)
        right[teller[~own & (error > np.maximum(self.limit / 3, stay))]] = False
        told[:] = True
        told[carried[own & right[teller]]] = False
        leads = np.unique(middle)
        motion = motion.copy()
        motion[leads[right[leads]]] += n
        return motion, told

    def _spoil(
        self, slots: np.ndarray, clips: np.ndarray, times: np.ndarray,
        row: np.ndarray, cell: np.ndarray, code: np.ndarray, motion: np.ndarray, looks: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Drop some updates, and what would repair an error too early; give others the code of some other cell of the
        map; say which.

        Args: looks: (k,) int64, the code that the truth looks like, whatever the update is.
        """
        drawn = noise(self.seed, clips[row], times[row], cell)
        left = np.where(looks == self.looks[slots[row], cell], self.unseen[slots[row], cell], 0)
        hit = ((drawn & np.uint64(0xFFFFFFFF)) < self.error_rate * 2**32) & (left == 0)
        lost_now = hit & (drawn >> np.uint64(63) == 0)
        drop = lost_now | (left > 0)
        other = ((drawn >> np.uint64(32)) % np.uint64(self.grammar.n_cells)).astype(np.int64)
        present, wrong = self.canvas.codes[slots[row], cell], self.canvas.codes[slots[row], other]
        spoilt = hit & ~drop & (wrong != present) & (wrong != code)
        part = (noise(self.seed + 1, clips[row], times[row], cell) >> np.uint64(11)).astype(np.float64) / 2**53
        stands = (LASTING**part).astype(np.int64) - 1
        self.unseen[slots] = 0
        self.looks[slots[row], cell] = looks
        self.unseen[slots[row], cell] = np.where(lost_now | spoilt, stands, np.maximum(left - 1, 0))
        # Lost updates before each kept one since the kept one before it, or since the step began.
        keep = (~drop).nonzero()[0]
        lost = np.concatenate([[0], np.cumsum(drop)])
        begin = np.searchsorted(row, row[keep])
        since = np.maximum(np.concatenate([[0], keep[:-1] + 1])[: len(keep)], begin)
        flag = np.where(spoilt, WRONG_CODE, 0)[keep] | np.where(lost[keep] > lost[since], AFTER_DROP, 0)
        end = np.zeros(len(slots), np.uint8)
        last_kept, last = np.full(len(slots), -1), np.full(len(slots), -1)
        last_kept[row[keep]], last[row] = keep, np.arange(len(row))
        end[last_kept < last] = AFTER_DROP
        code, motion = np.where(spoilt, wrong, code), np.where(spoilt, -1, motion)
        return row[keep], cell[keep], code[keep], motion[keep], flag.astype(np.uint8), end


def _ptr(row: np.ndarray, n: int) -> np.ndarray:
    """Return where the parts of rows (k,), ascending or not, 0..n - 1, would begin and end: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])


def noise(seed: int, *counters: np.ndarray) -> np.ndarray:
    """Return 64 random bits for each place: a hash (splitmix64), so that no place depends on another."""
    state = np.full(counters[0].shape, seed, np.uint64)
    for counter in counters:
        state = (state ^ counter.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
