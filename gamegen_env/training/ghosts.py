"""Ghosts: pieces of what moves, left standing in a keyframe's map, that the stream takes away again.

What goes wrong within a minute of play is mostly this: a piece of a sprite stays behind, a keyframe
makes it part of the map, and nothing that a model has learned from says that it should go, for in
recordings nothing stays behind. So some keyframes of training sequences get such pieces, near to
where they belong, and later steps put back what was there, each piece by itself: that carries a loss.

When a piece goes does not depend on how long it has stood, and while it stays, what is chosen instead
of taking it away carries no loss. Were it always within a few steps, or were its staying scored, what
has outlived them would be no ghost, and a model that once missed one would leave it for good.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gamegen_env.closed_loop import AFTER_DROP
from gamegen_env.codec import Stream
from gamegen_env.stream import Grammar

MOST = 8  # ghosts in a map
SOON = 32  # steps whose updates they are pieces of
NEAR = 3  # cells, on each axis, from where they belong
LEAVES = 0.1  # chance per step that a ghost goes


def haunt(
    stream: Stream, grammar: Grammar, step: int, last: int, codes: np.ndarray, origin: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Stream, np.ndarray]:  # fmt: skip
    """Put ghosts into the map before a step.

    Args:    step, last: the step, and the end of its clip; codes: (n_cells,) integer, the map; origin: (2,).
    Returns: the stream with the updates that take them away among the others, and the map with ghosts. Both as they
             were where nothing moves soon, or all that was drawn is no ghost.
    """
    ptr, m = stream.update_ptr, grammar.map_cells
    soon = slice(int(ptr[step]), int(ptr[min(step + SOON, last)]))
    if soon.start == soon.stop:
        return stream, codes
    pieces = rng.integers(soon.start, soon.stop, rng.integers(1, MOST + 1))
    row, col = np.divmod(stream.update_cell[pieces].astype(np.int64), m)
    down, right = rng.integers(-NEAR, NEAR + 1, (2, len(pieces)))
    places, first = np.unique((row + down) % m * m + (col + right) % m, return_index=True)
    ghosts = stream.update_code[pieces[first]].astype(codes.dtype)
    away = step + rng.geometric(LEAVES, len(places)) - 1
    # A ghost goes while its clip lasts, and while its cell is on screen. A cell that is updated before would lose its
    # ghost, or be given the code that it has.
    origins = (origin + np.cumsum(stream.scroll[step:last], 0, np.int64)) % grammar.size
    kept = grammar.visible_cells(origin)[places] & (ghosts != codes[places]) & (away < last)
    for i in kept.nonzero()[0]:
        until = int(away[i])
        busy = places[i] in stream.changes(step, until + 1)[1]
        kept[i] = not busy and grammar.visible_cells(origins[until - step])[places[i]]
    order = np.lexsort((places[kept], away[kept]))
    places, ghosts, away = places[kept][order], ghosts[kept][order], away[kept][order]
    if not len(places):
        return stream, codes
    at = [
        ptr[until] + np.searchsorted(stream.update_cell[ptr[until] : ptr[until + 1]], place)
        for until, place in zip(away.tolist(), places.tolist(), strict=True)
    ]
    updates = {"update_cell": places, "update_code": codes[places], "update_flag": 0, "update_motion": -1}
    haunted = codes.copy()
    haunted[places] = ghosts
    later = ptr + np.searchsorted(away, np.arange(len(ptr)))
    arrays: dict[str, Any] = {name: np.insert(getattr(stream, name), at, values) for name, values in updates.items()}
    arrays["end_flag"] = stream.end_flag.copy()
    for until, place in zip(away.tolist(), places.tolist(), strict=True):
        for t in range(step, until):
            passed = int(later[t] + np.searchsorted(arrays["update_cell"][later[t] : later[t + 1]], place))
            if passed < later[t + 1]:
                arrays["update_flag"][passed] |= AFTER_DROP
            else:
                arrays["end_flag"][t] |= AFTER_DROP
    return dataclasses.replace(stream, update_ptr=later, **arrays), haunted
