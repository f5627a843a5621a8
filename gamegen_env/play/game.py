"""One player's game: what was played, and the way back through it.

The world is deterministic, so a game is its picture, its seed and its keys. Snapshots every
EVERY steps only shorten the way: to go back, the nearest one is loaded and the keys since are
played again, to the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen_env.world import StepResult, World

EVERY = 15  # steps between snapshots
KEPT = 60  # snapshots; a game can go back KEPT * EVERY steps
FILMED = 1800  # frames kept for a film
SPARE = 300  # more frames, so that not every step moves the list
PLACES = 9  # save slots


@dataclass(frozen=True)
class View:
    """What a player sees after a step. `frame` (H, W, 3) uint8; `tiles` (n, 2) int, pixels x, y of updated cells."""

    frame: np.ndarray
    step: int
    action: int  # token that led here
    score: float
    reward: float
    over: bool
    tokens: int
    scroll: tuple[int, int]
    tiles: np.ndarray


@dataclass(frozen=True)
class _Mark:
    """A point to come back to."""

    step: int
    score: float
    state: dict[str, Any]
    view: View


class Game:
    """A game in one slot of a world. Only the thread that steps the world may call this."""

    def __init__(self, world: World, slot: int) -> None:
        self.world, self.slot = world, slot
        self.keys: list[int] = []  # action tokens since the start
        self.script: deque[int] = deque()  # keys still to be replayed
        self.picture = np.zeros(world.frame_shape, np.uint8)
        self.seed = 0
        self.marks: list[_Mark] = []
        self.places: dict[int, tuple[_Mark, list[int]]] = {}
        self.film: list[tuple[int, np.ndarray]] = []  # steps, ascending, and what they looked like
        self.view: View | None = None

    @property
    def step(self) -> int:
        return len(self.keys)

    @property
    def over(self) -> bool:
        return self.view is not None and self.view.over

    def start(self, picture: np.ndarray, seed: int, script: Sequence[int] = ()) -> View:
        """Begin from a fitted picture (H, W, 3) uint8; `script` is played before the player's own keys."""
        frame = self.world.reset([self.slot], [picture], [seed])[0]
        self.picture, self.seed = picture.copy(), seed
        self.keys, self.script, self.marks, self.places, self.film = [], deque(script), [], {}, [(0, frame)]
        self.view = View(frame, 0, 0, 0.0, 0.0, False, 0, (0, 0), np.zeros((0, 2), np.int64))
        self._mark()
        return self.view

    def next_key(self, pressed: int) -> int:
        """Return the token to play: the script's, while it lasts, else what is pressed."""
        return self.script.popleft() if self.script else pressed

    def accept(self, token: int, result: StepResult, index: int) -> View:
        """Take one game's part of a step of the world."""
        score = (self.view.score if self.view else 0.0) + float(result.rewards[index])
        self.keys.append(token)
        self.view = View(
            frame=result.frames[index],
            step=self.step,
            action=token,
            score=score,
            reward=float(result.rewards[index]),
            over=bool(result.terminated[index]),
            tokens=int(result.tokens[index]),
            scroll=(int(result.scroll[index, 0]), int(result.scroll[index, 1])),
            tiles=self._tiles(result.cells[result.ptr[index] : result.ptr[index + 1]]),
        )
        self.film.append((self.step, self.view.frame))
        if len(self.film) > FILMED + SPARE:
            del self.film[:-FILMED]
        if self.step % EVERY == 0:
            self._mark()
        return self.view

    def seek(self, step: int) -> View:
        """Go back to a step; what came after it is forgotten. Steps out of reach mean the oldest one that is not."""
        step = max(min(step, self.step), self.marks[0].step)
        while self.marks[-1].step > step:
            self.marks.pop()
        return self._replay(self.marks[-1], self.keys[:step], self.marks[-1].step)

    def save(self, place: int) -> None:
        """Keep this moment. Raises: ValueError on a place that does not exist."""
        if not 1 <= place <= PLACES:
            raise ValueError(f"place: expected 1..{PLACES}, got {place}")
        self.places[place] = (self._snapshot(), list(self.keys))

    def load(self, place: int) -> View:
        """Go to a kept moment; earlier ones of its past that lie before it can still be reached.

        Raises: ValueError if nothing is kept there.
        """
        if place not in self.places:
            raise ValueError(f"place: expected one of {sorted(self.places)}, got {place}")
        mark, keys = self.places[place]
        shared = 0
        while shared < min(len(keys), self.step) and keys[shared] == self.keys[shared]:
            shared += 1
        self.marks = [m for m in self.marks if m.step <= min(shared, mark.step)] or [mark]
        if self.marks[-1].step < mark.step:
            self.marks.append(mark)
        return self._replay(mark, keys, min(shared, mark.step))

    def _replay(self, mark: _Mark, keys: list[int], shared: int) -> View:
        """Go to a mark and play its keys from there on. Args: shared: steps that are also those of this game."""
        self.world.load(self.slot, mark.state)
        # A film shows this past only: what lies between the shared steps and the mark is cut.
        while self.film and self.film[-1][0] > shared:
            self.film.pop()
        if shared < mark.step or not self.film:
            self.film.append((mark.step, mark.view.frame))
        self.keys, self.view, self.script = keys[: mark.step], mark.view, deque()
        for token in keys[mark.step :]:
            self.accept(token, self.world.step([self.slot], [token]), 0)
        assert self.view is not None
        return self.view

    def _snapshot(self) -> _Mark:
        assert self.view is not None
        return _Mark(self.step, self.view.score, self.world.save(self.slot), self.view)

    def _mark(self) -> None:
        if not self.marks or self.marks[-1].step < self.step:
            self.marks.append(self._snapshot())
            del self.marks[:-KEPT]

    def _tiles(self, cells: np.ndarray) -> np.ndarray:
        """Where updated cells lie in the view, in pixels; those that wrap around the torus on the far side."""
        stream, size = self.world.config.stream, self.world.config.tokenizer.cell_size
        x, y = (int(v) for v in self.world.engine.origin[self.slot])
        m = stream.map_cells
        col, row = (cells % m - x // size) % m, (cells // m - y // size) % m
        return np.stack([col * size - x % size, row * size - y % size], axis=-1)
