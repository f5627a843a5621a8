"""Whatever comes in, the native engine answers with an error or plays on; it never breaks.

FUZZ_ROUNDS sets how long (default: a few seconds). `kernels/sanitize.sh` runs this file and the other tests of the
engine under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from gamegen_env.config import ModelConfig, StreamConfig, TransformerConfig
from gamegen_env.engine import _native
from gamegen_env.engine.native import NativeEngine
from tests.conftest import random_model

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "30"))


def random_config(base: ModelConfig, rng: np.random.Generator) -> ModelConfig:
    kv_heads = int(rng.choice([1, 2, 3]))
    pointer, motion = bool(rng.integers(2)), int(rng.integers(3))
    moves, anchor = pointer and motion > 0, bool(rng.integers(2))
    sprites = moves and anchor and bool(rng.integers(2))
    stream = StreamConfig(
        view_cells=int(rng.integers(1, 6)), max_scroll=int(rng.integers(1, 4)), max_motion=motion * moves,
        sprites=sprites, things=sprites and bool(rng.integers(2)),
    )  # fmt: skip
    least = stream.n_cells + stream.max_step_tokens + 1
    return dataclasses.replace(
        base,
        stream=stream,
        transformer=TransformerConfig(
            n_layers=int(rng.integers(1, 4)),
            d_model=int(rng.integers(1, 70)),
            n_heads=kv_heads * int(rng.choice([1, 2, 5, 8])),
            n_kv_heads=kv_heads,
            d_ff=int(rng.integers(1, 80)),
            window=least + int(rng.integers(0, 80)),
            pointer=pointer,
            ballistics=bool(rng.integers(2)),
            anchor=moves and anchor,
        ),
    )


def test_random_shapes_play_and_their_states_come_back(small_map_config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    for round_ in range(ROUNDS):
        config = random_config(small_map_config, rng)
        weights = random_model(config, end_bias=float(rng.uniform(0, 4)))[1]
        options = {
            "precision": str(rng.choice(["int8", "float32"])),
            "kv_bits": int(rng.choice([4, 16])),
            "isa": str(rng.choice(_native.available_isas())),
            "temperature": float(rng.choice([0, 0.3, 1.0, 5.0])),
            "threads": int(rng.integers(1, 4)),
            "patches": rng.integers(0, 256, (64, 4, 4, 3)).astype(np.uint8),
        }
        slots = int(rng.integers(1, 5))
        engine = NativeEngine(config, weights, slots, **options)  # type: ignore[arg-type]
        engine.draft(str(rng.choice(["auto", "never", "always"])))
        for slot in range(slots):
            engine.reset(slot, rng.integers(0, 64, config.stream.n_cells), int(rng.integers(2**62)))
        other = NativeEngine(config, weights, 1, **{**options, "isa": "scalar"})  # type: ignore[arg-type]
        for _ in range(int(rng.integers(1, 25))):
            chosen = rng.permutation(slots)[: rng.integers(1, slots + 1)].tolist()
            batch = engine.step(chosen, rng.integers(63, size=len(chosen)).tolist())
            assert (np.diff(batch.ptr) <= config.stream.n_cells).all()
            if config.stream.things:
                cells = np.arange(len(chosen)) % config.stream.n_cells
                first = np.full(len(chosen), config.stream.n_vectors)
                engine.carry(np.array(chosen), cells, first)
        other.load(0, engine.save(0))
        ahead = [engine.step([0], [3]), other.step([0], [3])]
        assert np.array_equal(ahead[0].cells, ahead[1].cells), round_
        assert np.array_equal(ahead[0].codes, ahead[1].codes), round_


def test_mutated_states_are_refused_or_played(small_map_config: ModelConfig) -> None:
    rng = np.random.default_rng(1)
    engine = NativeEngine(small_map_config, random_model(small_map_config, end_bias=2.0)[1], 1)
    engine.reset(0, rng.integers(0, 64, small_map_config.stream.n_cells), 1)
    for action in range(12):
        engine.step([0], [action])
    good = engine.save(0)
    refused = 0
    for _ in range(10 * ROUNDS):
        state = {name: array.copy() for name, array in good.items()}
        for name in rng.permutation(sorted(state))[: rng.integers(1, 4)]:
            array = state[name]
            kind = rng.integers(5)
            if kind == 0:
                array.reshape(-1)[rng.integers(array.size or 1)] = rng.integers(0, 2**7)
            elif kind == 1 and np.issubdtype(array.dtype, np.signedinteger):
                info = np.iinfo(array.dtype)
                array.reshape(-1)[:] = rng.integers(info.min, info.max, array.shape, array.dtype).reshape(-1)
            elif kind == 2:
                array.reshape(-1).view(np.uint8)[:] = rng.integers(0, 256, array.nbytes, np.uint8)
            elif kind == 3:
                state[name] = array[..., :0] if array.ndim else array[None]
            else:
                state[name] = array.astype(np.float64)
        before = engine.save(0)
        try:
            engine.load(0, state)
        except (ValueError, TypeError):
            refused += 1
            after = engine.save(0)
            assert all(np.array_equal(after[k], before[k], equal_nan=k == "latest_motion") for k in before)
        else:
            engine.step([0], [int(rng.integers(63))])
            engine.load(0, good)
    assert refused > ROUNDS


def test_random_rows_are_refused_or_taken(small_map_config: ModelConfig) -> None:
    rng = np.random.default_rng(2)
    engine = NativeEngine(small_map_config, random_model(small_map_config)[1], 1)
    engine.reset(0, rng.integers(0, 64, small_map_config.stream.n_cells), 1)
    taken = 0
    for _ in range(20 * ROUNDS):
        rows = rng.integers(-1, [5, 25, 64, 20, 20, 40], (rng.integers(1, 4), 6))
        try:
            engine._engine.prefill(0, rows)
        except ValueError:
            continue
        taken += 1
    assert taken > 0
    engine.step([0], [1])


def test_weights_that_are_no_numbers_play_on_or_are_refused(small_map_config: ModelConfig) -> None:
    """A checkpoint with NaN is refused when it is read; even past that, the engine stays within its memory."""
    rng = np.random.default_rng(3)
    for value in (np.nan, np.inf, -np.inf, 1e30):
        weights = random_model(small_map_config)[1]
        for parameter in weights.parameters():
            flat = parameter.data.view(-1)
            flat[int(rng.integers(len(flat)))] = value
        for precision in ("int8", "float32"):
            engine = NativeEngine(small_map_config, weights, 1, precision=precision)
            engine.reset(0, rng.integers(0, 64, small_map_config.stream.n_cells), 1)
            for action in range(3):
                batch = engine.step([0], [action])
                assert batch.codes.size == 0 or (batch.codes.min() >= 0 and batch.codes.max() < 64)


def test_configs_that_no_model_has_are_refused() -> None:
    with pytest.raises(TypeError):
        _native.Engine()  # type: ignore[call-arg]
    for config in ({}, {"map_cells": 5}, {"map_cells": "five"}, {"map_cells": -1}):
        with pytest.raises(ValueError, match="config: "):
            _native.Engine(config, {}, {}, np.zeros(65536, np.float32), 1, 1.0, 4, "int8", "auto", 1)
