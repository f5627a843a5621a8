"""The token stream: a game as a keyframe and steps, in integers.

    stream   := keyframe step* (keyframe step*)*
    keyframe := KEY(cell, code) x n_cells
    step     := ACT(action, camera) [SCROLL(dx, dy)] UPD(cell, code)* END(reward, done) UPD(cell, code)*

What comes behind an END is what the step's things carry along (`things.py`): known, never sampled.

A token is a row [kind, a, b, origin x, origin y, time]. Where an update moves the picture, its b is
code + codebook_size * (motion + 1), so that what comes after sees how things move; the b of an action says
how the camera moved in the step before, for a camera has inertia, too. The tile map is a torus of
map_cells x map_cells cells anchored in the world; the origin is the world pixel of the
view's top left corner, modulo the torus. Cells are named in raster order on the torus,
and a step updates them in ascending order, so every frame has exactly one spelling.

No pixels and no model here: `canvas.py` paints, `codec.py` turns recordings into steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from gamegen_env.config import ACT, END, KEY, N_REWARD_CLASSES, SCROLL, UPD, ModelConfig

Numbers = TypeVar("Numbers", int, np.ndarray)
KIND_NAMES = ("KEY", "ACT", "SCROLL", "UPD", "END")


@dataclass(frozen=True)
class Carried:
    """What the things of a step carry along (`things.py`), told after its END: cells, codes and motions (k,) int32."""

    cells: np.ndarray
    codes: np.ndarray
    motions: np.ndarray


@dataclass(frozen=True)
class Step:
    """One game step: what the player did and what it changed.

    Attributes:
        action: action token.
        scroll: (dx, dy) pixels that the view moves in the world; (0, 0) if it stays.
        cells: (k,) int32, updated cells, ascending.
        codes: (k,) int32, their new codes.
        motions: (k,) int32, the motion (`motion.py`) by which an update moves the picture there, -1 where it repaints;
            None: all repaint.
        carried: what things carry along; None: nothing.
        reward_class: 0 negative, 1 zero, 2 positive.
        done: the episode ends here.
    """

    action: int
    scroll: tuple[int, int]
    cells: np.ndarray
    codes: np.ndarray
    reward_class: int
    done: bool
    motions: np.ndarray | None = None
    carried: Carried | None = None

    def painted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return all that changes on screen, as `Canvas.apply` takes it: ptr (2,), cells, codes and motions (k,)."""
        motions = np.full(len(self.cells), -1) if self.motions is None else self.motions
        told, along = (self.cells, self.codes, motions), self.carried
        if along is not None:
            told = tuple(np.concatenate(x) for x in zip(told, (along.cells, along.codes, along.motions), strict=True))  # type: ignore[assignment]
        return np.array([0, len(told[0])]), *told

    def unfolded(self, n_vectors: int) -> Step:
        """Return the step as one without things tells it: an update of what stands out for every cell of them."""
        _, cells, codes, motions = self.painted()
        order = np.argsort(cells, kind="stable")
        single = np.where(motions >= 2 * n_vectors, motions - n_vectors, motions)
        return replace(self, cells=cells[order], codes=codes[order], motions=single[order], carried=None)


@dataclass(frozen=True)
class Keyframe:
    """The whole tile map: codes (n_cells,) int32, the origin, and the last finished step's time."""

    codes: np.ndarray
    origin: tuple[int, int]
    time: int


