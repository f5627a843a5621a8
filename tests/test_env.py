"""The single environment against Gymnasium's and SB3's contracts, and its own promises."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from PIL import Image
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import gamegen_env  # noqa: F401
from gamegen_env.env import ImageGameEnv


@pytest.fixture
def env(tiny_checkpoint: Path) -> ImageGameEnv:
    return make(tiny_checkpoint, render_mode="rgb_array")


def make(checkpoint: Path, **options: Any) -> ImageGameEnv:
    """At temperature 1, where the random model's games differ."""
    return ImageGameEnv(**{"model": str(checkpoint), "temperature": 1.0, **options})


def play(env: gym.Env, actions: list[int]) -> list[tuple]:
    steps = [env.step(action) for action in actions]
    return [(s[0].tobytes(), *s[1:4], s[4]["tokens"]) for s in steps]


ACTIONS = [3, 3, 0, 1, 17, 5, 8, 8, 2, 11]


def test_env_passes_gymnasium_checker(tiny_checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("ImageGame-v0", model=str(tiny_checkpoint), render_mode="rgb_array").unwrapped)


def test_env_passes_sb3_checker(tiny_checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(gym.make("ImageGame-v0", model=str(tiny_checkpoint)))


def test_import_loads_no_torch() -> None:
    code = "import sys, gamegen_env; sys.exit(any(m in sys.modules for m in ('torch', 'PIL', 'stable_baselines3')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_env_is_made_by_module_name(tiny_checkpoint: Path) -> None:
    env = gym.make("gamegen_env:ImageGame-v0", model=str(tiny_checkpoint))
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(18)
    assert isinstance(env.metadata["render_fps"], int)


def test_spec_survives_json(tiny_checkpoint: Path) -> None:
    env = gym.make("ImageGame-v0", model=str(tiny_checkpoint), temperature=0.5, action_set="procgen")
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == gym.spaces.Discrete(15)
    assert env.reset(seed=1)[0].tobytes() == again.reset(seed=1)[0].tobytes()
    assert play(env, ACTIONS[:4]) == play(again, ACTIONS[:4])


def test_time_limit_truncates(tiny_checkpoint: Path) -> None:
    env = gym.make("ImageGame-v0", model=str(tiny_checkpoint), max_episode_steps=3)
    env.reset(seed=0)
    flags = []
    for _ in range(3):
        flags.append(env.step(0)[2:4])
    assert flags[-1][1] is True
    assert all(truncated is False for _, truncated in flags[:-1])


def test_same_seed_same_game_and_other_seed_another(env: ImageGameEnv, tiny_checkpoint: Path) -> None:
    other = make(tiny_checkpoint)
    first = env.reset(seed=5)[0].tobytes(), play(env, ACTIONS)
    assert (other.reset(seed=5)[0].tobytes(), play(other, ACTIONS)) == first
    assert (other.reset(seed=6)[0].tobytes(), play(other, ACTIONS)) != first
    # Without a seed the generator goes on: another game, but the same one in both.
    second = env.reset()[0].tobytes(), play(env, ACTIONS)
    other.reset(seed=5)
    assert (other.reset()[0].tobytes(), play(other, ACTIONS)) == second != first


def test_actions_change_the_game(env: ImageGameEnv) -> None:
    games = []
    for action in (0, 3, 4):
        env.reset(seed=2)
        games.append(play(env, [action] * 8))
    assert games[0] != games[1] != games[2]


def test_reset_shows_the_given_picture(env: ImageGameEnv, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "p.png")
    for image in (picture, Image.fromarray(picture), tmp_path / "p.png", str(tmp_path / "p.png")):
        observation, info = env.reset(seed=0, options={"image": image})
        assert np.array_equal(observation, picture)
        assert info["reward_source"] == "model"


def test_configured_picture_is_used(tiny_checkpoint: Path, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "p.png")
    env = make(tiny_checkpoint, image=str(tmp_path / "p.png"))
    assert np.array_equal(env.reset(seed=0)[0], picture)


def test_survival_reward_pays_one_per_step(tiny_checkpoint: Path) -> None:
    env = make(tiny_checkpoint, reward="survival")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(0)
    assert (reward, info["reward_source"]) == (1.0, "survival")


def test_repeated_actions_stick(tiny_checkpoint: Path) -> None:
    """With probability 1 the first no-op is played for ever: no action can change the game."""
    games = []
    for actions in ([3] * 6, [17] * 6):
        env = make(tiny_checkpoint, repeat_action_probability=1.0)
        env.reset(seed=0)
        games.append(play(env, actions))
    assert games[0] == games[1]


def test_render_returns_the_observation_as_a_copy(env: ImageGameEnv) -> None:
    env.reset(seed=0)
    observation = env.step(3)[0]
    rendered = env.render()
    assert rendered is not None
    assert np.array_equal(rendered, observation)
    rendered[:] = 0
    assert np.array_equal(env.render(), observation)


def test_observations_share_no_memory(env: ImageGameEnv) -> None:
    frames = [env.reset(seed=0)[0], env.step(0)[0], env.step(0)[0]]
    for i, frame in enumerate(frames):
        assert not any(np.shares_memory(frame, other) for other in frames[:i])


def test_clone_and_restore_reproduce_the_future(env: ImageGameEnv, tiny_checkpoint: Path) -> None:
    env.reset(seed=3)
    play(env, ACTIONS[:4])
    state = pickle.loads(pickle.dumps(env.clone_state()))
    future = play(env, ACTIONS), env.reset()[0].tobytes(), play(env, ACTIONS)
    env.restore_state(state)
    assert (play(env, ACTIONS), env.reset()[0].tobytes(), play(env, ACTIONS)) == future
    fresh = make(tiny_checkpoint)
    fresh.restore_state(state)
    assert (play(fresh, ACTIONS), fresh.reset()[0].tobytes(), play(fresh, ACTIONS)) == future


def test_state_without_generator_leaves_later_episodes_alone(env: ImageGameEnv) -> None:
    env.reset(seed=3)
    state = env.clone_state(include_rng=False)
    before = env.np_random.bit_generator.state
    env.reset(seed=9)
    env.restore_state(state)
    assert env.np_random.bit_generator.state != before


def test_pickled_env_is_rebuilt_with_its_arguments(tiny_checkpoint: Path) -> None:
    env = make(tiny_checkpoint, action_set="procgen", temperature=0.0)
    data = pickle.dumps(env)
    assert len(data) < 5000  # arguments, not weights
    again = pickle.loads(data)
    assert again.action_space == env.action_space
    env.reset(seed=1), again.reset(seed=1)
    assert play(env, [7, 7, 7]) == play(again, [7, 7, 7])


def test_meanings_and_keys(env: ImageGameEnv) -> None:
    meanings = env.get_action_meanings()
    assert (meanings[0], meanings[1], meanings[14]) == ("NOOP", "FIRE", "UPRIGHTFIRE")
    keys = env.get_keys_to_action()
    # SDL keycodes: K_SPACE = 32, K_UP = 0x40000052, as pygame has them.
    assert meanings[keys[(32, 0x40000052)]] == "UPFIRE"
    assert meanings[keys[(ord("a"),)]] == "LEFT"


def test_gymnasium_player_plays_it(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gymnasium's own player, headless: a held key reaches the game as its action, and escape ends the play."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame", reason="needs the extra [play]")
    from gymnasium.utils import play as gymnasium_play

    env = gym.make("ImageGame-v0", model=str(tiny_checkpoint), render_mode="rgb_array")
    played = []

    def callback(_before: Any, _after: Any, action: int, *_: Any) -> None:
        played.append(env.unwrapped.get_action_meanings()[action])  # type: ignore[attr-defined]
        if len(played) == 3:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_UP))
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
        if len(played) == 8:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE))

    gymnasium_play.play(env, fps=1000, callback=callback, noop=0)
    assert played[:3] == ["NOOP"] * 3
    assert played[-3:] == ["UPFIRE"] * 3


