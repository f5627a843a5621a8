"""One contract, one parity test, every engine."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.config import KEY, ModelConfig
from gamegen_env.engine import Engine, StepBatch, make_engine
from gamegen_env.engine.cached import FEW_SLOTS, ROWS, CachedEngine, tiles
from gamegen_env.engine.reference import ReferenceEngine
from gamegen_env.stream import Step
from gamegen_env.transformer import Transformer
from tests.conftest import random_model

ENGINES = ("reference", "torch", "native")


@pytest.fixture(scope="module")
def model(small_map_config: ModelConfig) -> Transformer:
    return random_model(small_map_config, end_bias=3.0)[1]


@pytest.fixture(scope="module")
def tile_map(small_map_config: ModelConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, small_map_config.stream.n_cells)


def build(name: str, config: ModelConfig, model: Transformer, slots: int = 1, **options: object) -> Engine:
    """In float32 unless said otherwise: what all engines compute."""
    return make_engine(name, config, model, slots, **{"precision": "float32", **options})  # type: ignore[arg-type]


def play(engine: Engine, slot: int, actions: list[int]) -> list[tuple]:
    return [spell(engine.step([slot], [action]), 0) for action in actions]


def spell(batch: StepBatch, i: int) -> tuple:
    """What happened in one slot, comparable with ==."""
    at = slice(batch.ptr[i], batch.ptr[i + 1])
    return (
        batch.scroll[i].tolist(),
        batch.cells[at].tolist(),
        batch.codes[at].tolist(),
        batch.motions[at].tolist(),
        int(batch.reward_class[i]),
        bool(batch.done[i]),
        int(batch.tokens[i]),
    )


ACTIONS = [(7 * t) % 63 for t in range(60)]


@pytest.mark.parametrize("kv_bits", [4, 16])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_engine_decodes_what_the_reference_decodes(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, kv_bits: int, temperature: float
) -> None:
    games = {}
    for name in ENGINES:
        engine = build(name, small_map_config, model, kv_bits=kv_bits, temperature=temperature)
        engine.reset(0, tile_map, seed=5)
        games[name] = play(engine, 0, ACTIONS)
        # Long enough that the window has slid past the first keyframe and a second one was inserted.
        assert engine.position[0] > 2 * small_map_config.transformer.window
    assert games["torch"] == games["reference"]
    assert games["native"] == games["reference"]
    assert len({str(step[1:3]) for step in games["torch"]}) > 10 or temperature == 0


def test_cached_hidden_states_equal_recomputed_ones(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray
) -> None:
    """fp32 sums in another order: 1e-4 is 500 times the rounding of a sum of 64 numbers near 1, and ten
    times below what one nibble more or less in the cache would do."""
    cached, reference = (build(n, small_map_config, model) for n in ("torch", "reference"))
    assert isinstance(cached, CachedEngine)
    assert isinstance(reference, ReferenceEngine)
    seen = []
    forward = cached._forward

    def spy(decoding):
        hidden = forward(decoding)
        seen.append(hidden[0].clone())
        return hidden

    cached._forward = spy  # type: ignore[method-assign]
    for engine in (cached, reference):
        engine.reset(0, tile_map, seed=5)
        play(engine, 0, ACTIONS[:20])
    stream = reference._stream[0]
    with torch.inference_mode():
        hidden, *_ = reference._hidden(stream)
    decoded = torch.from_numpy(stream[:, 0] != KEY)
    torch.testing.assert_close(torch.stack(seen), hidden[decoded], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ENGINES)
def test_stream_obeys_the_grammar(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    """The reference keeps its tokens; the torch engine spells the same ones (parity), so its steps are respelled."""
    engine = build(name, small_map_config, model)
    engine.reset(0, tile_map, seed=1)
    rows = [engine.grammar.keyframe_tokens(tile_map, (0, 0), 0)]
    for time, action in enumerate(ACTIONS):
        origin, camera = engine.origin[0].copy(), int(engine.camera[0])
        batch = engine.step([0], [action])
        step = Step(
            action,
            tuple(batch.scroll[0].tolist()),
            batch.cells,
            batch.codes,
            int(batch.reward_class[0]),
            bool(batch.done[0]),
        )
        rows.append(engine.grammar.step_tokens(step, origin, time, camera))
        assert batch.tokens[0] == len(rows[-1])
    engine.grammar.validate(np.concatenate(rows))
    if isinstance(engine, ReferenceEngine):
        engine.grammar.validate(engine._stream[0])
        assert (engine._stream[0][:, 0] == KEY).sum() > 2 * small_map_config.stream.n_cells


@pytest.mark.parametrize(("name", "precision"), [("torch", "float32"), ("native", "float32"), ("native", "int8")])
def test_slot_does_not_depend_on_the_batch(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str, precision: str
) -> None:
    """Row i of many equals the same game alone, to the last bit, at sizes around the tile's."""
    alone = build(name, small_map_config, model, precision=precision)
    expected = {}
    for seed in (0, 3, 20):
        alone.reset(0, tile_map, seed)
        expected[seed] = play(alone, 0, ACTIONS[:25]), alone.save(0)
    for size in (5, ROWS, 2 * ROWS + 2):
        many = build(name, small_map_config, model, size, precision=precision)
        seeds = [0, 3, 20] + [100 + i for i in range(size - 3)]
        order = np.random.default_rng(size).permutation(size)
        for slot in order:
            many.reset(int(slot), tile_map, seeds[slot])
        games: dict[int, list[tuple]] = {slot: [] for slot in range(3)}
        for t, action in enumerate(ACTIONS[:25]):
            slots = [int(s) for s in np.roll(order, t)]
            batch = many.step(slots, [action if s < 3 else (action * s) % 63 for s in slots])
            for slot in range(3):
                games[slot].append(spell(batch, slots.index(slot)))
        for slot in range(3):
            game, state = expected[seeds[slot]]
            assert games[slot] == game, (size, slot)
            for key, array in many.save(slot).items():
                assert np.array_equal(array, state[key]), (size, slot, key)


