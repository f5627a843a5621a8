"""Ghosts in training: pieces of what moves stand in a keyframe's map, and the stream takes them away."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import END, ModelConfig
from gamegen_env.stream import Grammar
from gamegen_env.training.batches import Sampler
from gamegen_env.training.ghosts import DELAY, MOST, haunt
from tests.conftest import random_model
from tests.test_training import clip, long_window  # noqa: F401, a fixture


@pytest.fixture
def still(long_window: ModelConfig) -> Stream:  # noqa: F811
    halves = [clip(seed).frames[:20] for seed in range(4)]  # the camera has not begun to pan
    none = [np.zeros(20, np.uint8)] * 4
    return encode_clips(halves, none, none, none, long_window, random_model(long_window)[0], game="g", fingerprint="f")


def test_ghosts_come_from_what_moves_and_go_within_a_few_steps(
    long_window: ModelConfig,  # noqa: F811
    still: Stream,
) -> None:
    grammar, seen = Grammar(long_window), 0
    codes, origin = still.map_at(0, 2)
    start, last = int(still.clip_ptr[0]) + 2, int(still.clip_ptr[1])
    soon = still.update_code[still.update_ptr[start] : still.update_ptr[last]]
    for seed in range(40):
        stream, haunted = haunt(still, grammar, start, last, codes, origin, np.random.default_rng(seed))
        ghosts = (haunted != codes).nonzero()[0]
        seen += len(ghosts)
        assert len(ghosts) <= MOST
        assert np.isin(haunted[ghosts], soon).all()
        assert grammar.visible_cells(origin)[ghosts].all()
        # Spelled, the steps obey the grammar, and after a few of them the map is the true one again.
        rows, true, shown = [grammar.keyframe_tokens(haunted, origin, 0)], codes.copy(), haunted.copy()
        for t, (step, was) in enumerate(zip(list(stream.steps(0))[2:], list(still.steps(0))[2:], strict=True)):
            rows.append(grammar.step_tokens(step, origin, t + 1))
            true[was.cells], shown[step.cells] = was.codes, step.codes
            assert t < DELAY - 1 or np.array_equal(shown, true)
        grammar.validate(np.concatenate(rows))
    assert seen > 20


def test_where_the_camera_moves_or_nothing_does_there_are_no_ghosts(
    long_window: ModelConfig,  # noqa: F811
    still: Stream,
) -> None:
    grammar = Grammar(long_window)
    codes, origin = still.map_at(0, 0)
    still.scroll[:] = 1
    stream, haunted = haunt(still, grammar, 0, int(still.clip_ptr[1]), codes, origin, np.random.default_rng(0))
    assert stream is still
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
