"""Anchors: what every cell showed when it came into view.

A keyframe is written again and again, from the map as it is: what once went wrong is then how it is, and nothing in
the window says what stood there in the picture that the game began with. So a tile map has an anchor, another map:
the code that a cell had at the reset, or, where the camera moves, at the end of the step that brought all of it on
screen. A keyframe says of each cell whether it has gone astray from its anchor, and an update may bring it back,
whatever the code is, with one choice.

Source: the long-term reference pictures of video codecs, such as H.264.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.codec import Stream
from gamegen_env.stream import Grammar


def follow(
    stream: Stream, start: int, stop: int, codes: np.ndarray, origin: np.ndarray, anchor: np.ndarray, grammar: Grammar
) -> tuple[np.ndarray, np.ndarray]:
    """Follow the anchor through steps [start, stop) of a clip.

    Args:    codes, anchor: (n_cells,) int64 before them; origin: (2,).
    Returns: the anchors (updates,) int64 of the cells that they update, then; and the anchor (n_cells,) after them.
    """
    ptr = stream.update_ptr
    first, last = int(ptr[start]), int(ptr[stop])
    cells = stream.update_cell[first:last].astype(np.int64)
    scroll = stream.scroll[start:stop].astype(np.int64)
    if not grammar.anchored or not scroll.any():  # nobody asks, or nothing comes on screen
        return anchor[cells], anchor
    step, changed, new = stream.changes(start, stop)
    begin = np.searchsorted(step, np.arange(stop - start + 1))
    origins = np.concatenate([origin[None], (origin + np.cumsum(scroll, 0)) % grammar.size])
    appeared = grammar.appeared(origins[:-1], origins[1:])
    codes, anchor = codes.copy(), anchor.copy()
    seen = np.empty(len(cells), np.int64)
    for i in range(stop - start):
        at = slice(int(ptr[start + i]) - first, int(ptr[start + i + 1]) - first)
        seen[at] = anchor[cells[at]]
        now = slice(begin[i], begin[i + 1])
        codes[changed[now]] = new[now]
        anchor[appeared[i]] = codes[appeared[i]]
    return seen, anchor
