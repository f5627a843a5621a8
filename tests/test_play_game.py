"""One game of the player: its past, its kept moments, its keys."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.play.game import EVERY, Game
from gamegen_env.world import World
from tests.browser import endless, run, world

__all__ = ["endless", "world"]  # the fixtures


TOKENS = [(5 * t) % 9 for t in range(4 * EVERY)]


def test_going_back_gives_the_same_frame_and_the_same_future(world: World, picture: np.ndarray) -> None:
    game = Game(world, 0)
    first = game.start(picture, 3).frame
    frames = [first, *run(game, TOKENS)]
    assert len({f.tobytes() for f in frames}) > 10
    for step in (3 * EVERY + 7, 3 * EVERY, EVERY - 1, 1, 0):
        assert np.array_equal(game.seek(step).frame, frames[step]), step
        assert game.step == step
        assert len(game.film) == step + 1
    again = run(game, TOKENS[:EVERY])
    assert all(np.array_equal(a, b) for a, b in zip(again, frames[1:], strict=False))
    assert game.seek(-5).step == 0


def test_kept_moments_branch(world: World, picture: np.ndarray) -> None:
    game = Game(world, 0)
    first = game.start(picture, 3).frame
    frames = run(game, TOKENS[:20])
    game.save(4)
    kept = game.view
    ahead = run(game, TOKENS[20:30])
    run(game, [8] * 30)
    assert kept is not None
    assert np.array_equal(game.load(4).frame, kept.frame)
    assert game.keys == TOKENS[:20]
    assert all(np.array_equal(a, b) for a, b in zip(run(game, TOKENS[20:30]), ahead, strict=True))
    game.seek(10)
    assert game.load(4).step == 20
    assert game.seek(16).step == 16
    game.seek(5)
    run(game, [8] * 3)
    game.load(4)
    past = [first, *frames]
    assert [step for step, _ in game.film] == [0, 1, 2, 3, 4, 5, 20]  # no frame of another past
    assert all(np.array_equal(frame, past[step]) for step, frame in game.film)
    with pytest.raises(ValueError, match=r"place: expected 1..9, got 10"):
        game.save(10)
    with pytest.raises(ValueError, match=r"place: expected one of \[4\], got 5"):
        game.load(5)


def test_keys_of_a_branched_game_replay_to_its_frame(world: World, picture: np.ndarray) -> None:
    dice, game = np.random.default_rng(1), Game(world, 0)
    game.start(picture, 3)
    for _ in range(200):
        act = dice.random()
        if act < 0.05:
            game.save(int(dice.integers(1, 10)))
        elif act < 0.1 and game.places:
            game.load(int(dice.choice(list(game.places))))
        elif act < 0.15:
            game.seek(game.step - int(dice.integers(30)))
        else:
            run(game, [int(dice.integers(18))])
    again = Game(world, 1)
    again.start(picture, 3, game.keys)
    while again.script:
        run(again, [again.next_key(0)])
    assert again.step == game.step > EVERY
    assert again.view is not None
    assert game.view is not None
    assert np.array_equal(again.view.frame, game.view.frame)
