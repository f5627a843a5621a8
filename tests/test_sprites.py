"""Motions of what stands out from the anchor: their geometry, the encoder's choice, and one result in every engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gamegen_env.canvas import Canvas
from gamegen_env.codec import decode_stream
from gamegen_env.config import ModelConfig, StreamConfig
from gamegen_env.motion import STANDS_OUT, Motions
from gamegen_env.stream import Grammar, Step
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer
from tests.conftest import random_model
from tests.test_engines import ACTIONS
from tests.test_motion import Table, encoded, moved_alike, same_however_decoded

REACH = 3


def with_sprites(config: ModelConfig, sprites: bool = True) -> ModelConfig:
    return dataclasses.replace(
        config,
        stream=dataclasses.replace(config.stream, max_motion=REACH, sprites=sprites),
        transformer=dataclasses.replace(config.transformer, pointer=True, ballistics=True, anchor=True),
    )


WHOLE = with_sprites(ModelConfig())


@pytest.fixture(scope="module")
def small(small_map_config: ModelConfig) -> ModelConfig:
    return with_sprites(small_map_config)


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """Half of them near each other, so that some pixels stand out and others do not."""
    rng = np.random.default_rng(1)
    near = 100 + rng.integers(0, 15, (32, 4, 4, 3))
    return np.concatenate([near, rng.integers(0, 256, (32, 4, 4, 3))]).astype(np.uint8)


@pytest.fixture(scope="module")
def model(small: ModelConfig) -> Transformer:
    model = random_model(small, end_bias=2.0)[1]
    assert model.motion_head is not None
    with torch.no_grad():
        model.motion_head.bias += 1  # so that about half of the updates move
        model.motion_head.bias[small.stream.n_vectors :] += 0.5
        model.event_head.bias[small.stream.n_cells : -1] -= 1
    return model


@pytest.fixture(scope="module")
def tile_map(small: ModelConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, small.stream.n_cells)


def vector(motions: Motions, dx: int, dy: int) -> int:
    return int((motions.vectors == (dx, dy)).all(1).nonzero()[0][0])


# --- geometry


def test_what_stands_out_moves_over_the_anchor(patches: np.ndarray, small: ModelConfig) -> None:
    motions, rng = Motions(small, patches), np.random.default_rng(2)
    size = motions.size
    anchors = rng.integers(0, 200, (2, size, size, 3)).astype(np.uint8)
    pixels = anchors.copy()
    pixels[1, 5, 6] += STANDS_OUT // 3 + 1  # in cell (1, 1), what will be moved
    pixels[1, 6, 6] += STANDS_OUT // 3  # in sum not above the limit
    right_down = small.stream.n_vectors + vector(motions, 2, 1)
    at = np.array([1]), np.array([motions.map_cells + 2])  # the cell at pixels (4..7, 8..11)
    moved = motions.moved_pixels(pixels, anchors, *at, np.array([right_down]))[0]
    expected = anchors[1, 4:8, 8:12].copy()
    expected[2, 0] = pixels[1, 5, 6]
    assert np.array_equal(moved, expected)
    plain = motions.moved_pixels(pixels, anchors, *at, np.array([right_down - small.stream.n_vectors]))[0]
    assert np.array_equal(plain, pixels[1, 3:7, 6:10])


def test_errors_are_those_of_what_motions_show(patches: np.ndarray, small: ModelConfig) -> None:
    motions, rng = Motions(small, patches), np.random.default_rng(3)
    pixels = rng.integers(0, 256, (3, motions.size, motions.size, 3)).astype(np.uint8)
    anchors = np.where(rng.random((3, motions.size, motions.size, 1)) < 0.5, pixels, 255 - pixels)
    slots, cells = rng.integers(0, 3, 20), rng.integers(0, small.stream.n_cells, 20)
    wanted = rng.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    error = motions.errors(pixels, anchors, slots, cells, wanted)
    assert error.shape == (20, small.stream.n_motions)
    for motion in range(small.stream.n_motions):
        shown = motions.moved_pixels(pixels, anchors, slots, cells, np.full(20, motion)).astype(float)
        assert np.allclose(error[:, motion], np.square(shown - wanted).mean((1, 2, 3)), rtol=1e-5)


def test_codes_move_as_their_looks_do(patches: np.ndarray, small: ModelConfig) -> None:
    motions, rng = Motions(small, patches), np.random.default_rng(4)
    codes = rng.integers(0, 64, (40, small.stream.n_cells))
    anchors = np.where(rng.random(codes.shape) < 0.5, codes, rng.integers(0, 64, codes.shape))
    cells, chosen = rng.integers(0, small.stream.n_cells, 40), rng.integers(0, small.stream.n_motions, 40)
    got = motions.moved_codes(codes, anchors, cells, chosen)
    m = motions.map_cells

    def look(maps: np.ndarray) -> np.ndarray:
        return patches[maps].reshape(40, m, m, 4, 4, 3).swapaxes(2, 3).reshape(40, m * 4, m * 4, 3)

    shown = motions.moved_pixels(look(codes), look(anchors), np.arange(40), cells, chosen).astype(int)
    distance = np.square(shown[:, None] - patches.astype(int)).sum((2, 3, 4))
    assert np.array_equal(got, distance.argmin(1))


# --- canvas and encoder


def crossing(steps: int) -> np.ndarray:
    """A ball that no table of patches knows, from plain ground out over a mosaic."""
    rng = np.random.default_rng(9)
    frames = rng.integers(0, 120, (1, 64, 64, 3)).astype(np.uint8).repeat(steps + 1, 0)
    frames[:, :, :28] = 40
    ball = np.hypot(*np.meshgrid(np.arange(7) - 3, np.arange(7) - 3)) <= 3.5
    colours = rng.integers(180, 256, (7, 7, 3)).astype(np.uint8)
    for t in range(steps + 1):
        frames[t, 12 + t : 19 + t, 4 + 2 * t : 11 + 2 * t][ball] = colours[ball]
    return frames


def table_of(frames: np.ndarray) -> Table:
    """Codes for the ground alone: in the first picture the ball stands on its plain part."""
    ground = frames[:1].copy()
    ground[:, :, :28] = 40
    return Table(ground, 512)


def test_a_ball_crosses_a_mosaic_whole() -> None:
    frames = crossing(22)
    table = table_of(frames)
    plain = with_sprites(ModelConfig(), sprites=False)
    errors = {}
    for config in (WHOLE, plain):
        stream = encoded(config, table, frames)
        shown = decode_stream(stream, 0, frames[0], config, table)
        errors[config.stream.sprites] = np.square(shown[14:].astype(int) - frames[14:]).mean()
        if config.stream.sprites:
            late = stream.update_motion[int(stream.update_ptr[14]) :]
            moved, n = late[late >= 0], config.stream.n_vectors
            assert (moved >= n).mean() > 0.9
            assert (Motions(config, table.patches()).vectors[moved % n] == (2, 1)).all(1).mean() > 0.9
            # The ground that the ball uncovers comes back with the motion, or as the anchor.
            assert len(moved) > 40
    assert errors[True] < 0.2 * errors[False]


def test_streams_with_sprites_spell_valid_tokens() -> None:
    frames = crossing(22)
    stream, grammar = encoded(WHOLE, table_of(frames), frames), Grammar(WHOLE)
    origin, time = np.zeros(2, np.int64), 1
    rows = [grammar.keyframe_tokens(stream.codes[0].astype(np.int64), origin, 0)]
    for step in stream.steps(0):
        rows.append(grammar.step_tokens(step, origin, time))
        time += 1
    read = grammar.parse(np.concatenate(rows))
    assert [s.motions.tolist() for s in read[1:]] == [s.motions.tolist() for s in stream.steps(0)]  # type: ignore[union-attr]
    still = WHOLE.stream.n_vectors + WHOLE.stream.still
    bad = Step(0, (0, 0), np.array([3]), np.array([1]), 1, False, np.array([still]))
    with pytest.raises(ValueError, match="motion: expected a movement"):
        grammar.validate(np.concatenate([rows[0], grammar.step_tokens(bad, origin, 1)]))


def test_what_comes_on_screen_is_an_anchor_and_what_is_shown_corrects_it() -> None:
    rng = np.random.default_rng(5)
    table = Table(rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), 512)
    canvas, slot = Canvas(WHOLE, table, 1), np.array([0])
    canvas.reset(slot, rng.integers(0, 256, (1, 64, 64, 3)).astype(np.uint8))
    assert np.array_equal(canvas.anchors, canvas.pixels)
    hidden = 16  # the last cell of the first row: beyond the view
    canvas.apply(slot, np.array([[4, 0]]), np.array([0, 2]), np.array([1, hidden]), np.array([7, 9]))
    assert np.array_equal(canvas.anchors[0, :4, 64:], canvas.pixels[0, :4, 64:])
    assert not np.array_equal(canvas.anchors[0, :4, 4:8], canvas.pixels[0, :4, 4:8])
    truth = canvas.view(slot)
    truth[0, :, 60:] ^= 8  # a little otherwise, where nothing stands before the anchor
    kept = canvas.anchors[0, :4, 4:8].copy()
    canvas.show(slot, truth)
    assert np.array_equal(canvas.anchors[0, 4:64, 64:], truth[0, 4:, 60:])
    assert np.array_equal(canvas.anchors[0, :4, 4:8], kept)
    state = canvas.save(0)
    other = Canvas(WHOLE, table, 1)
    other.load(0, state)
    assert np.array_equal(other.anchors, canvas.anchors)


# --- engines


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_engines_move_sprites_alike(
    small: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray, temperature: float
) -> None:
    moved = moved_alike(small, model, patches, tile_map, temperature, ACTIONS[:40])
    n = small.stream.n_vectors
    assert temperature == 0 or ((moved < 0).any() and (moved >= n).sum() > 10 and ((moved >= 0) & (moved < n)).any())


def test_sprites_depend_on_neither_batch_nor_drafts_nor_instruction_set(
    small: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray
) -> None:
    same_however_decoded(small, model, patches, tile_map)


# --- configurations and weights


def test_sprites_need_motions_and_anchors(small: ModelConfig) -> None:
    with pytest.raises(ValueError, match="sprites: expected False with max_motion 0, got True"):
        StreamConfig(sprites=True)
    with pytest.raises(ValueError, match=r"stream\.sprites: expected False without transformer\.anchor, got True"):
        dataclasses.replace(small, transformer=dataclasses.replace(small.transformer, anchor=False))
    assert ModelConfig.from_json(small.to_json()) == small
    assert "sprites" not in with_sprites(small, sprites=False).to_json()


def test_a_model_begins_from_one_without_sprites_as_that_one(small: ModelConfig) -> None:
    plain = with_sprites(small, sprites=False)
    source, model = random_model(plain)[1], random_model(small)[1]
    start_from(model, source, "plain")
    n = plain.stream.n_vectors
    assert model.motion_head is not None
    assert source.motion_head is not None
    for part in (slice(n), slice(n, None)):
        assert torch.equal(model.motion_head.weight[part], source.motion_head.weight)
    assert torch.equal(model.small.weight[: len(source.small.weight)], source.small.weight)
