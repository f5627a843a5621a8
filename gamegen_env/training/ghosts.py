"""Ghosts: pieces of what moves, left standing in a keyframe's map, that the stream takes away again.

What goes wrong within a minute of play is mostly this: a piece of a sprite stays behind, a keyframe
makes it part of the map, and nothing that a model has learned from says that it should go, for in
recordings nothing stays behind. So some keyframes of training sequences get such pieces, near to
where they belong, and one of the next steps puts back what was there: that carries a loss.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gamegen_env.codec import Stream
from gamegen_env.stream import Grammar

MOST = 8  # ghosts in a map
SOON = 32  # steps whose updates they are pieces of
NEAR = 3  # cells, on each axis, from where they belong
DELAY = 4  # steps, one of which takes them away


def haunt(
    stream: Stream, grammar: Grammar, step: int, last: int, codes: np.ndarray, origin: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Stream, np.ndarray]:  # fmt: skip
    """Put ghosts into the map before a step.

    Args:    step, last: the step, and the end of its clip; codes: (n_cells,) integer, the map; origin: (2,).
    Returns: the stream with the updates that take them away among the others, and the map with ghosts. Both as they
             were where nothing moves soon, the camera moves at once, or all that was drawn is no ghost.
    """
    ptr, m = stream.update_ptr, grammar.map_cells
    away = min(step + int(rng.integers(DELAY)), last - 1)
    soon = slice(int(ptr[step]), int(ptr[min(step + SOON, last)]))
    if soon.start == soon.stop or stream.scroll[step : away + 1].any():
        return stream, codes
    pieces = rng.integers(soon.start, soon.stop, rng.integers(1, MOST + 1))
    row, col = np.divmod(stream.update_cell[pieces].astype(np.int64), m)
    down, right = rng.integers(-NEAR, NEAR + 1, (2, len(pieces)))
    places, first = np.unique((row + down) % m * m + (col + right) % m, return_index=True)
    ghosts = stream.update_code[pieces[first]].astype(codes.dtype)
    # A cell that is updated before the ghosts go would lose its ghost, or be given the code that it has.
    busy = np.isin(places, stream.update_cell[ptr[step] : ptr[away + 1]])
    kept = grammar.visible_cells(origin)[places] & (ghosts != codes[places]) & ~busy
    places, ghosts = places[kept], ghosts[kept]
    at = ptr[away] + np.searchsorted(stream.update_cell[ptr[away] : ptr[away + 1]], places)
    updates = {"update_cell": places, "update_code": codes[places], "update_flag": 0, "update_motion": -1}
    haunted = codes.copy()
    haunted[places] = ghosts
    later = ptr.copy()
    later[away + 1 :] += len(places)
    arrays: dict[str, Any] = {name: np.insert(getattr(stream, name), at, values) for name, values in updates.items()}
    return dataclasses.replace(stream, update_ptr=later, **arrays), haunted
