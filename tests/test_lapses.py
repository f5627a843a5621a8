"""Lapses in training: whole things are lost, or stay behind, and come right in one step."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left

import numpy as np
import pytest

from gamegen_env.closed_loop import AFTER_DROP, NO_OUTCOME, WRONG_CODE
from gamegen_env.codec import Stream
from gamegen_env.config import END, ModelConfig
from gamegen_env.stream import Grammar
from gamegen_env.training.batches import Sampler
from gamegen_env.training.lapses import LARGEST, LASTING, lapse, usual_codes
from tests.test_ghosts import coded
from tests.test_training import long_window  # noqa: F401, a fixture

GROUND, THING, STEPS = 5, 7, 120


@pytest.fixture
def walk(long_window: ModelConfig) -> Stream:  # noqa: F811
    """A thing of two by two cells that walks to and fro, a cell a step."""
    m = Grammar(long_window).map_cells
    legs = 6
    at = np.abs((np.arange(STEPS + 1) + legs) % (2 * legs) - legs) + 1
    maps = np.full((STEPS + 1, m, m), GROUND, np.uint16)
    for picture, x in zip(maps, at, strict=True):
        picture[2:4, x : x + 2] = THING
    maps = maps.reshape(STEPS + 1, -1)
    step, cell = (maps[1:] != maps[:-1]).nonzero()
    none = np.zeros(STEPS, np.uint8)
    return dataclasses.replace(
        coded(long_window, slice(0, 2)).only(0),
        clip_ptr=np.array([0, STEPS]), codes=maps[:1], action=none, scroll=np.zeros((STEPS, 2), np.int8),
        reward_class=none, done=none, end_flag=none, update_ptr=np.searchsorted(step, np.arange(STEPS + 1)),
        update_cell=cell.astype(np.uint16), update_code=maps[1:][step, cell],
        update_flag=np.zeros(len(step), np.uint8), update_motion=np.full(len(step), -1, np.int16),
    )  # fmt: skip


def maps(stream: Stream) -> np.ndarray:
    return np.stack([stream.map_at(0, t)[0] for t in range(len(stream.action) + 1)])


def test_usual_is_what_a_cell_shows_for_most_of_the_time(long_window: ModelConfig, walk: Stream) -> None:  # noqa: F811
    assert (usual_codes(walk, Grammar(long_window)) == GROUND).all()
    turned = dataclasses.replace(walk, codes=np.full_like(walk.codes, THING))
    assert (usual_codes(turned, Grammar(long_window))[-1]) == THING


def test_a_thing_is_lost_or_stays_behind_as_a_whole(long_window: ModelConfig, walk: Stream) -> None:  # noqa: F811
    grammar, true, sizes, lasted = Grammar(long_window), maps(walk), set(), []
    for seed in range(40):
        stream = lapse(walk, grammar, 10, 100, np.random.default_rng(seed))
        shown = maps(stream)
        wrong = (shown != true).any(1)
        assert not wrong[:11].any()
        assert not wrong[100:].any()
        for begin in (wrong[1:] & ~wrong[:-1]).nonzero()[0] + 1:
            until = begin + int(np.argmin(wrong[begin:]))
            lasted.append(until - begin)
            for t in range(begin, until):
                there = int((shown[t] == THING).sum())
                sizes.add(there)
                if there > 4:  # it stays: one that stands, and the one that walks
                    assert (shown[t][true[t] == THING] == THING).all()
                    assert (shown[t][true[begin - 1] == THING] == THING).all()
    assert sizes == {0, 6, 8}  # 6 where the one that walks covers a part of the one that stands
    assert min(lasted) == 1
    assert 16 < max(lasted) < LASTING


@pytest.mark.parametrize("part", [slice(0, 40), slice(40, 80)], ids=["still", "panning"])
def test_what_passes_over_a_lapse_is_not_scored(
    long_window: ModelConfig,  # noqa: F811
    part: slice,
) -> None:
    plain, grammar, n_lapses = coded(long_window, part).only(0), Grammar(long_window), 0
    for seed in range(40):
        stream = lapse(plain, grammar, 0, len(plain.action), np.random.default_rng(seed))
        rows, place, camera = (
            [grammar.keyframe_tokens(stream.codes[0], np.zeros(2, np.int64), 0)],
            np.zeros(2, int),
            None,
        )
        true, shown = (plain.codes[0].astype(int) for _ in range(2))
        for t, (step, was) in enumerate(zip(stream.steps(0), plain.steps(0), strict=True)):
            rows.append(grammar.step_tokens(step, place, t + 1, camera))
            place, camera = grammar.move(place, step.scroll), grammar.camera(*step.scroll)
            right, shown_before = shown == true, shown.copy()
            true[was.cells], shown[step.cells] = was.codes, step.codes
            wrong = set(((shown != true) & grammar.visible_cells(place)).nonzero()[0].tolist())
            n_lapses += bool(wrong)
            updates = slice(*stream.update_ptr[t : t + 2].tolist())
            flags = stream.update_flag[updates]
            false = [i for i, c in enumerate(step.cells.tolist()) if c in wrong and shown_before[c] != shown[c]]
            assert (flags[false] == WRONG_CODE | AFTER_DROP).all()
            first = {bisect_left(step.cells.tolist(), cell + 1) for cell in wrong}
            assert {i for i, flag in enumerate(flags) if flag & AFTER_DROP} == (first | set(false)) - {len(flags)}
            assert bool(stream.end_flag[t] & AFTER_DROP) == (len(flags) in first)
            assert bool(stream.end_flag[t] & NO_OUTCOME) >= bool(wrong)
            assert len(wrong) <= 2 * LARGEST
            if not wrong and right.all():
                assert step.cells.tolist() == was.cells.tolist()
        assert (shown == true).all()
        grammar.validate(np.concatenate(rows))
    assert n_lapses > 40


def test_where_nothing_moves_there_are_no_lapses(long_window: ModelConfig, walk: Stream) -> None:  # noqa: F811
    updates = ("update_cell", "update_code", "update_flag", "update_motion")
    frozen = dataclasses.replace(
        walk, update_ptr=np.zeros_like(walk.update_ptr), **{name: getattr(walk, name)[:0] for name in updates}
    )
    assert lapse(frozen, Grammar(long_window), 0, STEPS, np.random.default_rng(0)) is frozen


def test_sequences_with_lapses_obey_the_grammar(long_window: ModelConfig, walk: Stream) -> None:  # noqa: F811
    plain, lapsed = (Sampler([walk], long_window, 900, 2, seed=0, lapses=share) for share in (0.0, 1.0))
    scored = [0, 0]
    for step in range(4):
        batch = lapsed(step)
        assert (batch.present != batch.code).all()
        for rows in batch.rows:
            Grammar(long_window).validate(rows[: int(np.flatnonzero(rows[:, 0] == END)[-1]) + 1])
        scored[0] += len(plain(step).end_at)
        scored[1] += len(batch.end_at)
    assert scored[1] < scored[0]
    with pytest.raises(ValueError, match=r"lapses: expected a share from 0 to 1, got 1\.5"):
        Sampler([walk], long_window, 900, 2, seed=0, lapses=1.5)
