"""Short real runs of training and evaluation on the tiny random model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from agents import evaluate, train


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

    train.main([*options, "--steps", "96"])
    assert "resumed at step 64" in capsys.readouterr().out
    assert json.loads((out / "agent.json").read_text())["num_timesteps"] == 96
    assert (out / "agent.safetensors").read_bytes() != first

    evaluate.main([str(out), *common(tiny_checkpoint), "--episodes", "6", "--out", str(tmp_path / "e.json")])
    printed = capsys.readouterr().out
    assert "| trained | 6 |" in printed
    assert "| random | 6 |" in printed
    results = json.loads((tmp_path / "e.json").read_text())
    for result in results.values():
        low, high = result["return_interval"]
        # Survival pays 1 per step, so a return is a length.
        assert low <= result["return"] == result["length"] <= high


def test_evaluate_refuses_a_missing_or_broken_agent(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an agent"):
        evaluate.main([str(tmp_path), *common(tiny_checkpoint)])
    (tmp_path / "agent.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="expected an agent of this network"):
        evaluate.main([str(tmp_path), *common(tiny_checkpoint)])


def test_interval_covers_the_mean_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    hits = [low <= 0 <= high for low, high in (evaluate.interval(rng.normal(size=40), 400) for _ in range(200))]
    assert 0.88 <= np.mean(hits) <= 0.99
