"""Lapses: for some steps a whole thing is missing, or stays behind where it was.

What ruins a long play is, on film, a ball that is lost, or a bar that is there twice. Injected errors are
single cells, and ghosts are pieces, so nothing says that a thing is to come back as a whole. So in some
clips a thing that moves is not drawn for some steps, wherever it goes, or what it showed at one step stays;
then the stream puts all of it right in one step.

As with other errors, no choice that passes over what is wrong carries a loss, nor does an outcome that
depends on what is not there; and the way into a lapse does not either.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gamegen_env.closed_loop import AFTER_DROP, NO_OUTCOME, WRONG_CODE
from gamegen_env.codec import Stream
from gamegen_env.stream import Grammar

# Measured: at 0.05 and 64 doubled things stay as before, at 0.15 and 32 half as many do (docs/decisions.md).
RATE = 0.15  # chance per step that one begins, if something fit for it moves then
LASTING = 32  # steps; as many last for 1 as for 2 or 3, 4 to 7, 8 to 15 and 16 to 31
LARGEST = 48  # cells of a thing
_UPDATES = ("update_cell", "update_code", "update_flag", "update_motion")


def lapse(clip: Stream, grammar: Grammar, start: int, stop: int, rng: np.random.Generator) -> Stream:
    """Return a clip, alone in its stream, with lapses that begin and end within steps [start, stop)."""
    usual, ptr = usual_codes(clip, grammar), clip.update_ptr
    before = np.stack([getattr(clip, name).astype(np.int64) for name in _UPDATES])
    parts, counts, end_flag, kept = [], np.diff(ptr), clip.end_flag.copy(), 0
    step = start
    while (step := step + int(rng.geometric(RATE)) - 1) < stop:
        until = step + int(LASTING ** rng.random())
        spelled = _spell(clip, before, grammar, step, until, usual, rng) if until < stop else []
        if spelled:
            parts.append(before[:, ptr[kept] : ptr[step]])
        for at, (updates, flag) in enumerate(spelled, step):
            parts.append(updates)
            counts[at] = updates.shape[1]
            end_flag[at] |= flag
            kept = at + 1
        step = max(step + 1, kept)
    if not kept:
        return clip
    after = np.concatenate([*parts, before[:, ptr[kept] :]], 1)
    arrays: dict[str, Any] = {
        name: row.astype(getattr(clip, name).dtype) for name, row in zip(_UPDATES, after, strict=True)
    }
    return dataclasses.replace(clip, update_ptr=np.append(0, np.cumsum(counts)), end_flag=end_flag, **arrays)


def usual_codes(clip: Stream, grammar: Grammar) -> np.ndarray:
    """Return the code (n_cells,) int64 that each cell of a clip shows for most of the time: what things move over."""
    n, last = grammar.n_cells, len(clip.action)
    cell = np.concatenate([np.arange(n), clip.update_cell.astype(np.int64)])
    code = np.concatenate([clip.codes[0], clip.update_code]).astype(np.int64)
    time = np.concatenate([np.zeros(n, np.int64), np.repeat(np.arange(last), np.diff(clip.update_ptr))])
    order = np.argsort(cell, kind="stable")
    cell, code, time = cell[order], code[order], time[order]
    gone = np.append(time[1:], last)
    gone[np.append(cell[1:] != cell[:-1], True)] = last
    shown, which = np.unique(np.stack([cell, code]), axis=1, return_inverse=True)
    longest = np.lexsort((np.bincount(which.ravel(), gone - time), shown[0]))
    usual = np.empty(n, np.int64)
    usual[shown[0, longest]] = shown[1, longest]  # of equal cells the last one stays
    return usual


def _spell(
    clip: Stream, before: np.ndarray, grammar: Grammar, step: int, until: int, usual: np.ndarray,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, int]]:  # fmt: skip
    """Spell steps step..until anew, with a lapse that begins in the first and is mended in the last.

    Args:    before: (4, updates) int64, cells, codes, flags and motions of the clip's updates.
    Returns: per step its updates (4, n), and what to add to its END's flag; nothing if what is drawn is not fit: too
             large, or not all in view.
    """
    ptr, m = clip.update_ptr, grammar.map_cells
    first = before[:, ptr[step] : ptr[step + 1]]
    if not first.size:
        return []
    truth, origin = (array.astype(np.int64) for array in clip.map_at(0, step))
    shown, stays = truth.copy(), rng.random() < 0.5
    held = truth.copy()
    if not stays:
        held[first[0]] = first[1]
    moved = np.zeros(grammar.n_cells, bool)
    moved[rng.choice(first[0])] = True
    thing = _thing(moved, held != usual, m)
    if not 0 < thing.sum() <= LARGEST or not grammar.visible_cells(origin)[thing].all():
        return []
    spelled = []
    for t in range(step, until + 1):
        updates = before[:, ptr[t] : ptr[t + 1]]
        origin = grammar.move(origin, clip.scroll[t])
        right = shown == truth
        truth[updates[0]] = updates[1]
        if t == until:
            want = truth
        elif stays:
            want = np.where(thing, held, truth)
        else:
            if t > step:  # lost is what stands out where it was, or next to that
                thing = _near(thing, m) & (truth != usual)
            want = np.where(thing, usual, truth)
        if thing.sum() > 2 * LARGEST:
            return []
        anew, end = _step(updates, right, truth, want, shown, grammar.visible_cells(origin))
        spelled.append((anew, end | NO_OUTCOME * (t < until)))
    # If some of it has left the view, nobody would put it right.
    return spelled if (shown == truth).all() else []


def _step(
    updates: np.ndarray, right: np.ndarray, truth: np.ndarray, want: np.ndarray, shown: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, int]:
    """Spell a step after which the map is to be `want`, and turn `shown` into that; all of them (n_cells,).

    Args:    updates: (4, n), those that led to `truth`; right: where `shown` was like the truth before.
    Returns: updates (4, k) and END's flag.
    """
    cells, _, flags, _ = updates
    keep = right[cells] & (want[cells] == truth[cells])
    anew = (want != shown) & visible
    anew[cells[keep]] = False
    added = anew.nonzero()[0]
    flag = np.where(want[added] == truth[added], 0, WRONG_CODE | AFTER_DROP)
    flag[np.isin(added, cells[flags & WRONG_CODE > 0])] |= WRONG_CODE  # an error of before, whoever paints it
    new = np.stack([added, want[added], flag, np.full(len(added), -1)])
    spelled = np.concatenate([updates[:, keep], new], 1)
    spelled = spelled[:, spelled[0].argsort()]
    shown[spelled[0]] = spelled[1]
    # Not scored is the first choice that passes over a cell that is wrong, or would have been it before.
    passed = ((shown != truth) & visible).nonzero()[0] + 1
    passed = np.concatenate([passed, cells[~keep & (flags & AFTER_DROP > 0)]])
    after = np.searchsorted(spelled[0], passed)
    late = after == spelled.shape[1]
    spelled[2, after[~late]] |= AFTER_DROP
    return spelled, AFTER_DROP * bool(late.any())


def _thing(part: np.ndarray, stands_out: np.ndarray, m: int) -> np.ndarray:
    """Return what stands out and hangs together with a part, or comes next to it, (n_cells,) bool; at most LARGEST
    cells and what is next to them."""
    thing, more = part & False, _near(part, m) & stands_out
    while more.sum() > thing.sum() and thing.sum() <= LARGEST:
        thing, more = more, _near(more, m) & stands_out
    return more


def _near(cells: np.ndarray, m: int) -> np.ndarray:
    """Return cells and their eight neighbours, (n_cells,) bool; a map's edges meet."""
    grid = cells.reshape(m, m)
    rows = grid | np.roll(grid, 1, 0) | np.roll(grid, -1, 0)
    return (rows | np.roll(rows, 1, 1) | np.roll(rows, -1, 1)).reshape(-1)
