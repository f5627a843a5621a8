"""Invents games on a grid (`grid.py`): mazes, caves to dig, warehouses, halls, each in its own looks.

Cells are 2.5 to 9 pixels wide, so that they seldom fall together with those of a tokenizer.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.games.artwork import Sprite, colours, sprite, texture
from gamegen_env.games.grid import BOULDER, EXIT, FLOOR, GEM, KEY, LOCK, SOIL, WALL, WAYS, GridGame, Walker
from gamegen_env.games.maze import carve

ART = 8  # pixels of a cell's picture, before it is brought to size
VIEWS = (7, 25)  # cells across the picture, from and to


def delve(rng: np.random.Generator) -> GridGame:
    """Invent a game."""
    view = int(rng.integers(VIEWS[0], VIEWS[1] + 1))
    follows = rng.random() < 0.35  # the camera, in a world larger than the picture
    height, width = (int(rng.integers(view + 2, 2 * view + 4)) for _ in range(2)) if follows else (view, view)
    if not follows and rng.random() < 0.25:  # a small world, walls all around
        height, width = (int(rng.integers(max(5, view // 2), view + 1)) for _ in range(2))
    plan = str(rng.choice(("maze", "maze", "cave", "cave", "warehouse", "hall")))
    cells = _LEVELS[plan](rng, height, width)
    art, looks = _looks(rng)
    # A camera that jumps by a large cell would be a cut.
    slowest = 2 if follows and view < 13 else 1
    pace = max(slowest, int(rng.choice((1, 1, 2, 3, 4))))
    free = np.argwhere(cells == FLOOR)
    place = free[rng.integers(len(free))]
    game = GridGame(
        rng, cells, art, Walker(looks[0], place, pace, "keys"), [],
        view=view, samples=int(rng.choice((1, 2))), pushes=plan == "warehouse" or rng.random() < 0.5,
        falls=plan == "cave" and rng.random() < 0.7,
    )  # fmt: skip
    _furnish(game, plan)
    manners = rng.choice(("hunt", "wander", "patrol"), 2)
    for _ in range(int(rng.choice((0, 0, 1, 2, 3, 4)))):
        far = free[np.abs(free - place).max(1) > 3]
        if len(far):
            kind = int(rng.integers(2))
            foe = Walker(looks[1 + kind], far[rng.integers(len(far))], pace + kind + slowest - 1, str(manners[kind]))
            foe.way = WAYS[rng.integers(4)]
            game.cells[tuple(foe.cell)] = FLOOR
            game.foes.append(foe)
    return game


def _maze(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Carve ways one cell wide, some of them joined."""
    cells = np.where(carve(rng, height, width, 1), WALL, FLOOR)
    opened = rng.random((height - 2, width - 2)) < rng.choice((0.0, 0.05, 0.2))
    cells[1:-1, 1:-1][opened] = FLOOR
    return cells


def _cave(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fill with soil, boulders and hollows."""
    shares = np.array((rng.uniform(0.1, 0.4), rng.uniform(0, 0.1), 1.0, rng.uniform(0.02, 0.25)))
    cells = rng.choice((FLOOR, WALL, SOIL, BOULDER), (height, width), p=shares / shares.sum())
    cells[rng.integers(height), rng.integers(width)] = FLOOR
    return cells


def _warehouse(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Strew an open floor with boxes and posts."""
    share = rng.uniform(0.05, 0.2)
    cells = rng.choice((FLOOR, BOULDER, WALL), (height, width), p=(1 - 1.5 * share, share, share / 2))
    cells[[0, -1]] = cells[:, [0, -1]] = WALL
    cells[height // 2, width // 2] = FLOOR
    return cells


def _hall(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Set pillars or blocks into an open floor."""
    cells = np.full((height, width), FLOOR)
    if rng.random() < 0.5:
        cells[2::2, 2::2] = WALL
    else:
        for _ in range(int(rng.integers(1, 2 + height * width // 30))):
            y, x = rng.integers(height), rng.integers(width)
            cells[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = WALL
    if rng.random() < 0.7:
        cells[[0, -1]] = cells[:, [0, -1]] = WALL
    cells[1, 1] = FLOOR
    return cells


_LEVELS = {"maze": _maze, "cave": _cave, "warehouse": _warehouse, "hall": _hall}


def _furnish(game: GridGame, plan: str) -> None:
    """Lay out what pays: gems, an exit, locks with their keys."""
    rng, cells = game.rng, game.cells
    room = np.argwhere(np.isin(cells, (FLOOR, SOIL)))
    room = room[(room != game.player.cell).any(1)]
    rng.shuffle(room)
    gems = int(rng.choice((0, 1, 3, len(room) // 10, len(room) // 2 if plan == "maze" else len(room) // 6)))
    locks = int(rng.integers(1, 3)) if plan == "maze" and rng.random() < 0.4 else 0
    wanted = [EXIT] * int(rng.random() < 0.6) + [LOCK, KEY] * locks + [GEM] * gems
    for kind, (y, x) in zip(wanted, room, strict=False):
        cells[y, x] = kind


def _looks(rng: np.random.Generator) -> tuple[np.ndarray, list[Sprite]]:
    """Draw the art of the kinds of cell, (8, ART, ART, 3) uint8, and sprites of the player and two kinds of foe."""
    palette = colours(rng, 10, 90)
    floor = texture(rng, palette[0], ART)
    art = np.stack([floor] * (KEY + 1))
    art[WALL], art[SOIL] = texture(rng, palette[1], ART), texture(rng, palette[2], ART)
    for index, kind in enumerate((BOULDER, GEM, EXIT, LOCK, KEY)):
        look = sprite(rng, palette[3 + index], ART, ART)
        art[kind][look.shape] = look.pixels[look.shape]
    return art, [sprite(rng, palette[i], ART, ART) for i in (8, 9, 3 + int(rng.integers(5)))]
