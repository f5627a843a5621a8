"""Reading keys off pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gamegen_env.evaluation.inverse import evaluate_inverse, frechet
from gamegen_env.evaluation.rollouts import CONTEXT, Clips, Rollouts
from gamegen_env.games.shards import Shard, write_shard
from gamegen_env.stream import Step


def test_frechet_distance_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4000, 3)) * (1, 2, 3)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + np.array([0, 3, 4])) == pytest.approx(25)
    # Diagonal covariances: the sum of squared differences of the standard deviations.
    assert frechet(a, a * (2, 1, 1)) == pytest.approx(1, rel=0.1)


def walk(rng: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A square that key 1 moves right and key 2 left, round and round: frames and the keys that led to them."""
    keys = rng.integers(1, 3, steps)
    keys[0] = 0
    x = np.cumsum(np.array([0, 4, -4])[keys]) % 56
    frames = np.zeros((steps, 64, 64, 3), np.uint8)
    for t in range(steps):
        frames[t, 20:28, x[t] : x[t] + 8] = 255
    return frames, keys


def test_keys_are_read_where_a_game_obeys_and_not_where_it_does_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames, keys = walk(rng, 600)
    zeros = np.zeros(600, np.uint8)
    meta = {"game": "test:walk", "source": "test", "split": "train", "seed": 0, "licence": "MIT", "ships": True}
    first = (np.arange(600) == 0).astype(np.uint8)
    shard = Shard(frames, first, keys.astype(np.uint8), zeros.astype(np.float32), zeros, zeros.copy(), meta)
    write_shard(tmp_path / "shard-00000.safetensors", shard)

    none = np.zeros(0, np.int32)
    true, other = (walk(rng, CONTEXT + 41) for _ in range(2))
    clips = Clips([true[0]] * 2, [[Step(int(k), (0, 0), none, none, 1, False) for k in true[1][1:]]] * 2, 40)
    obeys, ignores = (np.stack([f[CONTEXT + 1 :]] * 2) for f in (true[0], other[0]))
    nothing = np.zeros((2, 1, 64, 64, 3), np.uint8)
    good, bad = (
        evaluate_inverse(Rollouts(clips, nothing, played, nothing, nothing), [tmp_path / "shard-00000.safetensors"], 80)
        for played in (obeys, ignores)
    )
    assert good["inverse"] == good["inverse_real"] > 0.9
    assert bad["inverse"] < 0.75  # chance is a half
    assert good["frechet"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(FileNotFoundError, match="--inverse: expected recorded games of the split 'train'"):
        evaluate_inverse(Rollouts(clips, nothing, obeys, nothing, nothing), [], 80)
