"""The CUDA engine, emulated: tokens and states of the native one, no race in shared memory."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
import torch

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.engine.cuda import CudaEngine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.image import packaged_images
from tests.conftest import random_model
from tests.test_engines import ACTIONS, spell
from tests.test_native import packaged_tile_map, same
from tests.test_native_fuzz import random_config

pytestmark = pytest.mark.usefixtures("simt")


def play_both(native: NativeEngine, cuda: CudaEngine, steps: int) -> int:
    """Compare step by step, and what is saved in the end. Returns: how many updates moved."""
    slots, moved = range(native.num_slots), 0
    for t in range(steps):
        # Slots that sit out must not move, and the order asked for is the order answered.
        asked = [s for s in reversed(slots) if (t + s) % 4 or len(slots) == 1]
        actions = [ACTIONS[(t + 5 * s) % len(ACTIONS)] for s in asked]
        expected, got = native.step(asked, actions), cuda.step(asked, actions)
        for i in range(len(asked)):
            assert spell(got, i) == spell(expected, i), f"step {t}, slot {asked[i]}"
        if native.config.stream.things:
            carry_both(native, cuda, sorted(asked)[::2], t)
        moved += int((got.motions >= 0).sum())
    for slot in slots:
        assert same(cuda.save(slot), native.save(slot))
    return moved


def carry_both(native: NativeEngine, cuda: CudaEngine, slots: list[int], t: int) -> None:
    """Let some cells be carried along, as a canvas would find."""
    n, rng = native.config.stream.n_vectors, np.random.default_rng(t)
    cells = [np.sort(rng.choice(native.config.stream.n_cells, 3, replace=False)) for _ in slots]
    told = np.repeat(slots, 3), np.concatenate(cells), n + rng.integers(0, n, 3 * len(slots))
    assert np.array_equal(cuda.carry(*told), native.carry(*told))


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(
    ("slots", "temperature", "turns"), [(1, 1.0, "device"), (3, 0.0, "device"), (9, 1.0, "device"), (3, 1.0, "host")]
)
def test_emulated_engine_decodes_what_native_decodes(
    simt: Any, small_map_config: ModelConfig, slots: int, temperature: float, turns: str, precision: str
) -> None:
    """Many keyframes, a window that wraps, pointer and ballistics; warps in another order for every number of slots.

    Few rows are multiplied by dp4a, those of nine slots and of a keyframe by tensor cores.
    """
    simt.seed(slots)
    weights = random_model(small_map_config, end_bias=3.0)[1]
    native = NativeEngine(small_map_config, weights, slots, threads=1, temperature=temperature, precision=precision)
    cuda = CudaEngine(
        small_map_config, weights, slots, temperature=temperature, precision=precision, turns=turns, emulate=True
    )
    tile_map = np.random.default_rng(0).integers(0, 64, small_map_config.stream.n_cells)
    for engine in (native, cuda):
        for slot in range(slots):
            engine.reset(slot, tile_map, seed=slot)
    play_both(native, cuda, 20)
    native.reset(0, tile_map, seed=9)
    native.step([0], [4])
    cuda.load(0, native.save(0))  # one snapshot format
    play_both(native, cuda, 5)


@pytest.mark.parametrize(
    ("precision", "temperature", "blocks"), [("int8", 0.0, 1), ("int8", 1.0, 5), ("int4", 0.0, 3), ("int4", 1.0, 12)]
)
def test_one_kernel_decodes_a_whole_step(
    simt: Any, small_map_config: ModelConfig, precision: str, temperature: float, blocks: int
) -> None:
    """Blocks that stay and wait for each other: one, fewer than there are tiles, and more, that find nothing to do."""
    simt.seed(blocks)
    simt.resident_blocks(blocks)
    weights = random_model(small_map_config, end_bias=3.0)[1]
    native = NativeEngine(small_map_config, weights, 1, threads=1, temperature=temperature, precision=precision)
    cuda = CudaEngine(
        small_map_config, weights, 1, temperature=temperature, precision=precision, turns="persistent", emulate=True
    )
    tile_map = np.random.default_rng(0).integers(0, 64, small_map_config.stream.n_cells)
    for engine in (native, cuda):
        engine.reset(0, tile_map, seed=0)
    play_both(native, cuda, 20)
    native.reset(0, tile_map, seed=9)
    native.step([0], [4])
    cuda.load(0, native.save(0))
    play_both(native, cuda, 5)


@pytest.mark.parametrize("forms", [1, 2, 3])
@pytest.mark.parametrize(
    ("slots", "turns", "precision", "temperature"),
    [(1, "persistent", "int8", 1.0), (3, "device", "int4", 0.0), (9, "host", "int8", 1.0)],
)
def test_updates_move_the_picture_as_natively(
    simt: Any, small_map_config: ModelConfig, slots: int, turns: str, precision: str, temperature: float, forms: int
) -> None:
    """Motions of all, of sprites, of things, and the codes that look like what they bring; some patches are there
    twice: the lower code wins."""
    simt.seed(slots)
    stream = dataclasses.replace(small_map_config.stream, max_motion=3, sprites=forms > 1, things=forms > 2)
    transformer = dataclasses.replace(small_map_config.transformer, anchor=forms > 1)
    config = dataclasses.replace(small_map_config, stream=stream, transformer=transformer)
    weights = random_model(config, end_bias=2.0 if temperature else 0.0)[1]
    assert weights.motion_head is not None
    with torch.no_grad():
        weights.motion_head.bias += 1  # so that about half of the updates move, and some of them without noise too
        weights.motion_head.bias[5] += 5
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (64, 4, 4, 3)).astype(np.uint8)
    patches[40:] = patches[:24]
    patches[:8] = 100 + patches[:8] // 16  # pixels that do not stand out from each other
    options = {"precision": precision, "temperature": temperature, "patches": patches}
    native = NativeEngine(config, weights, slots, threads=1, **options)  # type: ignore[arg-type]
    cuda = CudaEngine(config, weights, slots, turns=turns, emulate=True, **options)  # type: ignore[arg-type]
    tile_map = rng.integers(0, 64, config.stream.n_cells)
    for engine in (native, cuda):
        for slot in range(slots):
            engine.reset(slot, tile_map, seed=slot)
    assert play_both(native, cuda, 12) > 0


def test_one_kernel_says_what_it_needs(simt: Any, small_map_config: ModelConfig) -> None:
    weights = random_model(small_map_config)[1]
    with pytest.raises(ValueError, match="slots: expected 1 with turns 'persistent', got 2"):
        CudaEngine(small_map_config, weights, 2, turns="persistent", emulate=True)
    simt.resident_blocks(0)
    with pytest.raises(RuntimeError, match="expected a GPU that starts blocks of 512 threads together"):
        CudaEngine(small_map_config, weights, 1, turns="persistent", emulate=True)
    simt.resident_blocks(5)
    with pytest.raises(ValueError, match="turns: expected auto, device, host or persistent, got 'both'"):
        CudaEngine(small_map_config, weights, 1, turns="both", emulate=True)


def test_random_shapes_play_as_native_does(simt: Any, small_map_config: ModelConfig) -> None:
    """Widths that fill no tile, heads that share loads or do not, with and without the modules. FUZZ_ROUNDS: longer."""
    rng = np.random.default_rng(0)
    for round_ in range(int(os.environ.get("FUZZ_ROUNDS", "5"))):
        simt.seed(round_)
        config = random_config(small_map_config, rng)
        weights = random_model(config, end_bias=float(rng.uniform(1, 4)))[1]
        options = {
            "precision": str(rng.choice(["int8", "int4"])),
            "temperature": float(rng.choice([0, 0.3, 1.0, 5.0])),
            "patches": rng.integers(0, 256, (64, 4, 4, 3)).astype(np.uint8),
        }
        slots = int(rng.integers(1, 7))
        native = NativeEngine(config, weights, slots, threads=1, **options)  # type: ignore[arg-type]
        turns = str(rng.choice(["device", "host"] if slots > 1 else ["device", "host", "persistent"]))
        cuda = CudaEngine(config, weights, slots, turns=turns, emulate=True, **options)  # type: ignore[arg-type]
        for slot in range(slots):
            tile_map = rng.integers(0, 64, config.stream.n_cells)
            for engine in (native, cuda):
                engine.reset(slot, tile_map, seed=slot)
        play_both(native, cuda, 4)


@pytest.mark.slow
@pytest.mark.timeout(0)  # minutes of CPU time for each game with sixteen slots
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_emulated_engine_plays_packaged_weights_as_native_does(simt: Any, slots: int, first: int) -> None:
    """A hundred steps from four pictures, of which several slots show as many more."""
    simt.seed(first)
    checkpoint = load_checkpoint("pocket")
    images = sorted(packaged_images())
    patches = checkpoint.patches
    native = NativeEngine(checkpoint.config, checkpoint.transformer, slots, threads=1, patches=patches)
    cuda = CudaEngine(checkpoint.config, checkpoint.transformer, slots, emulate=True, patches=patches)
    for slot in range(slots):
        tile_map = packaged_tile_map(images[(first + slot) % len(images)])
        for engine in (native, cuda):
            engine.reset(slot, tile_map, seed=slot)
    play_both(native, cuda, 100)
