"""Streams as training sequences: keyframe, steps, keyframe, steps ... until the sequence is full.

The layout is the one that serving produces (`engine`): a keyframe comes before any step
that finds more than `updates_per_keyframe` step tokens since the last one. A clip that
ends early is followed by the keyframe of another, which the model reads as a cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gamegen_env.anchor import follow
from gamegen_env.closed_loop import NO_OUTCOME
from gamegen_env.codec import Stream
from gamegen_env.config import ACT, END, SCROLL, UPD, ModelConfig
from gamegen_env.stream import Grammar
from gamegen_env.training.ghosts import haunt
from gamegen_env.training.overtime import play_on

BEGINS = 0.3  # share of sequences that a game begins with, as from a picture: what was before is not known
EARLY_KEYFRAME = 0.3  # share of sequences whose first keyframe interval is cut short, to see every phase


@dataclass(frozen=True)
class Batch:
    """B sequences of S tokens, and the targets of the three heads as flat lists.

    `at` arrays index the flattened (B * S) positions whose hidden state is read.
    """

    rows: np.ndarray  # (B, S, 6) int32
    event_at: np.ndarray  # (E,) int64
    event: np.ndarray  # (E,) int64, class of the event after that position
    code_at: np.ndarray  # (U,) int64
    cell: np.ndarray  # (U,) int64
    origin: np.ndarray  # (U, 2) int64
    present: np.ndarray  # (U,) int64, the cell's code before the update
    anchor: np.ndarray  # (U,) int64, the cell's anchor
    code: np.ndarray  # (U,) int64, its code after
    motion: np.ndarray  # (U,) int64, the motion that brings it, -1 where the cell is repainted
    choice: np.ndarray  # (U,) int64, what the code head is to choose: a code, or codebook_size + a motion
    end_at: np.ndarray  # (D,) int64
    reward: np.ndarray  # (D,) int64
    done: np.ndarray  # (D,) int64


@dataclass
class _Piece:
    """Rows of a part of one sequence, with targets relative to its start."""

    rows: np.ndarray
    event: np.ndarray  # (n,) int64, -1 where no event is scored
    present: np.ndarray  # (n,) int64, at positions whose event is an update; -1 elsewhere
    anchor: np.ndarray  # (n,) int64, likewise
    code: np.ndarray  # (n,) int64, likewise; -1 where the code is not scored
    motion: np.ndarray  # (n,) int64, likewise
    end: np.ndarray  # (n,) bool, the event after this position is END, and its reward and termination are scored


def _keyframe(codes: np.ndarray, origin: np.ndarray, time: int, anchor: np.ndarray, grammar: Grammar) -> _Piece:
    none = np.full(len(codes), -1, np.int64)
    rows = grammar.keyframe_tokens(codes, origin, time, anchor)
    return _Piece(rows, none, none, none, none, none, np.zeros(len(codes), bool))


def _steps(
    stream: Stream, start: int, stop: int, codes: np.ndarray, origin: np.ndarray, anchor: np.ndarray,
    before: np.ndarray, time: int, grammar: Grammar,
) -> tuple[_Piece, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Tokens of steps [start, stop), the scroll before them being `before` (2,); map, origin and anchor after them."""
    first, last = int(stream.update_ptr[start]), int(stream.update_ptr[stop])
    counts = np.diff(stream.update_ptr[start : stop + 1]).astype(np.int64)
    scroll = stream.scroll[start:stop].astype(np.int64)
    scrolled = scroll.any(1)
    origins = (origin + np.cumsum(scroll, 0)) % grammar.size
    begun = np.concatenate([origin[None], origins[:-1]])
    camera = np.concatenate([before[None], scroll[:-1]])
    along = stream.carried_ptr[start : stop + 1].astype(np.int64)
    carried = np.diff(along)
    lengths = 2 + scrolled + counts + carried
    begin = np.concatenate([[0], np.cumsum(lengths)])
    n = int(begin[-1])
    rows = np.empty((n, 6), np.int32)
    step_of = np.repeat(np.arange(stop - start), lengths)
    rows[:, 3:5] = origins[step_of]
    rows[:, 5] = time + step_of

    act, end = begin[:-1], begin[1:] - 1 - carried
    rows[act, 0], rows[act, 1], rows[act, 2] = ACT, stream.action[start:stop], grammar.camera(*camera.T)
    rows[act, 3:5] = begun
    at_scroll = act[scrolled] + 1
    rows[at_scroll, 0] = SCROLL
    rows[at_scroll, 1:3] = scroll[scrolled] + grammar.max_scroll
    rows[end, 0], rows[end, 1], rows[end, 2] = END, stream.reward_class[start:stop], stream.done[start:stop]
    cells = stream.update_cell[first:last].astype(np.int64)
    new = stream.update_code[first:last].astype(np.int64)
    flags = stream.update_flag[first:last]
    rank = np.arange(last - first) - np.repeat(np.cumsum(counts) - counts, counts)
    at_update = np.repeat(act + 1 + scrolled, counts) + rank
    motions = stream.update_motion[first:last].astype(np.int64)
    rows[at_update, 0], rows[at_update, 1] = UPD, cells
    rows[at_update, 2] = grammar.contents(new, motions)

    known = slice(int(along[0]), int(along[-1]))
    behind = np.repeat(end + 1 - along[:-1], carried) + np.arange(known.start, known.stop)
    rows[behind, 0], rows[behind, 1] = UPD, stream.carried_cell[known]
    rows[behind, 2] = grammar.contents(
        stream.carried_code[known].astype(np.int64), stream.carried_motion[known].astype(np.int64)
    )

    event = np.full(n, -1, np.int64)
    flagged = np.zeros(n, bool)
    event[at_scroll - 1] = grammar.scroll_event(*scroll[scrolled].T)
    event[at_update - 1] = cells
    event[end - 1] = grammar.end_event
    flagged[at_update - 1] = (flags & 2) > 0
    flagged[end - 1] = stream.end_flag[start:stop] > 0
    event[flagged] = -1

    # The code at a cell before an update: what last changed there, told or carried along, else the map's.
    _, changed, shown = stream.changes(start, stop)
    order = np.argsort(changed, kind="stable")
    previous = codes[changed]
    same = changed[order[1:]] == changed[order[:-1]]
    previous[order[1:][same]] = shown[order[:-1][same]]
    previous = previous[np.arange(last - first) + np.repeat(along[:-1] - along[0], counts)]  # a step's own come first
    anchored, anchor = follow(stream, start, stop, codes, origin, anchor, grammar)
    present, anchors, code, motion = (np.full(n, -1, np.int64) for _ in range(4))
    present[at_update - 1], anchors[at_update - 1] = previous, anchored
    code[at_update - 1] = np.where(flags & 1, -1, new)
    motion[at_update - 1] = motions
    is_end = np.zeros(n, bool)
    is_end[end - 1] = stream.end_flag[start:stop] & NO_OUTCOME == 0

    after = codes.copy()
    after[changed] = shown  # numpy keeps the last of equal indices
    piece = _Piece(rows, event, present, anchors, code, motion, is_end)
    return piece, after, origins[-1] if stop > start else origin, anchor