class Grammar:
    """What may follow what, for one config: the tile map's geometry, event classes and token rows.

    Events, the classes of the event head: update of cell i is class i, a scroll
    `scroll_event(dx, dy)`, and END the last.
    """

    def __init__(self, config: ModelConfig) -> None:
        s = config.stream
        self.map_cells, self.view_cells, self.n_cells = s.map_cells, s.view_cells, s.n_cells
        self.max_scroll, self.n_scrolls, self.n_events = s.max_scroll, s.n_scrolls, s.n_events
        self.cell_size, self.size = config.tokenizer.cell_size, s.map_cells * config.tokenizer.cell_size
        self.n_codes, self.n_actions = config.tokenizer.codebook_size, config.transformer.n_actions
        self.n_motions, self.n_vectors, self.still, self.things = s.n_motions, s.n_vectors, s.still, s.things
        self.anchored = config.transformer.anchor
        # On one axis, by origin: which rows (or columns) of cells show at least one pixel.
        origin = np.arange(self.size)[:, None]
        place = (np.arange(self.map_cells) - origin // self.cell_size) % self.map_cells
        self._shown = place < self.view_cells + (origin % self.cell_size > 0)
        first = (np.arange(self.map_cells) * self.cell_size - origin) % self.size
        self._whole = first <= (self.view_cells - 1) * self.cell_size  # and which show all of theirs

    @property
    def end_event(self) -> int:
        return self.n_events - 1

    def scroll_event(self, dx: Numbers, dy: Numbers) -> Numbers:
        """Return the event class of a scroll by (dx, dy) pixels, each in -max_scroll..max_scroll; or of many."""
        return self.n_cells + (dy + self.max_scroll) * (2 * self.max_scroll + 1) + dx + self.max_scroll

    def camera(self, dx: Numbers, dy: Numbers) -> Numbers:
        """Spell the scroll of a step, (0, 0) where the view stayed, as the next action tells it: 0..n_scrolls - 1."""
        return self.scroll_event(dx, dy) - self.n_cells

    def event_scroll(self, event: int) -> tuple[int, int]:
        """Return (dx, dy) of a scroll's event class: the inverse of `scroll_event`."""
        dy, dx = divmod(event - self.n_cells, 2 * self.max_scroll + 1)
        return dx - self.max_scroll, dy - self.max_scroll

    def visible_cells(self, origins: np.ndarray | Sequence[int]) -> np.ndarray:
        """Tell which cells show at least one pixel: (..., n_cells) bool for origins (..., 2) in [0, size)."""
        o = np.asarray(origins)
        shown = self._shown[o[..., 1], :, None] & self._shown[o[..., 0], None, :]
        return shown.reshape(*o.shape[:-1], self.n_cells)

    def appeared(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Tell which cells show all their pixels after a step, not before: (..., n_cells) bool for origins (..., 2)."""
        whole = [self._whole[o[..., 1], :, None] & self._whole[o[..., 0], None, :] for o in (before, after)]
        return (whole[1] & ~whole[0]).reshape(*before.shape[:-1], self.n_cells)

    def move(self, origins: np.ndarray | Sequence[int], scrolls: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return origins (..., 2) int32 after scrolls (..., 2)."""
        return (np.asarray(origins, np.int32) + np.asarray(scrolls, np.int32)) % np.int32(self.size)

    def event_mask(self, origins: np.ndarray, last_cell: np.ndarray, after_action: np.ndarray) -> np.ndarray:
        """Tell which events may come next.

        Args:    origins: (..., 2) integer; last_cell: (...) the cell updated last in this
                 step, -1 if none; after_action: (...) bool, nothing came after ACT yet.
        Returns: (..., n_events) bool.
        """
        origins, last = np.asarray(origins), np.asarray(last_cell)
        mask = np.zeros((*last.shape, self.n_events), bool)
        mask[..., : self.n_cells] = self.visible_cells(origins) & (np.arange(self.n_cells) > last[..., None])
        mask[..., self.n_cells : self.end_event] = np.asarray(after_action)[..., None]
        mask[..., self.scroll_event(0, 0)] = False
        mask[..., self.end_event] = True
        return mask

    def contents(self, codes: np.ndarray, motions: np.ndarray) -> np.ndarray:
        """Spell what updates show, the third number of their tokens: codes and motions (k,), -1 where one repaints."""
        return np.asarray(codes + self.n_codes * (motions + 1))

    def keyframe_tokens(
        self, codes: np.ndarray, origin: np.ndarray | Sequence[int], time: int, anchor: np.ndarray | None = None
    ) -> np.ndarray:
        """Spell a tile map (n_cells,), and for models with anchors where it differs from its own: (n_cells, 6) int32.

        Args: time: of the last finished step; anchor: (n_cells,) `anchor.py`.
        """
        rows = np.empty((self.n_cells, 6), np.int32)
        astray = self.n_codes * (anchor != codes) if self.anchored and anchor is not None else 0
        rows[:, 0], rows[:, 1], rows[:, 2] = KEY, np.arange(self.n_cells), codes + astray
        rows[:, 3:5], rows[:, 5] = origin, time
        return rows

    def step_tokens(
        self, step: Step, origin: np.ndarray | Sequence[int], time: int, camera: int | None = None
    ) -> np.ndarray:
        """Spell a step that starts at `origin`: (tokens, 6) int32; camera: of the step before, default a still one."""
        scrolled, along = int(any(step.scroll)), step.carried
        rows = np.zeros((2 + scrolled + len(step.cells), 6), np.int32)
        rows[0, :3] = ACT, step.action, self.camera(0, 0) if camera is None else camera
        rows[0, 3:5] = origin
        rows[1:, 3:5] = self.move(origin, step.scroll)
        if scrolled:
            rows[1, :3] = SCROLL, step.scroll[0] + self.max_scroll, step.scroll[1] + self.max_scroll
        updates = rows[1 + scrolled : -1]
        updates[:, 0], updates[:, 1] = UPD, step.cells
        motions = np.full(len(step.cells), -1) if step.motions is None else step.motions
        updates[:, 2] = self.contents(step.codes, motions)
        rows[-1, :3] = END, step.reward_class, step.done
        rows[:, 5] = time
        if along is None:
            return rows
        return np.concatenate([rows, self.carried_tokens(along.cells, along.codes, along.motions, rows[-1, 3:5], time)])

    def carried_tokens(
        self, cells: np.ndarray, codes: np.ndarray, motions: np.ndarray, origin: np.ndarray, time: int
    ) -> np.ndarray:
        """Spell what a step's things carry along, cells, codes and motions (k,), after its END: (k, 6) int32."""
        rows = np.empty((len(cells), 6), np.int32)
        rows[:, 0], rows[:, 1], rows[:, 2] = UPD, cells, self.contents(codes, motions)
        rows[:, 3:5], rows[:, 5] = origin, time
        return rows

    def parse(self, rows: np.ndarray) -> list[Keyframe | Step]:
        """Read a whole stream, checking every token.

        Args:   rows: (S, 6) integer, from a keyframe to the END of a step (or a keyframe's last token).
        Raises: ValueError naming the position, what was expected there and what came.
        """
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] != 6 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"rows: expected integers (S, 6), got {rows.dtype} {rows.shape}")
        return _Parser(self, rows).run()

    def validate(self, rows: np.ndarray) -> None:
        """Check a whole stream. Raises: ValueError as `parse` does."""
        self.parse(rows)


