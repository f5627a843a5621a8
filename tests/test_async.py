"""send and recv: steps that do not wait for each other, and the same games as with step."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.config import ModelConfig
from gamegen_env.engine import Engine, make_engine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.stream import Step
from gamegen_env.transformer import Transformer
from gamegen_env.world import World
from tests.conftest import random_model
from tests.test_engines import ENGINES, spell

SLOTS, STEPS = 7, 12


@pytest.fixture(scope="module")
def model(small_map_config: ModelConfig) -> Transformer:
    return random_model(small_map_config, end_bias=2.0)[1]


@pytest.fixture(scope="module")
def tile_map(small_map_config: ModelConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, small_map_config.stream.n_cells)


def action(slot: int, step: int) -> int:
    return (5 * slot + 11 * step) % 63


def start(name: str, config: ModelConfig, model: Transformer, tile_map: np.ndarray, **options: object) -> Engine:
    engine = make_engine(name, config, model, SLOTS, **options)  # type: ignore[arg-type]
    for slot in range(SLOTS):
        engine.reset(slot, tile_map, seed=slot)
    return engine


def in_step(engine: Engine) -> list[list[tuple]]:
    """Per slot what happened in STEPS steps that all take together."""
    games: list[list[tuple]] = [[] for _ in range(SLOTS)]
    for step in range(STEPS):
        batch = engine.step(range(SLOTS), [action(slot, step) for slot in range(SLOTS)])
        for slot in range(SLOTS):
            games[slot].append(spell(batch, slot))
    return games


def as_they_come(engine: Engine, seed: int) -> list[list[tuple]]:
    """The same, every slot as soon as it is free: by drawn numbers, subsets and orders."""
    rng = np.random.default_rng(seed)
    games: list[list[tuple]] = [[] for _ in range(SLOTS)]
    while any(len(game) < STEPS for game in games):
        free = [s for s in range(SLOTS) if s not in engine.busy() and len(games[s]) < STEPS]
        chosen = rng.permutation(free)[: rng.integers(0, len(free) + 1)].tolist()
        if not chosen and not engine.busy():
            continue
        engine.send(chosen, [action(slot, len(games[slot])) for slot in chosen])
        busy = engine.busy()
        at_least = int(rng.integers(1, len(busy) + 1))
        slots, batch = engine.recv(at_least)
        assert len(slots) >= at_least
        assert set(slots.tolist()) <= set(busy)
        assert set(engine.busy()) == set(busy) - set(slots.tolist())
        for i, slot in enumerate(slots.tolist()):
            games[slot].append(spell(batch, i))
    return games


@pytest.mark.parametrize("name", ENGINES)
def test_games_are_those_of_step(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    together, apart = (start(name, small_map_config, model, tile_map) for _ in range(2))
    assert as_they_come(apart, seed=0) == in_step(together)
    for slot in range(SLOTS):
        one, other = together.save(slot), apart.save(slot)
        assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("precision", ["int8", "int4", "float32"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("draft", ["never", "always"])
def test_native_games_hang_on_neither_order_nor_threads(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, precision: str, threads: int, draft: str
) -> None:
    expected = in_step(start("native", small_map_config, model, tile_map, precision=precision, threads=1))
    for seed in range(3):
        engine = start("native", small_map_config, model, tile_map, precision=precision, threads=threads)
        assert isinstance(engine, NativeEngine)
        engine.draft(draft)
        assert as_they_come(engine, seed) == expected


def test_a_slow_slot_holds_no_other(small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray) -> None:
    """The longest step of the first round comes last, and others have stepped on meanwhile."""
    lengths = in_step(start("native", small_map_config, model, tile_map))
    slow = max(range(SLOTS), key=lambda slot: lengths[slot][0][-1])
    assert lengths[slow][0][-1] > 1 + min(game[0][-1] for game in lengths)
    engine = start("native", small_map_config, model, tile_map, threads=1)
    engine.send(range(SLOTS), [action(slot, 0) for slot in range(SLOTS)])
    times = np.zeros(SLOTS, np.int64)
    while slow in engine.busy():
        slots, _ = engine.recv(1)
        times[slots] += 1
        free = [slot for slot in slots.tolist() if slot != slow]
        engine.send(free, [action(slot, int(times[slot])) for slot in free])
    assert times[slow] == 1
    assert times.max() > 1


@pytest.mark.parametrize("name", ENGINES)
def test_a_busy_slot_is_left_alone(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    engine, alone = (start(name, small_map_config, model, tile_map) for _ in range(2))
    state = engine.save(3)
    engine.send([3], [action(3, 0)])
    known = Step(0, (0, 0), np.array([], np.int64), np.array([], np.int64), 1, False)
    for refused in (
        lambda: engine.send([2, 3], [1, 1]),
        lambda: engine.step([3], [1]),
        lambda: engine.reset(3, tile_map, seed=0),
        lambda: engine.observe(3, known),
        lambda: engine.save(3),
        lambda: engine.load(3, state),
    ):
        with pytest.raises(ValueError, match="slot 3: expected no step under way"):
            refused()
    assert engine.busy() == [3]
    # Other slots go on, and nothing that was refused has left a trace.
    assert spell(engine.step([2], [action(2, 0)]), 0) == spell(alone.step([2], [action(2, 0)]), 0)
    engine.load(5, state)
    engine.reset(6, tile_map, seed=6)
    slots, batch = engine.recv()
    assert slots.tolist() == [3]
    assert spell(batch, 0) == spell(alone.step([3], [action(3, 0)]), 0)
    engine.load(3, state)


@pytest.mark.parametrize("name", ENGINES)
def test_bad_calls_are_refused(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    engine = start(name, small_map_config, model, tile_map)
    with pytest.raises(ValueError, match="min_count: expected 1 to 0 slots whose step was sent, got 1"):
        engine.recv()
    for slots, actions in (([0, 0], [1, 1]), ([SLOTS], [1]), ([0], [63]), ([0], [-1]), ([0, 1], [1])):
        with pytest.raises(ValueError, match="expected"):
            engine.send(slots, actions)
        assert engine.busy() == []
    engine.send([0, 1], [1, 1])
    for count in (0, -1, 3, 1.0):
        with pytest.raises(ValueError, match="min_count: expected 1 to 2"):
            engine.recv(count)  # type: ignore[arg-type]
    assert sorted(engine.recv(2)[0].tolist()) == [0, 1]


def test_a_world_paints_what_it_receives(tiny_checkpoint, picture: np.ndarray) -> None:
    together, apart = (World(str(tiny_checkpoint), 3) for _ in range(2))
    for world in (together, apart):
        world.reset(range(3), [picture] * 3, range(3))
    frames = [[together.step(range(3), [t, t, t]).frames[slot] for slot in range(3)] for t in range(4)]
    times = np.zeros(3, np.int64)
    apart.send(range(3), [0] * 3)
    while times.min() < 4:
        slots, result = apart.recv()
        for i, slot in enumerate(slots.tolist()):
            np.testing.assert_array_equal(result.frames[i], frames[times[slot]][slot])
        times[slots] += 1
        again = [slot for slot in slots.tolist() if times[slot] < 4]
        apart.send(again, times[again].tolist())
    apart.send([1], [0])
    with pytest.raises(ValueError, match="slot 1: expected no step under way"):
        apart.reset([1], [picture], [0])
    with pytest.raises(ValueError, match="slot 1: expected no step under way"):
        apart.save(1)
    apart.close()