def test_misuse_is_refused(env: ImageGameEnv) -> None:
    for call in (lambda: env.step(0), env.render, env.clone_state):
        with pytest.raises(gym.error.ResetNeeded):
            call()
    env.reset(seed=0)
    before = play(env, [1])
    env.reset(seed=0)
    for action in (18, -1, 1.5, "up", None, [1]):
        with pytest.raises(gym.error.InvalidAction, match=r"expected (0..17|1 integers)"):
            env.step(action)  # type: ignore[arg-type]
    assert play(env, [1]) == before  # refused actions changed nothing
    env.close()
    for call in (lambda: env.step(0), env.reset, env.render, env.clone_state):
        with pytest.raises(gym.error.ClosedEnvironmentError):
            call()
    env.close()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"picture": 1}, ValueError, r"expected only 'image', got \['picture'\]"),
        ([1], TypeError, "expected a dict, got list"),
        ({"image": 3}, TypeError, "got int"),
        ({"image": "nowhere.png"}, FileNotFoundError, "nowhere.png"),
        ({"image": [np.zeros((8, 8, 3), np.uint8)] * 2}, ValueError, "expected 1 pictures, got 2"),
    ],
)
def test_bad_reset_options_are_refused_and_the_game_goes_on(
    env: ImageGameEnv, options: Any, error: type[Exception], message: str
) -> None:
    env.reset(seed=0)
    expected = play(env, [1, 2])
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.reset(seed=1, options=options)
    assert play(env, [1, 2]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "gold"}, "reward: expected"),
        ({"fit": "squeeze"}, "fit: expected"),
        ({"engine": "warp"}, "engine: expected"),
        ({"action_set": "nes"}, "action_set: expected"),
        ({"repeat_action_probability": 2}, "repeat_action_probability: expected"),
        ({"repeat_action_probability": "often"}, "repeat_action_probability: expected 0..1, got 'often'"),
        ({"temperature": -1}, "temperature: expected"),
        ({"kv_bits": 8}, "kv_bits: expected 4 or 16, got 8"),
        ({"device": "gpu"}, "device: expected"),
        ({"render_mode": "human"}, "render_mode: expected"),
    ],
)
def test_bad_arguments_are_refused(tiny_checkpoint: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageGameEnv(**{"model": str(tiny_checkpoint), **arguments})


def test_state_of_another_model_is_refused(env: ImageGameEnv) -> None:
    env.reset(seed=0)
    state = env.clone_state()
    expected = play(env, [1, 2])
    env.restore_state(state)
    with pytest.raises(ValueError, match="state: expected fingerprint"):
        env.restore_state({**state, "world": {**state["world"], "fingerprint": "0" * 16}})
    with pytest.raises(TypeError, match="expected what clone_state returned"):
        env.restore_state({"nonsense": 1})
    play(env, [3])
    later = env.clone_state()
    elsewhere = env.step(3)[0]
    for change in ({"step": "a"}, {"step": -1}, {"rng": {"a": 1}}, {"rng": 3}, {"world": "x"}, {"world": {}}):
        with pytest.raises((TypeError, ValueError)):
            env.restore_state({**state, **change})
    env.restore_state(later)
    assert np.array_equal(env.step(3)[0], elsewhere)
    env.restore_state(state)
    assert play(env, [1, 2]) == expected


def test_packaged_model_is_what_a_bare_make_plays() -> None:
    """Its games move and heed the keys. (One picture: in some games nothing stirs without cause.)"""
    env = gym.make("ImageGame-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
    last = []
    for action in (3, 4):
        frame, _ = env.reset(seed=0, options={"image": "bigfish"})
        for _ in range(12):
            after = env.step(action)[0]
        assert not np.array_equal(frame, after)
        last.append(after)
    assert not np.array_equal(*last)
