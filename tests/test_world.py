"""The flow as a whole, on the tiny model."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from gamegen_env.world import World


@pytest.fixture
def world(tiny_checkpoint: Path) -> World:
    return World(str(tiny_checkpoint), 3, temperature=1.0)  # where the random model does something


def test_reset_shows_the_picture_untouched(world: World, picture: np.ndarray) -> None:
    frames = world.reset([2, 0], [picture, 255 - picture], [1, 2])
    assert np.array_equal(frames[0], picture)
    assert np.array_equal(frames[1], 255 - picture)


def test_cells_that_are_not_updated_keep_their_pixels(world: World, picture: np.ndarray) -> None:
    """No flicker, by construction: on the tile map only updated cells may change a pixel."""
    world.reset([0], [picture], [5])
    updates = 0
    for t in range(40):
        codes, pixels = world.canvas.codes[0].copy(), world.canvas.pixels[0].copy()
        result = world.step([0], [t % 18])
        changed = (world.canvas.pixels[0] != pixels).any(-1).reshape(17, 4, 17, 4).any((1, 3)).ravel()
        assert not (changed & (world.canvas.codes[0] == codes)).any()
        assert changed.sum() <= result.updated[0]
        updates += int(changed.sum())
    assert updates > 10


def test_engine_and_canvas_agree_on_the_tile_map(world: World, picture: np.ndarray) -> None:
    world.reset([0, 1, 2], [picture] * 3, [1, 2, 3])
    for t in range(30):
        world.step([2, 0, 1], [t % 18, 3, 8])
        assert np.array_equal(world.canvas.codes, world.engine.codes)
        assert np.array_equal(world.canvas.origin, world.engine.origin)


def test_engines_play_the_same_frames(tiny_checkpoint: Path, picture: np.ndarray) -> None:
    games = []
    for engine in ("torch", "reference"):
        world = World(str(tiny_checkpoint), 1, engine=engine)
        world.reset([0], [picture], [7])
        games.append([world.step([0], [a]).frames.tobytes() for a in (0, 1, 2, 3, 4, 17)])
    assert games[0] == games[1]


def test_snapshot_moves_between_worlds_and_slots(tiny_checkpoint: Path, world: World, picture: np.ndarray) -> None:
    world.reset([1], [picture], [9])
    for action in (1, 5, 9):
        world.step([1], [action])
    state = pickle.loads(pickle.dumps(world.save(1)))
    future = [world.step([1], [a]).frames.tobytes() for a in range(10)]
    other = World(str(tiny_checkpoint), 2, temperature=1.0)
    other.load(0, state)
    assert [other.step([0], [a]).frames.tobytes() for a in range(10)] == future


def test_state_that_does_not_fit_is_refused_and_changes_nothing(
    tiny_checkpoint: Path, world: World, picture: np.ndarray
) -> None:
    world.reset([0], [picture], [9])
    good = world.save(0)
    sixteen = World(str(tiny_checkpoint), 1, kv_bits=16)
    sixteen.reset([0], [picture], [9])
    for state, message in (
        ({**good, "fingerprint": "other"}, "state: expected fingerprint"),
        ({**good, "engine": "reference"}, "state: expected engine 'native', got 'reference'"),
        (sixteen.save(0), "state: expected arrays"),
        ({**good, "canvas": {**good["canvas"], "codes": np.zeros(3, np.int32)}}, r"state\['codes'\]: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            world.load(0, state)
    after = world.save(0)
    assert np.array_equal(after["canvas"]["pixels"], good["canvas"]["pixels"])
    assert all(np.array_equal(a, good["context"][k]) for k, a in after["context"].items())


def test_counts_that_disagree_are_refused(world: World, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="as many images and seeds as slots"):
        world.reset([0, 1], [picture], [1, 2])
    with pytest.raises(ValueError, match="frames: expected uint8"):
        world.reset([0], [picture[:32]], [1])


def test_closing_twice_is_harmless(tiny_checkpoint: Path) -> None:
    world = World(str(tiny_checkpoint), 1)
    world.close()
    world.close()