class _Parser:
    """One pass over the rows, with the state that the rules refer to."""

    def __init__(self, grammar: Grammar, rows: np.ndarray) -> None:
        self.grammar, self.rows, self.at = grammar, rows.tolist(), 0
        self.codes: list[int] = []
        self.origin = (0, 0)
        self.camera: int | None = None  # how the last step moved it, None before the first
        self.time: int | None = None  # of the last step, None before the first
        self.key_time = 0

    def run(self) -> list[Keyframe | Step]:
        items: list[Keyframe | Step] = []
        while self.at < len(self.rows) or not items:
            kinds = (KEY, ACT) if items else (KEY,)
            kind = self.peek(kinds)
            items.append(self.keyframe() if kind == KEY else self.step())
        return items

    def peek(self, kinds: tuple[int, ...]) -> int:
        """Return the next token's kind, which must be one of `kinds`."""
        expected = " or ".join(KIND_NAMES[k] for k in kinds)
        if self.at == len(self.rows):
            raise ValueError(f"position {self.at}: expected {expected}, got the end of the stream")
        kind = self.rows[self.at][0]
        if kind not in kinds:
            got = KIND_NAMES[kind] if 0 <= kind < len(KIND_NAMES) else f"kind {kind}"
            raise ValueError(f"position {self.at}: expected {expected}, got {got}")
        return int(kind)

    def check(self, what: str, ok: bool, expected: object, got: object) -> None:
        if not ok:
            name = KIND_NAMES[self.rows[self.at][0]]
            raise ValueError(f"position {self.at}: {name} {what}: expected {expected}, got {got}")

    def take(self, a_name: str, n_a: int, b_name: str, n_b: int, time: int) -> tuple[int, int]:
        """Check the fields that every token has, the origin being the current one, and move on."""
        _, a, b, ox, oy, t = self.rows[self.at]
        self.check(a_name, 0 <= a < n_a, f"0..{n_a - 1}", a)
        self.check(b_name, 0 <= b < n_b, f"0..{n_b - 1}", b)
        self.check("origin", (ox, oy) == self.origin, self.origin, (ox, oy))
        self.check("time", t == time, time, t)
        self.at += 1
        return a, b

    def keyframe(self) -> Keyframe:
        g = self.grammar
        _, _, _, ox, oy, t = self.rows[self.at]
        self.check("origin", 0 <= ox < g.size and 0 <= oy < g.size, f"0..{g.size - 1} on both axes", (ox, oy))
        self.check("time", t >= 0 and self.time in (None, t), "0 or more" if self.time is None else self.time, t)
        self.origin, self.key_time, self.codes = (ox, oy), t, []
        for cell in range(g.n_cells):
            self.peek((KEY,))
            self.check("cell", self.rows[self.at][1] == cell, cell, self.rows[self.at][1])
            self.codes.append(self.take("cell", g.n_cells, "code", g.n_codes * (1 + g.anchored), t)[1] % g.n_codes)
        return Keyframe(np.array(self.codes, np.int32), self.origin, t)

    def step(self) -> Step:
        g = self.grammar
        time = self.rows[self.at][5]
        if self.time is not None:
            expected: tuple[int, ...] = (self.time + 1,)
        else:  # before the first step no step has finished: the keyframe says 0, and so may the step
            expected = (0, 1) if self.key_time == 0 else (self.key_time + 1,)
        self.check("time", time in expected, " or ".join(map(str, expected)), time)
        camera = self.rows[self.at][2]
        self.check("camera", self.camera in (None, camera), self.camera, camera)
        action, _ = self.take("action", g.n_actions, "camera", g.n_scrolls, time)
        dx = dy = 0
        if self.peek((SCROLL, UPD, END)) == SCROLL:
            side = 2 * g.max_scroll + 1
            dx, dy = (v - g.max_scroll for v in self.rows[self.at][1:3])
            self.check("distance", (dx, dy) != (0, 0), "a movement", (dx, dy))
            x, y = g.move(self.origin, (dx, dy)).tolist()
            self.origin = (x, y)
            self.take("dx", side, "dy", side, time)
        at, shown, moved = self.updates(time, (UPD, END))
        reward_class, done = self.take("reward class", N_REWARD_CLASSES, "done", 2, time)
        along = Carried(*self.updates(time, (UPD, ACT, KEY), set(at.tolist()))) if g.things else None
        self.camera = g.camera(int(dx), int(dy))
        self.time = time
        return Step(action, (dx, dy), at, shown, reward_class, bool(done), moved, along)

    def updates(
        self, time: int, kinds: tuple[int, ...], told: set[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read updates up to a token of another of `kinds`: cells, codes and motions (k,) int32.

        Args: told: the cells that the step updates itself, before what its things carry along; None: these are they.
        """
        g = self.grammar
        cells, codes, motions, last = [], [], [], -1
        visible = g.visible_cells(self.origin)
        while (told is None or self.at < len(self.rows)) and self.peek(kinds) == UPD:
            _, cell, content, *_ = self.rows[self.at]
            motion, code = content // g.n_codes - 1, content % g.n_codes
            self.check("cell", last < cell < g.n_cells, f"{last + 1}..{g.n_cells - 1}", cell)
            self.check("cell", bool(visible[cell]), f"a cell visible from origin {self.origin}", cell)
            limit = g.n_codes * (1 + g.n_motions)
            self.check("code", 0 <= content < limit, f"0..{limit - 1}", content)
            self.check("motion", motion < 0 or motion % g.n_vectors != g.still, "a movement", motion)
            # What moves there may look, to the tokenizer, like what was there.
            self.check("code", motion >= 0 or code != self.codes[cell], f"another code than cell {cell} has", code)
            if told is not None:
                self.check("motion", g.n_vectors <= motion < 2 * g.n_vectors, "that of what stands out", motion)
                self.check("cell", cell not in told, "one that the step does not update itself", cell)
            self.take("cell", g.n_cells, "code", limit, time)
            self.codes[cell], last = code, cell
            cells.append(cell)
            codes.append(code)
            motions.append(motion)
        at, shown, moved = (np.array(values, np.int32) for values in (cells, codes, motions))
        return at, shown, moved
