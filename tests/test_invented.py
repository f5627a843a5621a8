"""Invented games: rules hold whatever they look like, and no two episodes are alike."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.actions import token
from gamegen_env.games import make_source
from gamegen_env.games.artwork import CONTRAST, Sprite, colours, sprite
from gamegen_env.games.invented import EPISODE, TOKENS, InventedSource, invent, roll
from gamegen_env.games.rules import Game, Thing

KINDS = sorted(TOKENS)
ROLLED = [kind for kind in KINDS if kind != "delve"]
RIGHT, NOOP = token("RIGHT"), token("NOOP")


def games(kind: str, count: int) -> list[Game]:
    return [roll(kind, np.random.default_rng(seed)) for seed in range(count)]


def plays(kind: str, count: int, seed: int = 0, split: str = "train") -> InventedSource:
    source = make_source(f"invented:{kind}", count, seed, split)
    assert isinstance(source, InventedSource)
    return source


def emptied(game: Game) -> Game:
    """Leave nothing but the player in an open world."""
    game.things, game.solid = [], np.zeros_like(game.solid)
    game.player.position = np.floor(game.span / 2.0)
    game.player.velocity = np.zeros(2)
    return game


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_and_keys_give_equal_plays_and_splits_differ(kind: str) -> None:
    one, other, held_out = plays(kind, 3, 5), plays(kind, 3, 5), plays(kind, 3, 5, "heldout")
    rng = np.random.default_rng(0)
    assert (one.reset() == other.reset()).all()
    assert (one.reset() != held_out.reset()).any()
    other.reset()
    for _ in range(40):
        keys = rng.choice(TOKENS[kind], 3)
        for a, b in zip(one.step(keys), other.step(keys), strict=True):
            assert (a == b).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_games_look_alike(kind: str) -> None:
    frames = np.stack([invent(kind, np.random.default_rng(seed)).draw() for seed in range(12)]).reshape(12, -1)
    assert len(np.unique(frames, axis=0)) == 12


@pytest.mark.parametrize("kind", ROLLED)
def test_nobody_leaves_the_world_or_stands_in_a_wall(kind: str) -> None:
    rng = np.random.default_rng(1)
    for game in games(kind, 12):
        for _ in range(60):
            assert not game.blocked(game.player, game.player.position)
            for thing in game.things:
                if thing.manner in ("bounce", "wander", "hunt"):
                    assert not game.blocked(thing, thing.position)
            if game.step(int(rng.choice(TOKENS[kind])))[1]:
                break


@pytest.mark.parametrize("kind", ROLLED)
def test_a_key_moves_the_player_its_own_way(kind: str) -> None:
    moved = 0
    for game in games(kind, 12):
        if not game.axes[0]:
            continue
        emptied(game)
        before = game.player.position[0]
        game.step(RIGHT)
        assert game.player.position[0] > before
        moved += 1
    assert moved >= 6


def test_what_falls_follows_gravity_until_something_solid_holds_it() -> None:
    for game in games("leap", 6):
        emptied(game)
        start = game.player.position[1]
        for step in range(1, 4):
            game.step(NOOP)
            expected = start + game.gravity * step * (step + 1) / 2
            assert game.player.position[1] == pytest.approx(expected)
        game.solid[-8:] = True
        for _ in range(60):
            game.step(NOOP)
        assert game.grounded
        assert game.player.position[1] + game.player.look.size[1] == game.span[1] - 8


def test_taking_pays_and_harm_ends_the_game() -> None:
    for touch, reward, over in (("take", 1.0, False), ("harm", -1.0, True), ("", 0.0, False)):
        game = next(g for g in games("roam", 50) if g.things and not g.armed)
        game.things = game.things[:1]
        thing = game.things[0]
        thing.manner, thing.touch = "still", touch
        thing.position = game.player.position.copy()
        assert game.step(NOOP) == (reward, over)


def test_a_racket_throws_back_what_it_meets() -> None:
    turned = 0
    for game in games("catch", 200):
        if not any(thing.touch == "deflect" for thing in game.things):
            continue
        ball = next(thing for thing in game.things if thing.touch == "deflect")
        emptied(game)
        game.things = [ball]
        axis = 1 if game.axes[0] else 0
        ball.velocity = np.where(np.arange(2) == axis, 1.0, 0.0)
        ball.position = game.player.position + (game.player.look.size - ball.look.size) / 2
        ball.position[axis] = game.player.position[axis] - ball.look.size[axis]
        game.step(NOOP)
        assert ball.velocity[axis] == -1.0
        turned += 1
    assert turned >= 5


def test_traffic_keeps_to_its_lanes_and_comes_round_again() -> None:
    game = next(g for g in games("roam", 50) if any(t.manner == "lane" for t in g.things))
    game.player.position = np.zeros(2)
    lanes = [(thing, thing.position[1]) for thing in game.things]
    for thing in game.things:
        thing.touch = ""
    for _ in range(150):
        game.step(NOOP)
    for thing, y in lanes:
        assert thing.position[1] == y
        assert -thing.look.size[0] - 2 <= thing.position[0] <= game.span[0] + 2


def test_a_runner_stays_while_the_world_comes() -> None:
    game = next(g for g in games("leap", 50) if not g.axes[0])
    for _ in range(40):
        game.step(NOOP)
    x, y = game.player.position
    ahead = {float(np.sign(thing.velocity[0])) for thing in game.things}
    assert ahead in ({-1.0}, {1.0})
    assert game.grounded
    game.things = []
    game.step(token("UPRIGHT"))
    assert game.player.position[0] == x
    assert game.player.position[1] < y


def test_a_shot_removes_what_it_hits() -> None:
    game = next(g for g in games("catch", 50) if g.armed and g.axes[0] and g.things)
    emptied(game)
    fire = token("NOOP", "FIRE")
    game.step(fire)
    (shot,) = game.things
    assert shot.manner == "shot"
    assert (shot.velocity == (0, -4)).all()
    game.step(fire)
    assert len(game.things) == 1  # one at a time
    game.refill = False
    place = shot.position - np.array([0.0, 6.0])
    game.things.append(Thing(game.player.look, place, np.zeros(2), "still", "harm"))
    assert [game.step(NOOP) for _ in range(2)].count((1.0, False)) == 1
    assert game.things == []


def test_the_camera_follows_and_stops_at_the_edge() -> None:
    game = emptied(next(g for g in games("tour", 50) if g.span[0] > 64 and g.control == "walk"))
    width, far = game.player.look.size[0], int(game.span[0]) - 64
    for x, corner in ((0, 0), (far // 2, far // 2 + width // 2 - 32), (game.span[0] - width, far)):
        game.player.position[0] = x
        game.player.look.draw(whole := game.picture.copy(), game.player.position)
        top = np.clip(int(game.player.position[1] + game.player.look.size[1] // 2) - 32, 0, game.span[1] - 64)
        left = np.clip(corner, 0, far)
        assert (game.draw() == whole[top : top + 64, left : left + 64]).all()


def test_an_episode_ends_in_time_and_the_next_is_another_game() -> None:
    source = plays("roam", 4)
    first = source.reset()
    for _ in range(EPISODE + 1):
        frames, _, terminated, truncated = source.step(np.zeros(4, int))
        assert not (terminated & truncated).any()
    assert (frames != first).any((1, 2, 3)).all()


def test_a_sprite_is_cut_off_at_the_edge() -> None:
    look = Sprite(np.full((4, 4, 3), 9, np.uint8), np.ones((4, 4), bool))
    frame = np.zeros((8, 8, 3), np.uint8)
    for corner, drawn in (((-2, -3), 2), ((6, 0), 8), ((8, 2), 0), ((-4, 0), 0), ((2, 2), 16)):
        frame[:] = 0
        look.draw(frame, np.array(corner))
        assert (frame == 9).all(-1).sum() == drawn


def test_colours_differ_and_sprites_have_the_size_asked_for() -> None:
    rng = np.random.default_rng(0)
    drawn = colours(rng, 6).astype(int)
    for i in range(6):
        assert all(np.abs(drawn[i] - drawn[j]).sum() >= CONTRAST for j in range(i))
    for _ in range(40):
        width, height = rng.integers(2, 9, 2)
        look = sprite(rng, np.array([10, 200, 30], np.uint8), int(width), int(height))
        assert (look.size == (width, height)).all()
        assert look.shape.any()


def test_a_kind_that_nobody_invented_is_refused() -> None:
    kinds = r"\['catch', 'delve', 'leap', 'roam', 'tour'\]"
    with pytest.raises(ValueError, match=f"expected a kind of {kinds}, got 'quest'"):
        make_source("invented:quest", 1, 0)
