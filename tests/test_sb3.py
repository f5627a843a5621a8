"""The SB3 adapter: what its algorithms read, and that they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor

from gamegen_env.sb3 import ImageGameVecEnv
from gamegen_env.vector_env import ImageGameVectorEnv


def games(checkpoint: Path, n: int = 2, **options: object) -> ImageGameVecEnv:
    """At temperature 1, where the random model's games differ."""
    return ImageGameVecEnv(n, model=str(checkpoint), max_episode_steps=5, temperature=1.0, **options)


def test_adapter_plays_what_the_vector_environment_plays(tiny_checkpoint: Path) -> None:
    ours = games(tiny_checkpoint)
    native = ImageGameVectorEnv(
        2, model=str(tiny_checkpoint), max_episode_steps=5, temperature=1.0, autoreset_mode="SameStep"
    )
    ours.seed(3)
    assert np.array_equal(ours.reset(), native.reset(seed=3)[0])
    ends = 0
    for action in np.random.default_rng(0).integers(0, 18, (14, 2)):
        observations, rewards, dones, infos = ours.step(action)
        expected = native.step(action)
        assert np.array_equal(observations, expected[0])
        assert rewards.dtype == np.float32
        assert np.array_equal(rewards, expected[1])
        assert np.array_equal(dones, expected[2] | expected[3])
        for row, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(dones[row])
            if dones[row]:
                ends += 1
                assert np.array_equal(info["terminal_observation"], expected[4]["final_obs"][row])
                assert info["TimeLimit.truncated"] == bool(expected[3][row] and not expected[2][row])
                assert info["step"] == expected[4]["final_info"]["step"][row]
                assert ours.reset_infos[row]["step"] == 0
    assert ends >= 4


def test_seeds_and_options_count_for_one_reset(tiny_checkpoint: Path, picture: np.ndarray) -> None:
    env = games(tiny_checkpoint)
    env.seed(1)
    env.set_options({"image": picture})
    assert np.array_equal(env.reset()[0], picture)
    assert not np.array_equal(env.reset()[0], picture)
    env.set_options({"pictures": 1})
    with pytest.raises(ValueError, match="expected only 'image'"):
        env.reset()


def test_ppo_learns_a_few_steps_on_stacked_frames(tiny_checkpoint: Path) -> None:
    env = VecFrameStack(VecMonitor(games(tiny_checkpoint, reward="survival")), 4)
    agent = PPO("CnnPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(64)
    assert any((a != b).any() for a, b in zip(before, agent.policy.parameters(), strict=True))
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=4)
    assert 1 <= mean <= 5


def test_methods_and_attributes_reach_the_rows(tiny_checkpoint: Path) -> None:
    env = games(tiny_checkpoint)
    env.seed(0)
    env.reset()
    states = env.env_method("clone_state", indices=[1])
    assert len(states) == 1
    first = env.step(np.array([0, 4]))[0][1]
    env.env_method("restore_state", states[0], indices=1)
    assert np.array_equal(env.step(np.array([0, 4]))[0][1], first)
    assert env.get_attr("num_envs", [0]) == [2]
    assert env.env_is_wrapped(VecMonitor) == [False, False]  # type: ignore[arg-type]
    assert env.metadata["render_fps"] == 15  # VecVideoRecorder asks for it
    assert all(image.shape == (64, 64, 3) for image in env.get_images() if image is not None)
    env.env_method("restore_state", state=states[0])
    same = env.step(np.array([4, 4]))[0]
    assert np.array_equal(same[0], same[1])
    env.set_attr("label", "mine")
    assert env.get_attr("label") == ["mine", "mine"]
    with pytest.raises(ValueError, match=r"indices: expected all 2 rows.*got \[1\]"):
        env.set_attr("label", "other", indices=1)
    with pytest.raises(ValueError, match="SameStep"):
        ImageGameVecEnv(2, autoreset_mode="NextStep")


def test_missing_extra_names_its_install_line() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; import gamegen_env.sb3"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: gamegen_env.sb3 needs stable-baselines3: pip install 'gamegen-env[agents]'" in done.stderr
