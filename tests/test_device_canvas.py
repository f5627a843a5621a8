"""The canvas on the GPU, emulated: pixel for pixel the canvas, and readable without a copy."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from gamegen_env.canvas import Canvas
from gamegen_env.cell_decoder import CellDecoder
from gamegen_env.config import ModelConfig, StreamConfig, TokenizerConfig, TransformerConfig
from gamegen_env.device_canvas import DeviceCanvas
from gamegen_env.tokenizer import Tokenizer
from tests.test_cell_decoder import tokenizer

pytestmark = pytest.mark.usefixtures("simt")

SLOTS = 3


@pytest.fixture(scope="module", params=["small", "odd", "moving", "sprites", "things"])
def config(request: pytest.FixtureRequest) -> ModelConfig:
    """Few codes, so that memory, plain colours and the decoder all have their turn; sizes that fit nothing; motions."""
    if request.param == "small":
        sizes = TokenizerConfig(codebook_size=64, code_dim=8, d_hidden=16)
        stream = StreamConfig(view_cells=4, max_scroll=2)
    else:
        sizes = TokenizerConfig(codebook_size=33, code_dim=5, d_hidden=67, cell_size=3)
        things = request.param == "things"
        sprites = things or request.param == "sprites"
        reach = 3 if sprites or request.param == "moving" else 0
        stream = StreamConfig(
            view_cells=5, max_scroll=3, memory_per_cell=2, max_motion=reach, sprites=sprites, things=things
        )
    transformer = TransformerConfig(
        n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_ff=64, window=96, pointer=stream.max_motion > 0,
        anchor=stream.sprites,
    )  # fmt: skip
    return ModelConfig(name="canvas", tokenizer=sizes, stream=stream, transformer=transformer)


def made(config: ModelConfig) -> Tokenizer:
    c = config.tokenizer
    return tokenizer(codebook_size=c.codebook_size, code_dim=c.code_dim, d_hidden=c.d_hidden, cell_size=c.cell_size)


def pictures(config: ModelConfig, n: int, rng: np.random.Generator) -> np.ndarray:
    """Half plain cells of few colours, half texture."""
    v, c = config.stream.view_cells, config.tokenizer.cell_size
    colours = rng.integers(0, 256, (4, 3))
    plain = colours[rng.integers(0, 4, (n, v, v))].repeat(c, 1).repeat(c, 2)
    noise = rng.integers(0, 256, plain.shape)
    textured = rng.random((n, v, v)).repeat(c, 1).repeat(c, 2) < 0.5
    return np.where(textured[..., None], noise, plain).astype(np.uint8)


def same_states(host: Canvas, device: DeviceCanvas) -> None:
    for slot in range(SLOTS):
        expected, got = host.save(slot), device.save(slot)
        assert expected.keys() == got.keys()
        for name, array in expected.items():
            assert got[name].dtype == array.dtype
            assert np.array_equal(got[name], array), f"slot {slot}, {name}"
        assert np.array_equal(device.codes[slot], host.codes[slot])


def test_every_step_paints_what_the_canvas_paints(config: ModelConfig, simt: Any) -> None:
    weights, rng = made(config), np.random.default_rng(0)
    host, device = Canvas(config, CellDecoder(weights), SLOTS), DeviceCanvas(config, weights, SLOTS, emulate=True)
    everyone = np.arange(SLOTS)
    frames = pictures(config, SLOTS, rng)
    for canvas in (host, device):
        canvas.reset(everyone, frames)
    kinds, carried = {"known": 0, "plain": 0, "decoded": 0}, 0
    for step in range(60):
        simt.seed(step + 1)
        slots = rng.permutation(SLOTS)[: rng.integers(1, SLOTS + 1)]
        scrolls = rng.integers(-config.stream.max_scroll, config.stream.max_scroll + 1, (len(slots), 2))
        counts = rng.integers(0, 6, len(slots)) * (rng.random() < 0.9)
        cells = [rng.permutation(config.stream.n_cells)[:n] for n in counts]
        codes = [
            rng.choice(host.codes[s][:6], n) if rng.random() < 0.7 else rng.integers(0, 33, n)
            for s, n in zip(slots, counts, strict=True)
        ]
        motions = np.random.default_rng(step).integers(
            -config.stream.n_motions, config.stream.n_motions + 1, sum(counts)
        )
        motions = np.maximum(motions - 1, -1)  # half of them move, where they may
        arguments = slots, scrolls, np.cumsum([0, *counts]), np.concatenate(cells), np.concatenate(codes), motions
        count_kinds(host, arguments, kinds)
        along = [canvas.carried(*arguments[:4], arguments[5]) for canvas in (host, device)]
        for name in ("row", "cells", "motions", "update"):
            assert np.array_equal(*(getattr(found, name) for found in along)), f"step {step}, {name}"
        for canvas in (host, device):
            canvas.apply(*arguments)
            found = along[0]
            if len(found.cells):
                anew = np.random.default_rng(step).integers(0, 33, len(found.cells))
                canvas.carry(slots, found, anew)
        carried += len(along[0].cells)
        assert np.array_equal(device.view(slots), host.view(slots)), f"step {step}"
        if step % 10 == 9:
            same_states(host, device)
        if step == 30:
            truth = pictures(config, 1, rng)
            for canvas in (host, device):
                canvas.show(slots[:1], truth)
    assert np.array_equal(device.view(everyone), host.view(everyone))
    assert min(kinds.values()) > 10, kinds
    assert not config.stream.things or carried > 20


def count_kinds(host: Canvas, arguments: tuple, kinds: dict[str, int]) -> None:
    """Where the pixels of the next step come from."""
    slots, _, ptr, cells, codes, _ = arguments
    slot = np.repeat(slots, np.diff(ptr))
    known = (host.memory_codes[slot, cells] == codes[:, None]).any(1)
    plain = host._plain(slot, codes)[0] if len(codes) else known
    kinds["known"] += int(known.sum())
    kinds["plain"] += int((plain & ~known).sum())
    kinds["decoded"] += int((~plain & ~known).sum())


def test_states_go_between_host_and_device(config: ModelConfig) -> None:
    weights, rng = made(config), np.random.default_rng(1)
    host, device = Canvas(config, CellDecoder(weights), SLOTS), DeviceCanvas(config, weights, SLOTS, emulate=True)
    host.reset(np.arange(SLOTS), pictures(config, SLOTS, rng))
    host.apply(np.array([1]), np.array([[1, -2]]), np.array([0, 2]), np.array([0, 7]), np.array([3, 4]))
    for slot in range(SLOTS):
        device.load(slot, host.save(slot))
    same_states(host, device)
    damaged = host.save(0) | {"codes": host.save(0)["codes"] + 1000}
    with pytest.raises(ValueError, match=r"state\['codes'\]: expected 0"):
        device.load(0, damaged)
    with pytest.raises(ValueError, match="state: expected arrays"):
        device.load(0, {"codes": host.codes[0]})
    same_states(host, device)


def test_observations_are_the_devices_own_memory(config: ModelConfig) -> None:
    weights, rng = made(config), np.random.default_rng(2)
    device = DeviceCanvas(config, weights, SLOTS, emulate=True)
    frames = pictures(config, SLOTS, rng)
    device.reset(np.arange(SLOTS), frames)
    tensor, array = torch.from_dlpack(device.observations()), np.from_dlpack(device.observations())
    assert tensor.shape == frames.shape
    assert tensor.dtype == torch.uint8
    assert np.array_equal(tensor.numpy(), frames)
    again = torch.from_dlpack(device.observations())
    assert again.data_ptr() == tensor.data_ptr()
    device.apply(np.array([2]), np.array([[1, 0]]), np.array([0, 0]), np.zeros(0), np.zeros(0))
    assert np.array_equal(array[2], device.view(np.array([2]))[0])  # the step shows in what was handed out before it
    assert not np.array_equal(array[2], frames[2])
    del device
    assert np.array_equal(tensor.numpy()[:2], frames[:2])  # the memory stays while someone looks at it


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([3], [[0, 0]], [0, 0], [], []), "slot: expected 0..2, got 3"),
        (([1, 1], [[0, 0]] * 2, [0, 0, 0], [], []), "slots: expected different ones"),
        (([0], [[0, 0]], [0, 1], [-1], [0]), "cells: expected different numbers in 0"),
        (([0], [[0, 0]], [0, 2], [4, 4], [0, 1]), "cells: expected different numbers in 0"),
        (([0], [[0, 0]], [0, 1], [1], [99]), "codes: expected 0"),
        (([0], [[0, 0]], [0, 2], [1], [1]), "ptr: expected 0 to the number of cells"),
        (([0, 1], [[0, 0]] * 2, [0, 2, 1], [1], [1]), "ptr: expected ascending numbers"),
        (([0], [[0, 0, 0]], [0, 0], [], []), "scrolls: expected shape"),
    ],
)
def test_numbers_that_would_be_addresses_are_refused(config: ModelConfig, arguments: tuple, expected: str) -> None:
    device = DeviceCanvas(config, made(config), SLOTS, emulate=True)
    with pytest.raises(ValueError, match=expected):
        device.apply(*(np.array(a) for a in arguments))


def test_motions_beyond_the_models_are_refused(config: ModelConfig) -> None:
    device, n = DeviceCanvas(config, made(config), SLOTS, emulate=True), config.stream.n_motions
    for motion in (-2, n):
        with pytest.raises(ValueError, match=rf"motions: expected -1\.\.{n - 1}"):
            device.apply(*(np.array(a) for a in ([0], [[0, 0]], [0, 1], [1], [1], [motion])))


def test_a_decoder_that_is_too_wide_is_refused(config: ModelConfig) -> None:
    wide = ModelConfig(
        name="wide", tokenizer=TokenizerConfig(codebook_size=8, code_dim=65, d_hidden=16), stream=config.stream,
        transformer=config.transformer,
    )  # fmt: skip
    with pytest.raises(ValueError, match="expected code_dim up to 64 and d_hidden up to 512, got 65 and 16"):
        DeviceCanvas(wide, Tokenizer(wide.tokenizer), 1, emulate=True)


def test_environments_hand_out_observations_on_the_device(
    simt: Any, tmp_path: Any, small_map_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole environment on the emulated device: the frames of the CPU's, and the same ones without a copy."""
    from gamegen_env.checkpoint import save_checkpoint
    from tests.conftest import random_model

    save_checkpoint(tmp_path, small_map_config, *random_model(small_map_config, end_bias=3.0))
    arguments = {"model": str(tmp_path), "num_envs": 2}
    cpu = gym.make_vec("ImageGame-v0", engine="native", **arguments)
    monkeypatch.setitem(sys.modules, "gamegen_env.engine._cuda", simt)
    envs = gym.make_vec("ImageGame-v0", device="cuda:0", **arguments)
    expected, got = cpu.reset(seed=3)[0], envs.reset(seed=3)[0]
    seen = torch.from_dlpack(envs.unwrapped.observations_dlpack())
    for action in range(6):
        assert np.array_equal(got, expected)
        assert np.array_equal(seen.numpy(), expected)
        expected, *theirs = cpu.step(np.array([action, 17 - action]))
        got, *ours = envs.step(np.array([action, 17 - action]))
        for a, b in zip(ours[:3], theirs[:3], strict=True):
            assert np.array_equal(a, b)
    single = gym.make("ImageGame-v0", model=str(tmp_path), device="cuda")
    frame = single.reset(seed=0)[0]
    assert np.array_equal(np.from_dlpack(single.unwrapped.observations_dlpack())[0], frame)
    state = envs.unwrapped.clone_state()
    envs.step(np.array([1, 2]))
    envs.unwrapped.restore_state(state)
    assert np.array_equal(seen.numpy(), expected)


def test_cpu_engines_have_no_observations_on_a_device(tiny_checkpoint: Any) -> None:
    for env in (
        gym.make("ImageGame-v0", model=str(tiny_checkpoint)),
        gym.make_vec("ImageGame-v0", model=str(tiny_checkpoint)),
    ):
        env.reset(seed=0)
        with pytest.raises(
            RuntimeError, match=r"expected engine 'cuda' \(device=\"cuda\"\), got 'native', whose frames"
        ):
            env.unwrapped.observations_dlpack()