def test_tiles_are_sizes_that_give_every_row_the_same_bits() -> None:
    """The packaged model's shapes, random rows in random order."""
    transformer = load_checkpoint("pocket").transformer
    sizes = tiles(transformer)
    assert sizes[-1] == ROWS
    rows = torch.randn(ROWS, transformer.config.transformer.d_model)
    with torch.inference_mode():
        whole = transformer.event_logits(rows)
        for size in sizes:
            order = torch.randperm(ROWS)[:size]
            assert torch.equal(transformer.event_logits(rows[order]), whole[order])


def test_slot_does_not_depend_on_threads(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray
) -> None:
    before = torch.get_num_threads()
    games = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            engine = build("torch", small_map_config, model, FEW_SLOTS)
            for slot in range(FEW_SLOTS):
                engine.reset(slot, tile_map, seed=slot)
            batches = [engine.step(range(FEW_SLOTS), [a] * FEW_SLOTS) for a in ACTIONS[:30]]
            games.append(([spell(batch, 2) for batch in batches], engine.save(2)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert games[0][0] == games[1][0]
    assert all(np.array_equal(a, games[1][1][k]) for k, a in games[0][1].items())


@pytest.mark.parametrize("name", ENGINES)
def test_snapshot_restores_the_future_in_another_engine(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    first = build(name, small_map_config, model)
    first.reset(0, tile_map, seed=8)
    play(first, 0, ACTIONS[:20])
    state = pickle.loads(pickle.dumps(first.save(0)))
    future = play(first, 0, ACTIONS[20:35])
    other = build(name, small_map_config, model, 3)
    for slot in range(3):
        other.reset(slot, tile_map, seed=1)
    other.load(1, state)
    assert play(other, 1, ACTIONS[20:35]) == future
    first.load(0, state)
    assert play(first, 0, ACTIONS[20:35]) == future


@pytest.mark.parametrize("name", ENGINES)
def test_observed_steps_give_the_same_future_as_decoded_ones(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    player, watcher = (build(name, small_map_config, model) for _ in range(2))
    for engine in (player, watcher):
        engine.reset(0, tile_map, seed=4)
    for action in ACTIONS[:12]:
        batch = player.step([0], [action])
        scroll = tuple(batch.scroll[0].tolist())
        watcher.observe(
            0, Step(action, scroll, batch.cells, batch.codes, int(batch.reward_class[0]), bool(batch.done[0]))
        )
    assert watcher.position[0] == player.position[0]
    assert play(watcher, 0, ACTIONS[12:20]) == play(player, 0, ACTIONS[12:20])


@pytest.mark.parametrize("name", ENGINES)
def test_engine_refuses_bad_input_and_keeps_its_state(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, name: str
) -> None:
    engine = build(name, small_map_config, model, 2)
    with pytest.raises(ValueError, match="slot 0: expected a reset"):
        engine.step([0], [0])
    engine.reset(0, tile_map, seed=3)
    state = engine.save(0)
    for call, message in (
        (lambda: engine.step([0], [63]), r"action token: expected 0..62, got 63"),
        (lambda: engine.step([0], [-1]), r"action token: expected 0..62, got -1"),
        (lambda: engine.step([0, 0], [1, 1]), "slots: expected distinct"),
        (lambda: engine.step([2], [1]), "slots: expected distinct numbers in 0..1"),
        (lambda: engine.step([0], [1, 2]), "actions: expected 1, got 2"),
        (lambda: engine.reset(0, tile_map[:-1], 0), "codes: expected"),
        (lambda: engine.reset(0, tile_map + 64, 0), "codes: expected 0..63"),
        (lambda: engine.reset(0, tile_map, -1), "seed: expected"),
        (lambda: engine.load(0, {}), "state: expected arrays"),
        (lambda: engine.load(0, {**state, "codes": state["codes"][:-1]}), r"state\['codes'\]: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert all(np.array_equal(a, state[k]) for k, a in engine.save(0).items())


def test_make_engine_refuses_unknown_names_and_options(small_map_config: ModelConfig, model: Transformer) -> None:
    for name, options, message in (
        ("warp", {}, "engine: expected one of"),
        ("torch", {"device": "cuda:0"}, "runs on 'cpu' only, got 'cuda:0'"),
        ("auto", {"device": "gpu"}, "device: expected 'cpu', 'cuda', 'cuda:0' or 'auto', got 'gpu'"),
        ("auto", {"device": "cuda:1"}, "or 'auto', got 'cuda:1'; CUDA_VISIBLE_DEVICES chooses among GPUs"),
        ("cuda", {}, "engine 'cuda' runs on 'cuda' only, got 'cpu', the default"),
        ("cuda", {"device": "cuda", "precision": "float32"}, "engine 'cuda' has int8 and int4, got 'float32'"),
        ("cuda", {"device": "cuda", "threads": 2}, "threads: engine 'cuda' uses none of the host's, got 2"),
        ("cuda", {"device": "cuda", "kv_bits": 16}, "kv_bits: engine 'cuda' has a 4-bit cache only, got 16"),
        ("torch", {"temperature": -1}, "temperature: expected"),
        ("torch", {"temperature": "hot"}, "temperature: expected a finite number >= 0, got 'hot'"),
        ("torch", {"kv_bits": 3}, "kv_bits: expected 4 or 16, got 3"),
        ("torch", {"precision": "int8"}, "precision: engine 'torch' computes in float32 only, got 'int8'"),
        ("native", {"precision": "fp8"}, "precision: expected 'auto', 'int8', 'int4' or 'float32', got 'fp8'"),
        ("native", {"threads": 0}, "threads: expected 1..1024, got 0"),
        ("torch", {"threads": 2}, "threads: engine 'torch' goes by torch.set_num_threads, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(name, small_map_config, model, 1, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_slots: expected an integer >= 1, got 0"):
        make_engine("torch", small_map_config, model, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_what_is_missing_or_takes_the_cpu(
    small_map_config: ModelConfig, model: Transformer, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("auto", "cuda"):
        with pytest.raises(
            (ImportError, RuntimeError), match=r"expected it built with|expected (an NVIDIA driver|a driver|a GPU)"
        ):
            make_engine(name, small_map_config, model, 1, device="cuda:0")
    with caplog.at_level("INFO"):
        assert make_engine("auto", small_map_config, model, 1, device="auto").name == "native"
    assert "the CPU, because" in caplog.text


def test_cache_takes_at_most_4_6_bits_per_value(small_map_config: ModelConfig, model: Transformer) -> None:
    engine = build("torch", small_map_config, model, 2)
    assert isinstance(engine, CachedEngine)
    t = small_map_config.transformer
    values = 2 * t.n_layers * t.n_kv_heads * t.window * t.head_dim
    assert engine.ring.bytes_per_slot() * 8 / values <= 4.6


def test_step_batch_fields_have_documented_shapes(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray
) -> None:
    engine = build("torch", small_map_config, model, 3)
    for slot in range(3):
        engine.reset(slot, tile_map, slot)
    batch = engine.step([2, 0], [1, 2])
    shapes = {f.name: getattr(batch, f.name).shape for f in dataclasses.fields(batch)}
    n = int(batch.ptr[-1])
    assert shapes == {
        "scroll": (2, 2),
        "ptr": (3,),
        "cells": (n,),
        "codes": (n,),
        "motions": (n,),
        "reward_class": (2,),
        "done": (2,),
        "tokens": (2,),
    }
