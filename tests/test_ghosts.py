"""Ghosts in training: pieces of what moves stand in a keyframe's map, and the stream takes them away."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left

import numpy as np
import pytest

from gamegen_env.closed_loop import AFTER_DROP
from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import END, ModelConfig
from gamegen_env.stream import Grammar
from gamegen_env.training.batches import Sampler
from gamegen_env.training.ghosts import MOST, haunt
from tests.conftest import random_model
from tests.test_training import clip, long_window  # noqa: F401, a fixture


def coded(config: ModelConfig, part: slice) -> Stream:
    frames = [clip(seed, 80).frames[part] for seed in range(4)]
    none = [np.zeros(len(frames[0]), np.uint8)] * 4
    return encode_clips(frames, none, none, none, config, random_model(config)[0], game="g", fingerprint="f")


@pytest.fixture
def still(long_window: ModelConfig) -> Stream:  # noqa: F811
    return coded(long_window, slice(0, 40))  # the camera has not begun to pan


@pytest.mark.parametrize("part", [slice(0, 40), slice(40, 80)], ids=["still", "panning"])
def test_ghosts_come_from_what_moves_and_each_goes_in_its_time(
    long_window: ModelConfig,  # noqa: F811
    part: slice,
) -> None:
    plain = coded(long_window, part)
    assert plain.scroll.any() == (part.start > 0)
    grammar, stood = Grammar(long_window), []
    codes, origin = plain.map_at(0, 2)
    last = int(plain.clip_ptr[1])
    soon = plain.update_code[plain.update_ptr[2] : plain.update_ptr[last]]
    for seed in range(60):
        stream, haunted = haunt(plain.only(0), grammar, 2, last, codes, origin, np.random.default_rng(seed))
        ghosts = (haunted != codes).nonzero()[0]
        assert len(ghosts) <= MOST
        assert np.isin(haunted[ghosts], soon).all()
        assert grammar.visible_cells(origin)[ghosts].all()
        # Spelled, the steps obey the grammar, and what they show differs from the truth by the ghosts that are left.
        rows, true, shown = [grammar.keyframe_tokens(haunted, origin, 0)], codes.copy(), haunted.copy()
        place, camera, left = origin, None, set(ghosts.tolist())
        for t, (step, was) in enumerate(zip(list(stream.steps(0))[2:], list(plain.steps(0))[2:], strict=True)):
            rows.append(grammar.step_tokens(step, place, t + 1, camera))
            place, camera = grammar.move(place, step.scroll), grammar.camera(*step.scroll)
            true[was.cells], shown[step.cells] = was.codes, step.codes
            now = set((shown != true).nonzero()[0].tolist())
            assert now <= left
            stood += [t] * (len(left) - len(now))
            # While a ghost stays, whatever is chosen first of all that pass over it is not scored, and nothing else.
            first = {bisect_left(step.cells.tolist(), ghost) for ghost in now}
            updates = range(*stream.update_ptr[t + 2 : t + 4].tolist())
            assert {i for i, u in enumerate(updates) if stream.update_flag[u]} == first - {len(updates)}
            assert stream.end_flag[t + 2] == AFTER_DROP * (len(updates) in first)
            left = now
        assert not left
        grammar.validate(np.concatenate(rows))
    # At once as well as late: of those that can go at all, the later ones are fewer.
    early = sum(t < 4 for t in stood)
    assert len(stood) > 40
    assert 0.3 < early / len(stood) < 0.9
    assert max(stood) > 8


def test_where_nothing_moves_there_are_no_ghosts(
    long_window: ModelConfig,  # noqa: F811
    still: Stream,
) -> None:
    frozen = dataclasses.replace(
        still,
        update_ptr=np.zeros_like(still.update_ptr),
        **{name: getattr(still, name)[:0] for name in ("update_cell", "update_code", "update_flag", "update_motion")},
    )
    codes, origin = still.map_at(0, 0)
    grammar, rng = Grammar(long_window), np.random.default_rng(0)
    stream, haunted = haunt(frozen, grammar, 0, int(still.clip_ptr[1]), codes, origin, rng)
    assert stream is frozen
    assert haunted is codes


def test_haunted_sequences_obey_the_grammar(long_window: ModelConfig, still: Stream) -> None:  # noqa: F811
    plain, haunted = (Sampler([still], long_window, 900, 2, seed=0, ghosts=share) for share in (0.0, 1.0))
    for step in range(4):
        batch = haunted(step)
        assert (batch.present != batch.code).all()
        for rows in batch.rows:
            Grammar(long_window).validate(rows[: int(np.flatnonzero(rows[:, 0] == END)[-1]) + 1])
        assert not np.array_equal(batch.rows, plain(step).rows)
    with pytest.raises(ValueError, match=r"ghosts: expected a share from 0 to 1, got 1\.5"):
        Sampler([still], long_window, 900, 2, seed=0, ghosts=1.5)
