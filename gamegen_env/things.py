"""Things: what hangs together moves as a whole.

A body lies in several cells, and a sprite's motion (`motion.py`) in each of them is one choice more that can go wrong:
one missed, and the body is torn. So a model may have things, a third form of every motion. An update with a thing's
motion moves its own cell as a sprite's does, and carries along the rest of the thing: all pixels on screen that stand
out from the anchor and hang together, corner to corner, with those that the motion brings to the cell or takes from
it. Cells that the step updates itself stay as it says, and those not wholly on screen as they are. What is carried
along are no tokens. The canvas, which has the pixels, finds it; the tile map is told.

Source: the skipped blocks of video codecs, such as H.264, which take the motion of those beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen_env.motion import Motions, stands_out

_AROUND = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x])


@dataclass(frozen=True)
class Along:
    """What the things of a step carry along, by slot and cell."""

    row: np.ndarray  # (k,) int64, which of the slots that step
    cells: np.ndarray  # (k,) int64
    motions: np.ndarray  # (k,) int64, those of what stands out
    update: np.ndarray  # (k,) int64, whose thing it is
    pixels: Any  # (k, c, c, 3) uint8, what the cells show then; None on a GPU, which keeps it


def hanging(
    table: Motions, shown: np.ndarray, below: np.ndarray, on_screen: np.ndarray, cells: np.ndarray, motions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move things, each over a picture of its own.

    Args:    shown, below: (k, size, size, 3) uint8, what is there and what was at first; on_screen: (k, size, size)
             bool; cells, motions: (k,) integer, of the updates that name the things.
    Returns: the pictures after it (k, size, size, 3) uint8, and which cells (k, M * M) bool have changed visibly.
    """
    m, c, size = table.map_cells, table.cell_size, table.size
    out = stands_out(shown, below)[..., 0] & on_screen
    thing = np.zeros_like(out)
    for near in (0, c):
        mover = (~thing.any((1, 2))).nonzero()[0]
        for motion in (motions[mover], np.full(len(mover), table.still)):
            y, x = table.sources(cells[mover], motion, near)
            thing[mover[:, None, None], y, x] |= out[mover[:, None, None], y, x]
    fill(thing, out)
    moved = np.where(thing[..., None], below, shown)
    who, y, x = thing.nonzero()
    dx, dy = table.vectors[motions[who] % table.n_vectors].T
    moved[who, (y + dy) % size, (x + dx) % size] = shown[who, y, x]
    changes = stands_out(moved, shown).reshape(-1, m, c, m, c)
    return moved, np.any(np.any(changes, 2), 3).reshape(-1, m * m)


def fill(thing: np.ndarray, out: np.ndarray) -> None:
    """Let things (k, size, size) bool grow over what stands out around them, on the torus, until nothing is beside.

    A picture is an integer here, a bit for a pixel, row after row: a ring of pixels more is a dozen operations on long
    integers, which take much less time than those on arrays of places.
    """
    size = thing.shape[1]
    whole = size * size
    first = ((1 << whole) - 1) // ((1 << size) - 1)  # of every row
    last = first << size - 1
    for pixels, around in zip(thing, out, strict=True):
        grown, allowed = _bits(pixels), _bits(around)
        before = -1
        while grown != before:
            before = grown
            right = (grown & ~last) << 1 | (grown & last) >> size - 1
            left = (grown & ~first) >> 1 | (grown & first) << size - 1
            row = grown | right | left
            column = row << size | row >> whole - size | row >> size | row << whole - size
            grown |= (row | column) & allowed
        bits = np.frombuffer(grown.to_bytes(-(-whole // 8), "little"), np.uint8)
        pixels[:] = np.unpackbits(bits, count=whole, bitorder="little").reshape(size, size)


def _bits(pixels: np.ndarray) -> int:
    return int.from_bytes(np.packbits(pixels, bitorder="little").tobytes(), "little")


def groups(row: np.ndarray, cells: np.ndarray, motions: np.ndarray, map_cells: int) -> np.ndarray:
    """Return for every update the middle one of those that hang together with it by cells of one motion: (k,) int64.

    Args: row: (k,) of which slot, ascending; cells: ascending within a slot.
    """
    if not len(row):
        return row
    place = np.full((int(row[-1]) + 1, map_cells, map_cells), -1)
    y, x = cells // map_cells, cells % map_cells
    place[row, y, x] = np.arange(len(row))
    beside = place[row[:, None], (y[:, None] + _AROUND[:, 0]) % map_cells, (x[:, None] + _AROUND[:, 1]) % map_cells]
    alike = (beside >= 0) & (motions[beside] == motions[:, None])
    beside = np.where(alike, beside, np.arange(len(row))[:, None])
    first = np.arange(len(row))
    while True:
        least = np.minimum(first, first[beside].min(1))
        if np.array_equal(least, first):
            break
        first = least
    # Of the cells of a group the one nearest to their mean, the first of equals; a mean on a torus is from somewhere.
    half = map_cells // 2
    away = np.stack([(a - a[first] + half) % map_cells - half for a in (y, x)])
    size = np.maximum(np.bincount(first, minlength=len(row)), 1)
    mean = np.stack([np.bincount(first, a, len(row)) / size for a in away])
    distance = np.square(away - mean[:, first]).sum(0)
    order = np.lexsort((np.arange(len(row)), distance, first))
    leads = np.append(True, first[order][1:] != first[order][:-1])
    middle = np.zeros(len(row), np.int64)
    middle[first[order[leads]]] = order[leads]
    return middle[first]
