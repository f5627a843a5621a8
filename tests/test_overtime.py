"""Ends that are missed in training, and said some steps later."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gamegen_env.codec import Stream
from gamegen_env.config import END, ModelConfig
from gamegen_env.stream import Grammar
from gamegen_env.training.batches import Sampler
from gamegen_env.training.overtime import MOST, play_on
from tests.test_ghosts import coded
from tests.test_training import long_window  # noqa: F401, a fixture


@pytest.fixture
def ending(long_window: ModelConfig) -> Stream:  # noqa: F811
    stream = coded(long_window, slice(0, 40))
    done = stream.done.copy()
    done[stream.clip_ptr[1:] - 1] = 1
    return dataclasses.replace(stream, done=done)


def test_an_end_is_missed_and_said_later(ending: Stream) -> None:
    clip, lengths = ending.only(1), []
    for seed in range(60):
        late = play_on(clip, np.random.default_rng(seed))
        late._check("late")
        steps, before = list(late.steps(0)), list(clip.steps(0))
        more = len(steps) - len(before)
        lengths.append(more)
        assert [repr(s) for s in steps[: len(before) - 1]] == [repr(s) for s in before[:-1]]
        assert repr(dataclasses.replace(steps[len(before) - 1], done=True)) == repr(before[-1])
        assert not any(len(step.cells) or any(step.scroll) for step in steps[len(before) :])
        assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
        assert {step.action for step in steps[len(before) :]} <= set(clip.action.tolist())
    assert 1 == min(lengths) < 8 < max(lengths) < MOST


def test_a_clip_that_does_not_end_stays_as_it_is(ending: Stream) -> None:
    clip = dataclasses.replace(ending.only(0), done=ending.only(0).done * 0)
    assert play_on(clip, np.random.default_rng(0)) is clip


def test_overtime_carries_no_loss_but_for_its_end(long_window: ModelConfig, ending: Stream) -> None:  # noqa: F811
    grammar, scored = Grammar(long_window), 0
    for step in range(6):
        batch = Sampler([ending], long_window, 900, 2, seed=0, overtime=1.0)(step)
        for rows in batch.rows:
            grammar.validate(rows[: int(np.flatnonzero(rows[:, 0] == END)[-1]) + 1])
        flat = batch.rows.reshape(-1, 6)
        # Of a game's ends only the late one is scored: each comes after a quiet step.
        for at in batch.end_at[batch.done == 1]:
            scored += 1
            assert flat[at + 1, 0] == END
            assert at not in batch.event_at
        assert batch.reward[batch.done == 1].tolist() == [1] * int(batch.done.sum())
    assert scored > 3
    with pytest.raises(ValueError, match=r"overtime: expected a share from 0 to 1, got -1"):
        Sampler([ending], long_window, 900, 2, seed=0, overtime=-1)