class Sampler:
    """Draws batches from streams; a batch is a pure function of (seed, step)."""

    def __init__(
        self,
        streams: Sequence[Stream],
        config: ModelConfig,
        sequence: int,
        batch: int,
        seed: int,
        variants: Sequence[tuple[Sequence[Stream], float]] = (),
        ghosts: float = 0.0,
        overtime: float = 0.0,
    ) -> None:
        """Draw from streams.

        Args:   sequence: tokens; batch: sequences; seed: of what is drawn.
                variants: the same games, in the same order, recorded or coded otherwise; each for a share
                of the sequences; games that have none there are drawn as they are.
                ghosts: share of the keyframes that are haunted (`ghosts.py`).
                overtime: share of the games' ends that come late (`overtime.py`).
        Raises: ValueError on a sequence beyond the window, streams that are missing, or shares above 1 in all.
        """
        if sequence > config.transformer.window:
            raise ValueError(f"sequence: expected at most the window {config.transformer.window}, got {sequence}")
        if not streams:
            raise ValueError("streams: expected at least one, got none")
        for variant, _ in variants:
            if len(variant) != len(streams):
                raise ValueError(f"variants: expected a stream for each of {len(streams)}, got {len(variant)}")
        shares = [share for _, share in variants]
        if min(shares, default=0) < 0 or sum(shares) > 1:
            raise ValueError(f"variants: expected shares of at least 0, at most 1 in all, got {shares}")
        if not 0 <= ghosts <= 1:
            raise ValueError(f"ghosts: expected a share from 0 to 1, got {ghosts!r}")
        if not 0 <= overtime <= 1:
            raise ValueError(f"overtime: expected a share from 0 to 1, got {overtime!r}")
        self.streams, self.config = list(streams), config
        self.grammar, self.ghosts, self.overtime = Grammar(config), ghosts, overtime
        self.variants = list(variants)
        self.sequence, self.batch, self.seed = sequence, batch, seed

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        # Games take turns, so that every batch is a fair mix.
        order = rng.permutation(len(self.streams))
        return self.collate([self._sequence(self._stream(order[i % len(order)], rng), rng) for i in range(self.batch)])

    def _stream(self, game: int, rng: np.random.Generator) -> Stream:
        drawn = rng.random() if self.variants else 1.0
        for variant, share in self.variants:
            if drawn < share:
                return variant[game] if variant[game].n_clips else self.streams[game]
            drawn -= share
        return self.streams[game]

    def _sequence(self, game: Stream, rng: np.random.Generator) -> _Piece:
        limit = self.config.updates_per_keyframe
        budget = int(rng.integers(0, limit)) if rng.random() < EARLY_KEYFRAME else limit
        pieces: list[_Piece] = []
        size, time = 0, 0
        while size < self.sequence:
            stream = game.only(int(rng.integers(0, game.n_clips)))
            step = int(rng.integers(0, max(1, len(stream.action) - 16)))
            if self.overtime and rng.random() < self.overtime:
                stream = play_on(stream, rng)
            last = len(stream.action)
            codes, origin = stream.map_at(0, step)
            codes, origin = codes.astype(np.int64), origin.astype(np.int64)
            anchor = self._anchor(stream, step, codes, rng)
            while step < last and size < self.sequence:
                if self.ghosts and rng.random() < self.ghosts:
                    stream, codes = haunt(stream, self.grammar, step, last, codes, origin, rng)
                lengths = (
                    2
                    + stream.scroll[step:last].any(1)
                    + np.diff((stream.update_ptr + stream.carried_ptr)[step : last + 1])
                )
                # A keyframe comes before the first step that finds the budget spent.
                spent = np.cumsum(lengths) - lengths
                stop = step + max(1, int(np.searchsorted(spent, budget, side="right")))
                stop = min(stop, step + 1 + int(np.searchsorted(np.cumsum(lengths), self.sequence - size)))
                stop = min(stop, last)
                pieces.append(_keyframe(codes, origin, max(time - 1, 0), anchor, self.grammar))
                before = stream.scroll[step - 1].astype(np.int64) if step else np.zeros(2, np.int64)
                piece, codes, origin, anchor = _steps(
                    stream, step, stop, codes, origin, anchor, before, time, self.grammar
                )
                pieces.append(piece)
                size += len(codes) + len(piece.rows)
                time += stop - step
                step, budget = stop, limit
        return _Piece(
            *(
                np.concatenate([getattr(p, f) for p in pieces])[: self.sequence]
                for f in ("rows", "event", "present", "anchor", "code", "motion", "end")
            )
        )

    def _anchor(self, stream: Stream, step: int, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the anchor (n_cells,) of a clip before a step: of its start, or as if it began there."""
        # A generator of its own: what else is drawn does not depend on it.
        if rng.spawn(1)[0].random() < BEGINS:
            return codes
        first = stream.codes[0].astype(np.int64)
        return follow(stream, 0, step, first, np.zeros(2, np.int64), first, self.grammar)[1]

    def collate(self, sequences: Sequence[_Piece]) -> Batch:
        rows = np.stack([p.rows for p in sequences])
        flat = rows.reshape(-1, 6)
        event = np.concatenate([p.event for p in sequences])
        present = np.concatenate([p.present for p in sequences])
        anchor = np.concatenate([p.anchor for p in sequences])
        code = np.concatenate([p.code for p in sequences])
        motion = np.concatenate([p.motion for p in sequences])
        end = np.concatenate([p.end for p in sequences])
        # The last position of a sequence has no successor in it to read targets from.
        cut = np.arange(self.sequence - 1, len(flat), self.sequence)
        event[cut], code[cut], end[cut] = -1, -1, False
        event_at, code_at, end_at = (event >= 0).nonzero()[0], (code >= 0).nonzero()[0], end.nonzero()[0]
        after = flat[code_at + 1]
        return Batch(
            rows=rows,
            event_at=event_at,
            event=event[event_at],
            code_at=code_at,
            cell=after[:, 1].astype(np.int64),
            origin=after[:, 3:5].astype(np.int64),
            present=present[code_at],
            anchor=anchor[code_at],
            code=code[code_at],
            motion=motion[code_at],
            choice=np.where(motion[code_at] >= 0, self.config.tokenizer.codebook_size + motion[code_at], code[code_at]),
            end_at=end_at,
            reward=flat[end_at + 1, 1].astype(np.int64),
            done=flat[end_at + 1, 2].astype(np.int64),
        )
