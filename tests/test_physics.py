"""Rooms with known laws: the laws hold, and the figures say so of true frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gamegen_env.actions import token
from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.evaluation import physics
from gamegen_env.games import make_source
from gamegen_env.games.physics import EPISODE, LEAP, TOKENS, WALK, PhysicsSource, furnish
from gamegen_env.world import World


def plays(kind: str, count: int, seed: int = 0) -> PhysicsSource:
    source = make_source(f"physics:{kind}", count, seed)
    assert isinstance(source, PhysicsSource)
    return source


def test_a_body_in_free_flight_follows_its_parabola() -> None:
    flights = 0
    for seed in range(40):
        room = furnish("fall", np.random.default_rng(seed))
        start, velocity = room.position.copy(), room.velocity.copy()
        for step in range(1, 7):
            room.advance()
            expected = start + velocity * step + (0, room.gravity * step**2 / 2)
            if np.abs(room.position - expected).max() > 1e-9:
                break  # it has touched something
        else:
            flights += 1
    assert flights >= 10


@pytest.mark.parametrize("kind", sorted(TOKENS))
def test_nothing_stands_in_a_wall_and_all_is_drawn(kind: str) -> None:
    source = plays(kind, 8)
    frames = source.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        for room, frame in zip(source.rooms, frames, strict=True):
            assert not room.blocked(room.position)
            x, y = room.corner()
            box = frame[y : y + room.side, x : x + room.side]
            assert (box[room.body] == room.colour).all()
            assert (frame == room.colour).all(-1).sum() == room.body.sum()
        frames = source.step(rng.choice(TOKENS[kind], 8))[0]


def test_a_bouncing_ball_keeps_its_speed_and_a_wall_turns_one_part_of_it() -> None:
    source = plays("bounce", 8)
    before = [room.velocity.copy() for room in source.rooms]
    for _ in range(50):
        source.step(np.zeros(8, int))
    turned = 0
    for room, velocity in zip(source.rooms, before, strict=True):
        assert np.abs(room.velocity) == pytest.approx(np.abs(velocity))
        turned += (room.velocity != velocity).any()
    assert turned > 0


def test_keys_walk_and_leap_from_the_ground_alone() -> None:
    source = plays("jump", 16)
    for _ in range(80):
        source.step(np.full(16, token("NOOP")))
    assert all(room.grounded for room in source.rooms)
    source.step(np.full(16, token("UPRIGHT")))
    risen = [room.velocity[1] for room in source.rooms]
    assert min(risen) < -LEAP / 2
    assert {float(room.velocity[0]) for room in source.rooms} <= {WALK, 0.0}
    source.step(np.full(16, token("UP")))
    assert all(now > was for now, was in zip((r.velocity[1] for r in source.rooms), risen, strict=True))


def test_seeds_splits_and_episodes() -> None:
    a, b = plays("fall", 2, 3), plays("fall", 2, 3)
    assert np.array_equal(a.reset(), b.reset())
    other = make_source("physics:fall", 2, 3, "heldout")
    assert not np.array_equal(a.reset(), other.reset())
    source = plays("fall", 1)
    source.reset()
    cut = [bool(source.step(np.zeros(1, int))[3][0]) for _ in range(EPISODE + 1)]
    assert cut == [False] * (EPISODE - 1) + [True, False]
    with pytest.raises(ValueError, match="expected a kind of"):
        plays("swim", 1)


def test_true_frames_get_full_marks_and_a_frozen_one_does_not() -> None:
    for kind in TOKENS:
        paths = physics.walk(kind, 24, seed=1)
        true = np.stack([path.frames[physics.CONTEXT + 1 :] for path in paths])
        marks = physics.measure(paths, true)
        assert marks["lost"] == 0
        assert marks["penetration"] == 0
        assert marks["position_32"] < 1  # whole pixels, and the middle of an even number of them
        if kind == "fall":
            assert marks["acceleration"] < 0.06
        frozen = physics.measure(paths, np.repeat(true[:, :1], physics.HORIZON, 1))
        assert frozen["position_32"] > 5 * marks["position_32"]


def test_a_model_plays_rooms(tiny_checkpoint: Path) -> None:
    figures = physics.evaluate_physics(World(tiny_checkpoint, 2), load_checkpoint(tiny_checkpoint), "fall", 2)
    assert set(figures) == {"model", "still", "pixel"}
    assert figures["pixel"]["lost"] == 0
