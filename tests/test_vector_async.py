"""send and recv of the vector environment: the games of step, each as soon as it is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from gamegen_env.vector_env import ImageGameVectorEnv

N, STEPS = 4, 25


def start(checkpoint: Path, **options: Any) -> ImageGameVectorEnv:
    """At temperature 1, where the random model's games differ and end."""
    envs = ImageGameVectorEnv(N, model=str(checkpoint), **{"temperature": 1.0, "max_episode_steps": 9, **options})
    envs.reset(seed=11)
    return envs


def row_of(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """What a vector's infos say of one row; a nested row that nothing was said of is left out."""
    told = {}
    for key, value in infos.items():
        if not key.startswith("_") and infos[f"_{key}"][row]:
            told[key] = row_of(value, row) if isinstance(value, dict) else value[row]
    return told


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return set(a) == set(b) and all(
        same(a[key], b[key]) if isinstance(a[key], dict) else np.array_equal(a[key], b[key]) for key in a
    )


@pytest.mark.parametrize("sticky", [0.0, 0.4])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_games_are_those_of_step(tiny_checkpoint: Path, mode: AutoresetMode, sticky: float) -> None:
    """Drawn rows are sent and drawn numbers received; each row tells what it tells in step."""
    options = {"autoreset_mode": mode, "repeat_action_probability": sticky}
    together, apart = (start(tiny_checkpoint, **options) for _ in range(2))
    actions = np.random.default_rng(0).integers(0, 18, (STEPS, N))
    expected, ends = [], 0
    for action in actions:
        expected.append(together.step(action))
        ended = expected[-1][2] | expected[-1][3]
        ends += int(ended.sum())
        if mode == AutoresetMode.DISABLED and ended.any():
            together.reset(options={"reset_mask": ended})
    assert ends > N
    rng, times, busy = np.random.default_rng(1), np.zeros(N, np.int64), np.zeros(N, bool)
    while times.min() < STEPS:
        free = (~busy & (times < STEPS)).nonzero()[0]
        chosen = rng.permutation(free)[: rng.integers(0, len(free) + 1)]
        apart.send(actions[times[chosen], chosen], chosen)
        busy[chosen] = True
        if not busy.any():
            continue
        least = int(rng.integers(1, busy.sum() + 1))
        rows, (*arrays, infos) = apart.recv(least)
        assert least <= len(rows)
        assert rows.tolist() == sorted(set(rows.tolist()) & set(busy.nonzero()[0].tolist()))
        for i, row in enumerate(rows):
            *there, told = expected[times[row]]
            for got, array in zip(arrays, there, strict=True):
                assert got.dtype == array.dtype
                assert np.array_equal(got[i], array[row])
            assert same(row_of(infos, i), row_of(told, row))
        busy[rows] = False
        times[rows] += 1
        ended = np.zeros(N, bool)
        ended[rows] = arrays[2] | arrays[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            apart.reset(options={"reset_mask": ended})


def test_a_long_step_holds_up_no_other(tiny_checkpoint: Path) -> None:
    lengths = start(tiny_checkpoint).step(np.zeros(N, np.int64))[4]["tokens"]
    slow = int(lengths.argmax())
    envs = start(tiny_checkpoint, threads=1)
    envs.send(np.zeros(N, np.int64))
    times = np.zeros(N, np.int64)
    while not times[slow]:
        rows, _ = envs.recv()
        times[rows] += 1
        again = [row for row in rows.tolist() if row != slow]
        envs.send(np.zeros(len(again), np.int64), again)
    assert times.max() > 1


def test_rows_under_way_are_left_alone(tiny_checkpoint: Path) -> None:
    envs, alone = start(tiny_checkpoint), start(tiny_checkpoint)
    actions = np.arange(N)
    expected = alone.step(actions)
    states = envs.clone_state()
    envs.send(actions[[2, 0]], [2, 0])
    pending = gym.error.AlreadyPendingCallError
    for refused in (
        lambda: envs.step(actions),
        lambda: envs.send(actions[[1, 2]], [1, 2]),
        lambda: envs.reset(seed=0),
        lambda: envs.clone_state([0]),
        lambda: envs.restore_state(states[:1], [0]),
    ):
        with pytest.raises(pending, match=r"expected rows \[\d.*\] to be received before"):
            refused()
    envs.send(actions[[1, 3]], [1, 3])
    rows, step = envs.recv(N)
    assert rows.tolist() == list(range(N))
    assert all(np.array_equal(a, b) for a, b in zip(step[:4], expected[:4], strict=True))
    envs.restore_state(states)
    assert np.array_equal(envs.step(actions)[0], expected[0])


def test_bad_calls_are_refused(tiny_checkpoint: Path) -> None:
    envs = ImageGameVectorEnv(N, model=str(tiny_checkpoint), autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(gym.error.ResetNeeded, match="expected reset"):
        envs.send(np.zeros(1, np.int64), [0])
    envs.reset(seed=0)
    with pytest.raises(gym.error.NoAsyncCallError, match=r"expected a send\(\) before it"):
        envs.recv()
    with pytest.raises(ValueError, match="rows: expected distinct numbers in"):
        envs.send(np.zeros(2, np.int64), [0, 0])
    for actions in ([18], [0, 0], [0.5], []):
        with pytest.raises(gym.error.InvalidAction, match="expected"):
            envs.send(np.array(actions), [0])
    envs.send(np.zeros(2, np.int64), [0, 1])
    for count in (0, 3, 1.0):
        with pytest.raises(ValueError, match="min_count: expected 1 to 2 rows"):
            envs.recv(count)  # type: ignore[arg-type]
    assert envs.recv(2)[0].tolist() == [0, 1]
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[1\]: expected a reset after their end"):
        envs.send(np.zeros(2, np.int64), [1, 2])
    envs.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        envs.recv()
