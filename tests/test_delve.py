"""Games on a grid: what walls, soil, boulders, locks and foes do, however they look."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.actions import token
from gamegen_env.games.delve import _LEVELS, delve
from gamegen_env.games.grid import BOULDER, EXIT, FLOOR, GEM, KEY, LOCK, SOIL, WALL, GridGame, Walker

UP, RIGHT, LEFT, DOWN, NOOP = (token(name) for name in ("UP", "RIGHT", "LEFT", "DOWN", "NOOP"))


def row(*kinds: int, **switches: bool) -> GridGame:
    """A corridor between walls; the player, who hops, stands in its first cell, the rest shows `kinds`."""
    game = delve(np.random.default_rng(0))
    game.cells = np.full((3, len(kinds) + 1), WALL)
    game.cells[1] = (FLOOR, *kinds)
    game.foes, game.player = [], Walker(game.player.look, np.array([1, 0]), 1, "keys")
    game.pushes, game.falls = switches.get("pushes", True), switches.get("falls", False)
    return game


def press(game: GridGame, *keys: int) -> list[tuple[float, bool]]:
    return [game.step(key) for key in keys]


@pytest.mark.parametrize(
    ("kind", "after", "column", "outcome"),
    [
        (FLOOR, FLOOR, 1, (0.0, False)),
        (WALL, WALL, 0, (0.0, False)),
        (SOIL, FLOOR, 1, (0.0, False)),
        (GEM, FLOOR, 1, (1.0, False)),
        (KEY, FLOOR, 1, (0.0, False)),
        (LOCK, LOCK, 0, (0.0, False)),
        (EXIT, EXIT, 1, (1.0, True)),
    ],
)
def test_what_a_cell_does_to_who_enters_it(kind: int, after: int, column: int, outcome: tuple[float, bool]) -> None:
    game = row(kind, FLOOR)
    assert press(game, RIGHT) == [outcome]
    assert game.player.cell.tolist() == [1, column]
    assert game.cells[1, 1] == after


def test_beyond_the_world_all_is_wall() -> None:
    game = row(FLOOR)
    press(game, LEFT, UP, DOWN)
    assert game.player.cell.tolist() == [1, 0]


def test_a_key_opens_one_lock() -> None:
    game = row(KEY, LOCK, LOCK)
    press(game, RIGHT, RIGHT, RIGHT)
    assert game.player.cell.tolist() == [1, 2]
    assert game.cells[1].tolist() == [FLOOR, FLOOR, FLOOR, LOCK]


def test_a_boulder_is_pushed_if_there_is_room() -> None:
    game = row(BOULDER, FLOOR, WALL)
    press(game, RIGHT, RIGHT)
    assert game.cells[1].tolist() == [FLOOR, FLOOR, BOULDER, WALL]
    assert game.player.cell.tolist() == [1, 1]
    game = row(BOULDER, FLOOR, pushes=False)
    press(game, RIGHT)
    assert game.player.cell.tolist() == [1, 0]


def test_what_nothing_holds_falls_but_not_on_the_player() -> None:
    game = row(FLOOR, FLOOR, falls=True)
    game.cells = np.full((5, 3), FLOOR)
    game.cells[0, 0] = game.cells[0, 2] = BOULDER
    game.player = Walker(game.player.look, np.array([3, 0]), 1, "keys")
    press(game, *[NOOP] * 12)
    assert np.argwhere(game.cells == BOULDER).tolist() == [[2, 0], [4, 2]]


def test_a_walker_takes_its_pace_from_cell_to_cell() -> None:
    game = row(*[FLOOR] * 4)
    game.player.pace = 4
    seen = []
    for _ in range(8):
        game.step(RIGHT)
        seen.append(float(game.player.position[1]))
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]


def test_a_foe_that_reaches_the_player_ends_the_game() -> None:
    game = row(*[FLOOR] * 4)
    game.foes = [Walker(game.player.look, np.array([1, 4]), 1, "patrol", way=np.array([0, -1]))]
    outcomes = press(game, *[NOOP] * 4)
    assert outcomes[-1] == (-1.0, True)
    assert outcomes[:-1] == [(0.0, False)] * 3


def test_a_scripted_player_fetches_the_key_before_the_gem() -> None:
    game = row(FLOOR, LOCK, GEM)
    game.cells[1, 0], game.cells[1, 1] = KEY, FLOOR
    game.player = Walker(game.player.look, np.array([1, 1]), 1, "keys")
    rewards = []
    for _ in range(4):
        rewards.append(game.step(game.hint())[0])
    assert rewards == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("plan", sorted(_LEVELS))
def test_levels_have_room_to_begin_in(plan: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        cells = _LEVELS[plan](rng, *rng.integers(5, 30, 2))
        assert (cells == FLOOR).any()
        assert np.isin(cells, (FLOOR, WALL, SOIL, BOULDER)).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_the_picture_shows_cells_and_who_stands_there_and_follows_the_player(samples: int) -> None:
    game = row(*[FLOOR] * 3)
    game.cells = np.random.default_rng(0).choice((FLOOR, WALL, SOIL), (8, 20))
    game.view, game.samples = 8, samples  # a cell is as large as its art
    world = game.art[game.cells].swapaxes(1, 2).reshape(64, 160, 3)
    for column, corner in ((1, 0), (10, 52), (18, 96)):
        game.player.cell = game.player.origin = np.array([3, column])
        shown = world.copy()
        game.player.look.draw(shown, np.array([8 * column, 24]))
        assert (game.draw() == shown[:, corner : corner + 64]).all()
    game.player.way = np.array([0, -1])  # who looks left is drawn mirrored
    shown = world.copy()
    game.player.look.mirrored().draw(shown, np.array([8 * 18, 24]))
    assert (game.draw() == shown[:, 96:]).all()


def test_a_world_smaller_than_the_picture_lies_in_its_middle() -> None:
    game = row(*[FLOOR] * 3)
    game.cells, game.view, game.samples = np.full((4, 4), FLOOR), 8, 1
    game.player.cell = game.player.origin = np.array([0, 0])
    shown = np.tile(game.art[WALL], (8, 8, 1))
    shown[16:48, 16:48] = np.tile(game.art[FLOOR], (4, 4, 1))
    game.player.look.draw(shown, np.array([16, 16]))
    assert (game.draw() == shown).all()


def test_nobody_stands_in_a_wall_and_the_picture_shows_who_moves() -> None:
    moved = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        game = delve(rng)
        for _ in range(40):
            before, stood = game.draw(), game.player.position
            assert game.kind(game.player.cell) != WALL
            assert all(game.kind(foe.cell) not in (WALL, SOIL, BOULDER) for foe in game.foes)
            over = game.step(int(rng.choice((UP, RIGHT, LEFT, DOWN))))[1]
            if (game.player.position != stood).any():
                moved += 1
                assert (game.draw() != before).any()
            if over:
                break
    assert moved > 50
