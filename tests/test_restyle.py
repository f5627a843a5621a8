"""Restyled recordings keep every event of the game."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.actions import meaning, token
from gamegen_env.games.restyle import MIRRORED, mirror, restyle
from gamegen_env.games.shards import Shard


def clip(colours: int) -> Shard:
    """A bar that moves right over a background of one colour, in a picture of so many colours."""
    frames = np.full((12, 64, 64, 3), 40, np.uint8)
    shades = np.random.default_rng(0).integers(0, 256, (colours, 3))
    for t in range(12):
        frames[t, :8, :] = shades[np.arange(64) % colours]
        frames[t, 30:40, 3 * t : 3 * t + 5] = (250, 20, 20)
    action = np.full(12, token("UPRIGHT", "FIRE"), np.uint8)
    action[0] = 0
    first, zeros = np.eye(12, dtype=np.uint8)[0], np.zeros(12, np.uint8)
    return Shard(frames, first, action, np.arange(12, dtype=np.float32), zeros, zeros, {"game": "bar"})


def test_mirror_swaps_left_and_right_in_pictures_and_keys() -> None:
    before, after = clip(3), mirror(clip(3))
    assert np.array_equal(after.frames[:, :, ::-1], before.frames)
    assert [meaning(int(a)) for a in after.action] == ["NOOP"] + ["UPLEFTFIRE"] * 11
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(len(MIRRORED)))
    assert all(MIRRORED[token(d)] == token(d) for d in ("NOOP", "UP", "DOWN"))
    assert np.array_equal(mirror(after).frames, before.frames)


@pytest.mark.parametrize("colours", [3, 400])
def test_a_restyled_clip_changes_where_and_when_the_clip_does(colours: int) -> None:
    original, mirrored = clip(colours), mirror(clip(colours))
    styles = []
    for seed in range(12):
        styled = restyle(original, seed)
        source = mirrored if np.array_equal(styled.action, mirrored.action) else original
        moved = (styled.frames[1:] != styled.frames[:-1]).any(-1)
        assert np.array_equal(moved, (source.frames[1:] != source.frames[:-1]).any(-1))
        assert np.array_equal(styled.reward, original.reward)
        assert styled.meta == original.meta
        assert not np.array_equal(styled.frames, source.frames)
        styles.append(styled.frames.tobytes())
    assert len(set(styles)) == 12


def test_a_style_depends_on_the_seed_alone() -> None:
    assert np.array_equal(restyle(clip(3), 5).frames, restyle(clip(3), 5).frames)
