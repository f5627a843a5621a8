"""Pictures for invented games: sprites, backdrops and walls, every one drawn by chance.

An artist's habits, as far as a world model must not depend on them: sprites are mirrored,
outlined or plain, in two or three colours; a backdrop is flat, graded, striped, checked,
cloudy or like a photograph; walls are tiles with an edge or without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONTRAST = 110  # least distance between what must be told apart, sum over the channels


@dataclass(frozen=True)
class Sprite:
    """A picture with a shape.

    Attributes: pixels (h, w, 3) uint8; shape (h, w) bool.
    """

    pixels: np.ndarray
    shape: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Width and height in pixels."""
        return np.array(self.shape.shape[::-1])

    def mirrored(self) -> Sprite:
        """Return the sprite looking the other way."""
        return Sprite(self.pixels[:, ::-1], self.shape[:, ::-1])

    def draw(self, frame: np.ndarray, corner: np.ndarray) -> None:
        """Draw it at (x, y) of its top left corner; what lies beyond the frame is cut off."""
        height, width = frame.shape[:2]
        x, y = int(corner[0]), int(corner[1])
        left, top = max(0, -x), max(0, -y)
        right, bottom = min(self.shape.shape[1], width - x), min(self.shape.shape[0], height - y)
        if right <= left or bottom <= top:
            return
        shape = self.shape[top:bottom, left:right]
        frame[y + top : y + bottom, x + left : x + right][shape] = self.pixels[top:bottom, left:right][shape]


def colours(rng: np.random.Generator, count: int, apart: int = CONTRAST) -> np.ndarray:
    """Draw colours that can be told apart, (count, 3) uint8."""
    while True:
        drawn = rng.integers(0, 256, (count, 3))
        distance = np.abs(drawn[:, None] - drawn[None]).sum(-1)
        if (distance[np.triu_indices(count, 1)] >= apart).all():
            return drawn.astype(np.uint8)


def sprite(rng: np.random.Generator, colour: np.ndarray, width: int, height: int) -> Sprite:
    """Draw a sprite in which a colour leads: a box, a disc, or a mirrored figure of pixels."""
    pixels = np.broadcast_to(colour, (height, width, 3)).copy()
    second = rng.integers(0, 256, 3).astype(np.uint8)
    kind = rng.choice(("box", "disc", "figure", "figure"))
    y, x = np.mgrid[:height, :width]
    shape = np.ones((height, width), bool)
    if kind == "disc":
        shape = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5) <= 0.52
    elif kind == "figure":
        half = rng.random((height, -(-width // 2)))
        whole = np.concatenate([half, half[:, : width // 2][:, ::-1]], axis=1)
        shape = whole > 0.25
        shape[:, width // 2] = shape[height // 2] = True  # in one piece
        pixels[whole > 0.7] = second
    if kind != "figure" and min(width, height) >= 4 and rng.random() < 0.6:
        inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
        pixels[inner if rng.random() < 0.5 else ~inner] = second
    if min(width, height) >= 5 and rng.random() < 0.3:  # an eye, so that it looks somewhere
        pixels[height // 3, width * 2 // 3] = 255 - colour
        shape[height // 3, width * 2 // 3] = True
    return Sprite(pixels, shape)


def backdrop(rng: np.random.Generator, colour: np.ndarray, width: int, height: int) -> np.ndarray:
    """Draw a backdrop around a colour, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    kind = rng.choice(("flat", "flat", "graded", "striped", "checked", "cloudy", "grainy", "scenic"))
    depth = rng.uniform(8, 40)
    step = int(rng.choice((2, 4, 8, 16)))
    if kind == "flat":
        shade = np.zeros((height, width, 1))
    elif kind == "graded":
        shade = (y / height - 0.5)[..., None] * rng.uniform(-2, 2, 3) * depth
    elif kind == "striped":
        shade = ((y if rng.random() < 0.5 else x) // step % 2)[..., None] * depth
    elif kind == "checked":
        shade = ((x // step + y // step) % 2)[..., None] * depth
    elif kind == "scenic":  # patches upon patches, as in a photograph
        shade = np.zeros((height, width, 3))
        for grain in (32, 16, 8, 4, 2):
            patches = rng.normal(0, depth / 2, (-(-height // grain), -(-width // grain), 3))
            shade += patches.repeat(grain, 0).repeat(grain, 1)[:height, :width]
    else:  # repeated, as tiles are
        side = 4 if kind == "grainy" else 16
        coarse = 1 if kind == "grainy" else 4
        noise = rng.normal(0, depth / 2, (side // coarse, side // coarse, 3 if rng.random() < 0.5 else 1))
        tile = noise.repeat(coarse, 0).repeat(coarse, 1)
        shade = np.tile(tile, (-(-height // side), -(-width // side), 1))[:height, :width]
    return (colour + shade).clip(0, 255).astype(np.uint8)


def walls(rng: np.random.Generator, colour: np.ndarray, width: int, height: int, tile: int) -> np.ndarray:
    """Draw a wall over the whole picture, (height, width, 3) uint8: one or two tiles wide, often with an edge."""
    picture = backdrop(rng, colour, width, height).astype(int)
    side = tile * int(rng.choice((1, 2)))
    y, x = np.mgrid[:height, :width]
    if rng.random() < 0.6:
        edge = (x % side == 0) | (y % side == 0) if rng.random() < 0.5 else y % side == 0
        picture[edge] += int(rng.choice((-50, -25, 25, 50)))
    return picture.clip(0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, colour: np.ndarray, side: int) -> np.ndarray:
    """Draw a tile around a colour, (side, side, 3) uint8: a piece of a wall, or loud, of any colours."""
    if rng.random() < 0.75:
        return walls(rng, colour, side, side, side)
    grain = int(rng.choice((1, 2, 4)))
    loud = rng.normal(0, rng.uniform(20, 90), (side // grain, side // grain, 3))
    return (colour + loud.repeat(grain, 0).repeat(grain, 1)).clip(0, 255).astype(np.uint8)
