"""Real games behind one interface: ids, reserved games, actions and the ends of episodes."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from gamegen_env.actions import ALE, N_ACTIONS, token
from gamegen_env.games import POCKET_MIX, RESERVED, check_split, make_source, parse_game_id
from gamegen_env.games.base import GameSource, Step, action_table, check_tokens, resize
from gamegen_env.games.policies import Policy

PACKAGES = {"procgen": "envpool", "gameworld": "gameworld", "vizdoom": "vizdoom", "ale": "ale_py"}
GAMES = ["procgen:bigfish", "gameworld:Bounce", "vizdoom:basic", "ale:breakout"]
RIGHT, LEFT, NOOP = token("RIGHT"), token("LEFT"), token("NOOP")


def open_game(game_id: str, num_envs: int = 4, seed: int = 0, split: str = "train") -> GameSource:
    pytest.importorskip(PACKAGES[game_id.partition(":")[0]])
    return make_source(game_id, num_envs, seed, split)


def play(source: GameSource, steps: int) -> list[tuple[np.ndarray, ...]]:
    """Play random meaningful actions; return [(frames, rewards, terminated, truncated)], reset first."""
    rng, n = np.random.default_rng(0), source.num_envs
    out = [(source.reset(), np.zeros(n), np.zeros(n, bool), np.zeros(n, bool))]
    for _ in range(steps):
        out.append(source.step(rng.choice(source.action_tokens, n)))
    source.close()
    return out


class StillGame(GameSource):
    """A game that only has tokens: the tests bring the frames."""

    licence = "none"

    def __init__(self, game: str = "fake:x", tokens: tuple[int, ...] = (NOOP, RIGHT), n: int = 64) -> None:
        super().__init__(game, n, tokens, {}, ())

    def reset(self) -> np.ndarray:
        return np.zeros((self.num_envs, 64, 64, 3), np.uint8)

    def step(self, action_tokens: np.ndarray) -> Step:
        raise AssertionError("a policy chooses tokens, it never steps the game")

    def close(self) -> None:
        pass


# --- ids, splits and reserved games


@pytest.mark.parametrize("bad", ["coinrun", "procgen:", "nintendo:mario", "procgen:coinrun@", ":x", ""])
def test_game_id_malformed_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="game_id"):
        parse_game_id(bad)


def test_game_id_is_split_into_source_name_and_style() -> None:
    assert parse_game_id("procgen:coinrun@generated") == ("procgen", "coinrun", "generated")
    assert parse_game_id("gameworld:Impact") == ("gameworld", "Impact", "")


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize(
    "game_id",
    ["procgen:ninja", "ale:gopher", "gameworld:Hunt", "procgen:coinrun@generated", "procgen:maze@monochrome"],
)
def test_reserved_game_is_refused_outside_its_split(game_id: str, split: str) -> None:
    with pytest.raises(ValueError, match="reserved for zero-shot evaluation"):
        make_source(game_id, 1, 0, split)
    check_split(game_id, "reserved")


def test_pocket_games_are_not_reserved_and_all_shippable() -> None:
    assert len(set(POCKET_MIX)) == len(POCKET_MIX)
    for game_id in POCKET_MIX:
        source, name, style = parse_game_id(game_id)
        assert name not in RESERVED.get(source, ())
        assert style == ""
        assert source != "ale"


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({"split": "test"}, "split"),
        ({"num_envs": 0}, "num_envs"),
        ({"seed": -1}, "seed"),
    ],
)
def test_make_source_bad_argument_is_named(kwargs: dict, names: str) -> None:
    arguments = {"game_id": "procgen:coinrun", "num_envs": 1, "seed": 0, "split": "train", **kwargs}
    with pytest.raises(ValueError, match=names):
        make_source(**arguments)


@pytest.mark.parametrize("game_id", ["procgen:sonic", "gameworld:Sonic", "vizdoom:sonic", "ale:sonic"])
def test_unknown_game_is_refused(game_id: str) -> None:
    with pytest.raises(ValueError, match=r"got '[sS]onic'"):
        open_game(game_id)


@pytest.mark.parametrize(
    ("game_id", "package"),
    [
        ("procgen:coinrun", "envpool"),
        ("gameworld:Impact", "gameworld.envs"),
        ("vizdoom:basic", "vizdoom"),
        ("ale:pong", "ale_py"),
    ],
)
def test_missing_package_says_how_to_install_it(game_id: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'gamegen-env\[games\]'"):
        make_source(game_id, 1, 0)


# --- actions and frames


def test_action_table_falls_back_to_direction_then_default() -> None:
    table = action_table({NOOP: "stay", RIGHT: "go", token("NOOP", "FIRE"): "shoot"}, "default")
    assert len(table) == N_ACTIONS
    assert table[token("RIGHT", "FIRE")] == "go"
    assert table[token("NOOP", "FIRE")] == "shoot"
    assert table[token("NOOP", "B")] == "stay"
    assert table[token("UP", "B")] == "default"


@pytest.mark.parametrize(
    "bad", [np.zeros(3, int), np.zeros((2, 1), int), np.zeros(2), np.array([0, N_ACTIONS]), np.array([-1, 0])]
)
def test_check_tokens_bad_input_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="action_tokens"):
        check_tokens(bad, 2)


def test_resize_averages_areas() -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[::2, ::2] = 200  # a quarter of every 2x2 block
    assert (resize(frame) == 50).all()
    native = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    assert resize(native) is native


@pytest.mark.parametrize("game_id", GAMES)
def test_source_frames_depend_on_seed_alone(game_id: str) -> None:
    a, b, other, heldout = (
        np.stack([frames for frames, *_ in play(open_game(game_id, 4, seed, split), 40)])
        for seed, split in ((3, "train"), (3, "train"), (4, "train"), (3, "heldout"))
    )
    assert a.shape == (41, 4, 64, 64, 3)
    assert a.dtype == np.uint8
    assert (a == b).all()
    assert (a != other).any()
    assert (a != heldout).any()
    assert (a[1:] != a[:-1]).any((0, 2, 3, 4)).all()  # every play is alive


@pytest.mark.parametrize("game_id", [*GAMES, "procgen:dodgeball"])
def test_episode_end_is_followed_by_a_fresh_start(game_id: str) -> None:
    steps = play(open_game(game_id, 8), 600 if game_id.startswith("ale") else 400)
    ends = 0
    for before, after in itertools.pairwise(steps):
        over = before[2] | before[3]
        ends += over.sum()
        assert (after[1][over] == 0).all()
        assert not (after[2] | after[3])[over].any()
    assert ends > 0
    _, rewards, terminated, truncated = steps[1]
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float32, bool, bool)


@pytest.mark.parametrize("game_id", ["procgen:bigfish", "procgen:dodgeball", "gameworld:Gold"])
def test_episode_end_shows_the_last_frame_of_its_own_episode(game_id: str) -> None:
    steps = play(open_game(game_id, 8), 400)
    frames = np.stack([s[0] for s in steps]).astype(np.int16)
    over = np.stack([s[2] | s[3] for s in steps])[:-1]
    change = (np.abs(frames[1:] - frames[:-1]) > 20).any(-1).mean((2, 3))  # arriving at step t + 1
    at_end, at_start = change[:-1][over[1:]], change[over]
    assert len(at_end) > 3
    assert at_end.mean() < at_start.mean() / 2


def test_procgen_levels_stay_within_their_split() -> None:
    for split, low, high in (
        ("train", 0, 5_000),
        ("heldout", 50_000, 60_000),
        ("reserved", 100_000, 200_000),
    ):
        source = open_game("procgen:bossfight", 16, split=split)
        seeds = []
        for _ in range(200):
            info = source._pool.step(np.zeros(16, np.int32))[-1]
            seeds.append(info["level_seed"].copy())
        source.close()
        assert len(np.unique(seeds)) > 32
        assert low <= np.min(seeds)
        assert np.max(seeds) < high


def test_procgen_style_repaints_the_same_game() -> None:
    plain, restyled = (
        play(open_game(f"procgen:coinrun{style}", 2, 0, "reserved"), 0)[0][0] for style in ("", "@monochrome")
    )
    assert (plain != restyled).mean() > 0.2


def test_procgen_unknown_button_acts_as_its_direction() -> None:
    frames = []
    for button in ("", "FIRE"):
        source = open_game("procgen:bigfish", 2)
        source.reset()
        for _ in range(5):
            last = source.step(np.full(2, token("RIGHT", button)))[0]
        frames.append(last)
        source.close()
    assert (frames[0] == frames[1]).all()


def paddle_x(frame: np.ndarray) -> float:
    """Centre of what is yellow."""
    yellow = (frame[..., 0] > 200) & (frame[..., 1] > 200) & (frame[..., 2] < 100)
    return float(np.flatnonzero(yellow.any(0)).mean())


@pytest.mark.parametrize("game_id", ["gameworld:Impact", "gameworld:Explode", "gameworld:Fruits", "gameworld:Gold"])
def test_gameworld_left_and_right_move_the_player_that_way(game_id: str) -> None:
    source = open_game(game_id, 3)
    start = source.reset()
    for _ in range(3):
        frames = source.step(np.array([LEFT, NOOP, RIGHT]))[0]
    source.close()
    moved = [paddle_x(b) - paddle_x(a) for a, b in zip(start, frames, strict=True)]
    assert moved[0] < -5
    assert moved[1] == 0
    assert moved[2] > 5


def test_gameworld_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    play(open_game("gameworld:Fruits", 2), 30)
    assert (np.random.random(3) == expected).all()  # noqa: NPY002


def test_gameworld_script_plays_better_than_chance() -> None:
    gains = []
    for scripted in (False, True):
        source = open_game("gameworld:Explode", 8)
        source.reset()
        rng, gain = np.random.default_rng(0), 0.0
        for _ in range(300):
            hint = source.hint()
            assert hint is not None
            gain += source.step(hint if scripted else rng.choice(source.action_tokens, 8))[1].sum()
        gains.append(gain)
        source.close()
    assert gains[1] > gains[0] + 10


def test_vizdoom_has_no_frame_after_the_end_so_the_last_is_repeated() -> None:
    source = open_game("vizdoom:basic", 1)
    source.reset()
    for _ in range(100):  # its own limit is 300 tics, four per step
        frames, _, terminated, truncated = source.step(np.array([NOOP]))
        if truncated[0]:
            break
    assert truncated[0]
    assert not terminated[0]
    assert source._envs[0].get_state() is None
    assert frames[0].any()
    source.close()


def test_ale_is_marked_as_not_shippable() -> None:
    ale, procgen = open_game("ale:pong", 1), open_game("procgen:maze", 1)
    assert (ale.ships, procgen.ships) == (False, True)
    assert set(ale.action_tokens) < set(ALE)
    ale.close()
    procgen.close()


# --- policies


def press(policy: Policy, steps: int, moving: bool = True) -> np.ndarray:
    """Let a policy press keys while the picture changes every step, or never."""
    frames = [np.full((64, 64, 64, 3), t % 2 * moving, np.uint8) for t in range(2)]
    return np.stack([policy.act(frames[t % 2]) for t in range(steps)])


def test_policy_same_seed_presses_the_same_keys() -> None:
    a, b, c = (press(Policy(StillGame(), seed), 30) for seed in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).any()


def test_policy_uses_only_tokens_of_the_game_unless_stray() -> None:
    assert set(np.unique(press(Policy(StillGame(), 0), 50))) == {NOOP, RIGHT}
    stray = press(Policy(StillGame(), 0, stray=0.5), 50)
    assert set(np.unique(stray[:, ::2])) == set(ALE)  # blind plays
    assert set(np.unique(stray[:, 1::2])) == {NOOP, RIGHT}  # leaning plays


def test_policy_holds_keys_and_lets_go_when_the_picture_stands_still() -> None:
    def kept(keys: np.ndarray) -> float:
        return float((keys[1:] == keys[:-1]).mean())

    many = StillGame(tokens=tuple(range(18)))
    assert kept(press(Policy(many, 0), 200)) > 0.5
    assert kept(press(Policy(many, 0), 200, moving=False)) < 0.1


def test_policy_leans_only_in_odd_plays() -> None:
    keys = press(Policy(StillGame("procgen:coinrun", (NOOP, LEFT, RIGHT)), 0), 300)
    share = (keys == RIGHT).mean(0)
    assert 0.2 < share[::2].mean() < 0.45
    assert share[1::2].mean() > 0.7
