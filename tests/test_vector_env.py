"""The native vector environment equals single environments, row by row and bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import gamegen_env  # noqa: F401
from gamegen_env.vector_env import ImageGameVectorEnv

N = 3
MODES = list(AutoresetMode)


def native(checkpoint: Path, **options: Any) -> ImageGameVectorEnv:
    """At temperature 1, where the random model's games differ."""
    return ImageGameVectorEnv(N, model=str(checkpoint), **{"temperature": 1.0, **options})


def actions(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 18, (count, N))


def assert_infos_equal(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    for key, value in a.items():
        if isinstance(value, dict):
            assert_infos_equal(value, b[key])
        else:
            for x, y in zip(value, b[key], strict=True):
                assert np.array_equal(x, y), key


@pytest.mark.parametrize("sticky", [0.0, 0.4])
@pytest.mark.parametrize("mode", MODES)
def test_rows_equal_single_environments(tiny_checkpoint: Path, mode: AutoresetMode, sticky: float) -> None:
    """Long enough that every row meets the time limit, and rows end at different steps through the model."""
    options = {
        "model": str(tiny_checkpoint),
        "max_episode_steps": 9,
        "temperature": 1.0,
        "repeat_action_probability": sticky,
    }
    ours = ImageGameVectorEnv(N, autoreset_mode=mode, **options)
    theirs = SyncVectorEnv(
        [lambda: gym.make("ImageGame-v0", disable_env_checker=True, **options)] * N, autoreset_mode=mode
    )
    for env in (ours, theirs):
        assert env.metadata["autoreset_mode"] == mode
    (a, info_a), (b, info_b) = ours.reset(seed=11), theirs.reset(seed=11)
    assert np.array_equal(a, b)
    assert_infos_equal(info_a, info_b)
    ends = 0
    for action in actions(30):
        step_a, step_b = ours.step(action), theirs.step(action)
        for x, y in zip(step_a[:4], step_b[:4], strict=True):
            assert np.array_equal(x, y)
            assert x.dtype == y.dtype
        assert_infos_equal(step_a[4], step_b[4])
        ended = step_a[2] | step_a[3]
        ends += int(ended.sum())
        if mode == AutoresetMode.DISABLED and ended.any():
            (a, info_a), (b, info_b) = (e.reset(options={"reset_mask": ended.copy()}) for e in (ours, theirs))
            assert np.array_equal(a, b)
            assert_infos_equal(info_a, info_b)
    assert ends >= 2 * N


def test_make_vec_builds_the_native_environment(tiny_checkpoint: Path) -> None:
    env = gym.make_vec("ImageGame-v0", num_envs=N, model=str(tiny_checkpoint), autoreset_mode="SameStep")
    assert isinstance(env.unwrapped, ImageGameVectorEnv)
    assert env.unwrapped.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (N, 64, 64, 3)
    # The class keeps its own metadata.
    assert "autoreset_mode" not in ImageGameVectorEnv.metadata
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space


def test_masked_reset_leaves_other_rows_alone(tiny_checkpoint: Path, picture: np.ndarray) -> None:
    env, alone = native(tiny_checkpoint), native(tiny_checkpoint)
    for e in (env, alone):
        e.reset(seed=4)
        e.step(np.zeros(N, int))
    options = {"reset_mask": np.array([False, True, False]), "image": picture}
    observation, infos = env.reset(seed=50, options=options)
    assert set(options) == {"reset_mask", "image"}  # the caller's dict is not eaten
    assert np.array_equal(observation[1], picture)
    assert infos["_step"].tolist() == [False, True, False]
    a, b = env.step(np.full(N, 3)), alone.step(np.full(N, 3))
    for row in (0, 2):
        assert np.array_equal(a[0][row], b[0][row])


def test_seeds_and_pictures_per_row(tiny_checkpoint: Path, picture: np.ndarray) -> None:
    env = native(tiny_checkpoint)
    dark = np.zeros_like(picture)
    observation, _ = env.reset(seed=[7, 7, 8], options={"image": [picture, picture, dark]})
    assert np.array_equal(observation[0], picture)
    assert np.array_equal(observation[2], dark)
    for action in actions(5)[:, :1].repeat(N, 1):
        observation = env.step(action)[0]
        assert np.array_equal(observation[0], observation[1])


def test_results_share_no_memory(tiny_checkpoint: Path) -> None:
    env = native(tiny_checkpoint)
    first = env.reset(seed=0)[0]
    steps = [env.step(np.zeros(N, int)) for _ in range(2)]
    arrays = [first, *(a for s in steps for a in s[:4])]
    for i, array in enumerate(arrays):
        assert not any(np.shares_memory(array, other) for other in arrays[:i])


def test_states_move_between_rows_and_environments(tiny_checkpoint: Path) -> None:
    env, other = native(tiny_checkpoint), native(tiny_checkpoint)
    env.reset(seed=1)
    env.step(np.array([1, 2, 3]))
    states = pickle.loads(pickle.dumps(env.clone_state()))
    future = [env.step(a)[0] for a in actions(6)]
    other.restore_state(states[::-1])
    for a, expected in zip(actions(6), future, strict=True):
        assert np.array_equal(other.step(a[::-1])[0], expected[::-1])


def test_one_state_branches_into_all_rows(tiny_checkpoint: Path) -> None:
    env = native(tiny_checkpoint)
    env.reset(seed=1)
    env.restore_state(env.clone_state([0]) * N)
    same = env.step(np.full(N, 5))[0]
    assert np.array_equal(same[0], same[1])
    assert np.array_equal(same[0], same[2])


def test_state_at_the_end_of_an_episode_reproduces_its_autoreset(tiny_checkpoint: Path) -> None:
    """A snapshot taken between an end and its reset must not turn into a game that plays on."""
    env, other = (native(tiny_checkpoint, max_episode_steps=2) for _ in range(2))
    env.reset(seed=1)
    for _ in range(2):
        truncated = env.step(np.zeros(N, int))[3]
    assert truncated.any()
    states = env.clone_state()
    future = [env.step(a)[:4] for a in actions(4)]
    other.restore_state(states)
    for a, expected in zip(actions(4), future, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(other.step(a)[:4], expected, strict=True))
    strict = native(tiny_checkpoint, autoreset_mode="Disabled")
    strict.restore_state(states)
    with pytest.raises(gym.error.ResetNeeded, match="expected a reset after their end"):
        strict.step(np.zeros(N, int))


def test_refused_seed_changes_no_row(tiny_checkpoint: Path) -> None:
    env, alone = native(tiny_checkpoint), native(tiny_checkpoint)
    for e in (env, alone):
        e.reset(seed=1)
    with pytest.raises(gym.error.Error, match="greater or equal to zero"):
        env.reset(seed=[5, 6, -1])
    assert np.array_equal(env.step(np.full(N, 3))[0], alone.step(np.full(N, 3))[0])
    assert np.array_equal(env.reset()[0], alone.reset()[0])


def test_refused_state_changes_no_row(tiny_checkpoint: Path) -> None:
    env, alone = native(tiny_checkpoint), native(tiny_checkpoint)
    for e in (env, alone):
        e.reset(seed=1)
    other = native(tiny_checkpoint)
    other.reset(seed=9)
    good, foreign, _ = other.clone_state()
    foreign["world"]["fingerprint"] = "0" * 16
    with pytest.raises(ValueError, match="state: expected fingerprint"):
        env.restore_state([good, foreign, good])
    assert np.array_equal(env.step(np.full(N, 3))[0], alone.step(np.full(N, 3))[0])


def test_pickled_environment_is_rebuilt_with_its_arguments(tiny_checkpoint: Path) -> None:
    env = native(tiny_checkpoint, autoreset_mode="SameStep", max_episode_steps=4, reward="survival")
    data = pickle.dumps(env)
    assert len(data) < 5000  # arguments, not weights
    again = pickle.loads(data)
    assert again.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset(seed=1), again.reset(seed=1)
    for action in actions(6):
        for x, y in zip(env.step(action)[:4], again.step(action)[:4], strict=True):
            assert np.array_equal(x, y)


def test_episode_statistics_wrapper_works(tiny_checkpoint: Path) -> None:
    env = RecordEpisodeStatistics(
        native(tiny_checkpoint, max_episode_steps=4, reward="survival", autoreset_mode="SameStep")
    )
    env.reset(seed=0)
    lengths = []
    for action in actions(8):
        infos = env.step(action)[4]
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths
    assert max(lengths) <= 4


def test_render_gives_one_frame_per_row(tiny_checkpoint: Path) -> None:
    env = native(tiny_checkpoint, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frames = env.render()
    assert frames is not None
    assert np.array_equal(np.stack(frames), observation)


def test_misuse_is_refused(tiny_checkpoint: Path) -> None:
    env = native(tiny_checkpoint, autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(N, int))
    env.reset(seed=0)
    for bad in (np.zeros(N + 1, int), np.full(N, 18), np.zeros(N), np.full(N, -1), [[1], [2, 3], 0]):
        with pytest.raises(gym.error.InvalidAction, match="expected"):
            env.step(bad)  # type: ignore[arg-type]
    env.step(np.zeros(N, int))
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0, 1, 2\]"):
        env.step(np.zeros(N, int))
    for mask, error in (
        ([True] * N, TypeError),
        (np.ones(N, int), TypeError),
        (np.ones(N + 1, bool), ValueError),
        (np.zeros(N, bool), ValueError),
    ):
        with pytest.raises(error, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="seed: expected 3 seeds, got 2"):
        env.reset(seed=[1, 2])
    with pytest.raises(TypeError, match=r"seed: expected an integer.*got 1\.5"):
        env.reset(seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="options: expected a dict, got list"):
        env.reset(options=[1])  # type: ignore[arg-type]
    for rows in ([3], [-1], [0, 0]):
        with pytest.raises(ValueError, match=r"rows: expected distinct numbers in 0\.\.2"):
            env.clone_state(rows)
    with pytest.raises(ValueError, match="expected 3 pictures, got 1"):
        env.reset(options={"image": [np.zeros((8, 8, 3), np.uint8)]})
    with pytest.raises(ValueError, match="states: expected 3, got 0"):
        env.restore_state([])
    env.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autoreset_mode": "Sometimes"}, "autoreset_mode: expected one of"),
        ({"max_episode_steps": 0}, "max_episode_steps: expected"),
        ({"max_episode_steps": 2.5}, "max_episode_steps: expected an integer"),
        ({"render_mode": "human"}, "render_mode: expected"),
        ({"num_envs": 0}, "num_slots: expected an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(tiny_checkpoint: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageGameVectorEnv(**{"num_envs": 2, "model": str(tiny_checkpoint), **options})
