"""Short real runs of training and evaluation on the tiny random model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from stable_baselines3 import PPO

from agents import evaluate, train
from agents.common import load_agent, save_agent
from gamegen_env.sb3 import ImageGameVecEnv


def common(checkpoint: Path) -> list[str]:
    return ["--model", str(checkpoint), "--num-envs", "2", "--max-episode-steps", "8", "--reward", "survival"]


def test_train_then_resume_then_evaluate(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "ppo"
    options = [*common(tiny_checkpoint), "--n-steps", "16", "--save-every", "32", "--episodes", "4", "--out", str(out)]
    train.main([*options, "--steps", "64"])
    assert json.loads((out / "agent.json").read_text())["num_timesteps"] == 64
    rows = list(csv.DictReader((out / "progress.csv").open()))
    assert float(rows[-1]["time/total_timesteps"]) == 64
    first = (out / "agent.safetensors").read_bytes()
    log = (out / "progress.csv").read_bytes()

    train.main([*options, "--steps", "96"])
    assert "resumed at step 64" in capsys.readouterr().out
    assert json.loads((out / "agent.json").read_text())["num_timesteps"] == 96
    assert (out / "agent.safetensors").read_bytes() != first
    assert (out / "progress.csv").read_bytes() == log  # what was logged before stays
    rows = list(csv.DictReader((out / "progress-64.csv").open()))
    assert float(rows[-1]["time/total_timesteps"]) == 96

    evaluate.main([str(out), *common(tiny_checkpoint), "--episodes", "6", "--out", str(tmp_path / "e.json")])
    printed = capsys.readouterr().out
    assert "| trained | 6 |" in printed
    assert "| random | 6 |" in printed
    results = json.loads((tmp_path / "e.json").read_text())
    for result in results.values():
        low, high = result["return_interval"]
        # Survival pays 1 per step, so a return is a length.
        assert low <= result["return"] == result["length"] <= high

    # The agent knows its games, and a seed is a promise here, too.
    evaluate.main([str(out), "--num-envs", "2", "--episodes", "6", "--out", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text()) == results
    with pytest.raises(ValueError, match=r"expected to resume with its own games.*'survival'.*got.*'model'"):
        train.main([*options, "--steps", "128", "--reward", "model"])


def test_evaluate_refuses_a_missing_or_broken_agent(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an agent"):
        evaluate.main([str(tmp_path), *common(tiny_checkpoint)])
    (tmp_path / "agent.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="expected an agent written by"):
        evaluate.main([str(tmp_path), *common(tiny_checkpoint)])
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "agent.safetensors")
    with pytest.raises(ValueError, match="expected an agent written by"):
        evaluate.main([str(tmp_path), *common(tiny_checkpoint)])


def test_loaded_agent_equals_the_saved_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Policy, optimiser moments and step count come back, and another network's agent does not."""
    games = ImageGameVecEnv(2, model=str(tiny_checkpoint), max_episode_steps=8)

    def fresh(seed: int, **options: object) -> PPO:
        return PPO("CnnPolicy", games, n_steps=8, batch_size=16, n_epochs=1, seed=seed, device="cpu", **options)

    agent = fresh(0).learn(16)
    save_agent(tmp_path, agent, {})
    again = load_agent(tmp_path, fresh(1))
    assert again.num_timesteps == 16
    for a, b in ((agent.policy.state_dict(), again.policy.state_dict()), (moments(agent), moments(again))):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert moments(agent)
    with pytest.raises(ValueError, match="expected an agent of this network"):
        load_agent(tmp_path, fresh(1, policy_kwargs={"net_arch": [7]}))


def moments(agent: PPO) -> dict[str, torch.Tensor]:
    state = agent.policy.optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, of in state.items() for name, value in of.items()}


def test_no_episodes_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = [*common(tiny_checkpoint), "--n-steps", "8", "--steps", "16", "--episodes", "0", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="episodes: expected at least 1, got 0"):
        train.main(options)


def test_interval_covers_the_mean_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    hits = [low <= 0 <= high for low, high in (evaluate.interval(rng.normal(size=40), 400) for _ in range(200))]
    assert 0.88 <= np.mean(hits) <= 0.99
