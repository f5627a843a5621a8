"""The rules of an invented game on a grid: who stands where, what can be entered, dug, pushed, taken.

Places are (row, column) in cells, row 0 on top; times are steps. Equal seeds and keys give equal frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gamegen_env.actions import N_DIRECTIONS, OFFSETS, token
from gamegen_env.games.artwork import Sprite
from gamegen_env.games.base import FRAME_SIZE

FLOOR, WALL, SOIL, BOULDER, GEM, EXIT, LOCK, KEY = range(8)
WAYS = np.array([(dy, dx) for dx, dy in OFFSETS[1:5]])  # as the keys UP, RIGHT, LEFT, DOWN
NEAR = 0.6  # cells; nearer than this is met


@dataclass
class Walker:
    """Somebody who goes from cell to cell.

    Attributes:
        look: the picture, as large as a cell's.
        cell: (2,) int64, where it stands or is heading; origin: (2,), where it comes from.
        pace: steps from cell to cell, 1 is a hop; left: steps until it arrives.
        manner: "keys", "hunt", "wander" or "patrol"; way: (2,) int64, last direction.
    """

    look: Sprite
    cell: np.ndarray
    pace: int
    manner: str
    origin: np.ndarray = field(init=False)
    left: int = 0
    way: np.ndarray = field(default_factory=lambda: np.array([0, 1]))

    def __post_init__(self) -> None:
        self.origin = self.cell

    @property
    def position(self) -> np.ndarray:
        """Where it is seen, (2,) float64 cells."""
        return self.cell + (self.origin - self.cell) * (self.left / self.pace)

    def go(self, way: np.ndarray) -> None:
        """Set out for the next cell."""
        self.origin, self.cell, self.way, self.left = self.cell, self.cell + way, way, self.pace - 1


@dataclass
class GridGame:
    """One episode.

    Attributes:
        cells: (h, w) int64, kinds of cell. art: (8, a, a, 3) uint8, what each kind looks like.
        view: cells that the picture is wide and high; samples: per pixel and axis, 1 for hard edges.
        pushes: whether boulders can be pushed; falls: whether they and gems fall.
    """

    rng: np.random.Generator
    cells: np.ndarray
    art: np.ndarray
    player: Walker
    foes: list[Walker]
    view: int
    samples: int
    pushes: bool
    falls: bool
    keys: int = 0
    age: int = 0

    def kind(self, cell: np.ndarray) -> int:
        """Return the kind of a cell; beyond the world all is wall."""
        if (cell < 0).any() or (cell >= self.cells.shape).any():
            return WALL
        return int(self.cells[cell[0], cell[1]])

    def vacant(self, cell: np.ndarray) -> bool:
        """Tell whether there is nothing and nobody in a cell."""
        return self.kind(cell) == FLOOR and all((w.cell != cell).any() for w in (self.player, *self.foes))

    def step(self, key: int) -> tuple[float, bool]:
        """Advance by one key: reward, and whether the game is over."""
        dx, dy = OFFSETS[key % N_DIRECTIONS]
        way = np.array([0 if dx else dy, dx])
        reward, over = 0.0, False
        if self.player.left:
            self.player.left -= 1
        elif way.any():
            reward, over = self._enter(way)
        for foe in self.foes:
            self._advance(foe)
        if self.falls and self.age % 2:
            self._settle()
        gaps = [np.abs(foe.position - self.player.position).max() for foe in self.foes]
        if min(gaps, default=1.0) < NEAR:
            reward, over = reward - 1.0, True
        self.age += 1
        return float(np.clip(reward, -1, 1)), over

    def _enter(self, way: np.ndarray) -> tuple[float, bool]:
        there = self.player.cell + way
        kind = self.kind(there)
        self.player.way = way
        if kind == WALL or (kind == LOCK and not self.keys):
            return 0.0, False
        if kind == BOULDER:
            if not self.pushes or not self.vacant(there + way):
                return 0.0, False
            self.cells[tuple(there + way)] = BOULDER
        if kind in (LOCK, KEY):
            self.keys += 1 if kind == KEY else -1
        if kind != EXIT:
            self.cells[tuple(there)] = FLOOR
        self.player.go(way)
        return float(kind in (GEM, EXIT)), kind == EXIT

    def _advance(self, foe: Walker) -> None:
        if foe.left:
            foe.left -= 1
            return
        free = [way for way in WAYS if self.kind(foe.cell + way) == FLOOR]
        if not free:
            return
        ahead = self.kind(foe.cell + foe.way) == FLOOR
        way = free[self.rng.integers(len(free))]
        if foe.manner == "hunt" and self.rng.random() < 0.8:
            way = min(free, key=lambda w: int(np.abs(foe.cell + w - self.player.cell).sum()))
        elif foe.manner == "patrol":
            way = foe.way if ahead else -foe.way if self.kind(foe.cell - foe.way) == FLOOR else way
        elif foe.manner == "wander" and ahead and self.rng.random() < 0.8:
            way = foe.way
        foe.go(way)

    def _settle(self) -> None:
        """Let what nothing holds fall by a cell, the lowest first."""
        loose = np.isin(self.cells[:-1], (BOULDER, GEM)) & (self.cells[1:] == FLOOR)
        for row, column in np.argwhere(loose)[::-1]:
            below = np.array([row + 1, column])
            if self.vacant(below):
                self.cells[row + 1, column], self.cells[row, column] = self.cells[row, column], FLOOR

    def draw(self) -> np.ndarray:
        """Return what the camera sees, (64, 64, 3) uint8."""
        span, size = np.array(self.cells.shape), self.art.shape[1]
        scale = FRAME_SIZE / self.view  # pixels per cell
        room = span - self.view
        corner = np.where(room <= 0, room / 2, np.clip(self.player.position + 0.5 - self.view / 2, 0, room))
        points = (np.arange(FRAME_SIZE * self.samples) + 0.5) / self.samples
        y, x = (points + np.round(corner * scale)[:, None]) / scale
        row, column = np.floor(y).astype(int), np.floor(x).astype(int)
        inner_y, inner_x = ((y - row) * size).astype(int), ((x - column) * size).astype(int)
        kinds = np.pad(self.cells, 1, constant_values=WALL)[
            np.clip(row + 1, 0, span[0] + 1)[:, None], np.clip(column + 1, 0, span[1] + 1)
        ]
        picture = self.art[kinds, inner_y[:, None], inner_x]
        for walker in (*self.foes, self.player):
            look = walker.look.mirrored() if walker.way[1] < 0 else walker.look
            top, left = walker.position
            rows, columns = (np.flatnonzero((at >= low) & (at < low + 1)) for at, low in ((y, top), (x, left)))
            part = ((y[rows] - top) * size).astype(int)[:, None], ((x[columns] - left) * size).astype(int)
            where = np.ix_(rows, columns)
            picture[where] = np.where(look.shape[part][..., None], look.pixels[part], picture[where])
        n = self.samples
        total = sum(picture[i::n, j::n].astype(np.uint16) for i in range(n) for j in range(n))
        return ((total + n * n // 2) // (n * n)).astype(np.uint8)

    def hint(self) -> int:
        """Return the direction of the nearest thing that pays, by the shortest way."""
        if self.player.left:
            return token("NOOP")
        kinds = np.pad(self.cells, 1, constant_values=WALL).tolist()
        closed = (WALL, BOULDER) if self.keys else (WALL, BOULDER, LOCK)
        start = tuple((self.player.cell + 1).tolist())
        first, queue = {start: 0}, [start]  # token of the first step towards a cell
        for row, column in queue:
            if kinds[row][column] in (GEM, EXIT, KEY) and (row, column) != start:
                return first[row, column]
            for index, (dx, dy) in enumerate(OFFSETS[1:5]):
                there = (row + dy, column + dx)
                if there not in first and kinds[there[0]][there[1]] not in closed:
                    first[there] = first[row, column] or index + 1
                    queue.append(there)
        return token("NOOP")
