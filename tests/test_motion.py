"""Updates that move the picture: their geometry by hand, the encoder's choice, and one result in every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen_env.canvas import Canvas
from gamegen_env.codec import Stream, decode_stream, encode_clips
from gamegen_env.config import ModelConfig, StreamConfig
from gamegen_env.engine import _native
from gamegen_env.engine.base import make_engine
from gamegen_env.engine.cuda import CudaEngine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.motion import Motions
from gamegen_env.stream import Grammar, Step
from gamegen_env.training.batches import Sampler
from gamegen_env.training.objective import losses, predict
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer
from tests.conftest import random_model
from tests.patch_table import PatchTable
from tests.test_engines import ACTIONS, play, spell

REACH = 3
MOVING = ModelConfig(
    stream=StreamConfig(max_motion=REACH),
    transformer=dataclasses.replace(ModelConfig().transformer, pointer=True),
)


class Table(PatchTable):
    """A stand-in that says, too, what its codes look like."""

    def patches(self) -> np.ndarray:
        return self.table[np.minimum(np.arange(8192), len(self.table) - 1)].reshape(-1, 4, 4, 3)


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 4, 4, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def small(small_map_config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(small_map_config, stream=dataclasses.replace(small_map_config.stream, max_motion=REACH))


@pytest.fixture(scope="module")
def model(small: ModelConfig) -> Transformer:
    model = random_model(small, end_bias=2.0)[1]
    assert model.motion_head is not None
    with torch.no_grad():
        model.motion_head.bias += 1  # so that about half of the updates move
    return model


@pytest.fixture(scope="module")
def tile_map(small: ModelConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, small.stream.n_cells)


# --- tokens


def test_a_token_says_how_its_update_moves(small: ModelConfig, model: Transformer) -> None:
    grammar = Grammar(small)
    codes, cells = np.arange(25, dtype=np.int32), np.array([3, 7, 8], np.int32)
    step = Step(5, (0, 0), cells, np.array([9, 7, 40], np.int32), 1, False, np.array([-1, 0, 48], np.int32))
    rows = np.concatenate([grammar.keyframe_tokens(codes, (0, 0), 0), grammar.step_tokens(step, (0, 0), 0)])
    _, read = grammar.parse(rows)
    assert isinstance(read, Step)
    assert np.array_equal(read.motions, step.motions)
    assert np.array_equal(read.codes, step.codes)  # cell 7 moved, and looks as before
    embedded = model.embed(torch.from_numpy(rows))
    still = rows.copy()
    still[:, 2] %= grammar.n_codes
    differ = (embedded != model.embed(torch.from_numpy(still))).any(1)
    assert differ.nonzero()[:, 0].tolist() == [27, 28]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(64 * 50, r"code: expected 0\.\.3199, got 3200"), (64 * 25 + 9, "motion: expected a movement, got 24")],
)
def test_a_token_of_no_motion_is_refused(small: ModelConfig, content: int, problem: str) -> None:
    grammar = Grammar(small)
    step = Step(5, (0, 0), np.array([3], np.int32), np.array([9], np.int32), 1, False)
    rows = np.concatenate(
        [grammar.keyframe_tokens(np.zeros(25, np.int32), (0, 0), 0), grammar.step_tokens(step, (0, 0), 0)]
    )
    rows[26, 2] = content
    with pytest.raises(ValueError, match=f"position 26: UPD {problem}"):
        grammar.validate(rows)


def test_a_model_learns_to_move_from_one_that_repaints(small_map_config: ModelConfig, small: ModelConfig) -> None:
    repaints, moves = Transformer(small_map_config), Transformer(small)
    start_from(moves, repaints, "repaints")
    known = len(repaints.small.weight)
    assert torch.equal(moves.small.weight[:known], repaints.small.weight)
    assert len(moves.small.weight) == known + 2 * (2 * REACH + 1)
    again = Transformer(small_map_config)
    start_from(again, moves, "moves")
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in repaints.state_dict().items())
    further = dataclasses.replace(small, stream=dataclasses.replace(small.stream, max_motion=REACH + 1))
    with pytest.raises(ValueError, match=r"--from moves: expected the preset's tensors, got others: .*motion_head"):
        start_from(Transformer(further), moves, "moves")


# --- geometry


def test_what_moves_comes_from_where_the_motion_points_back_to(small: ModelConfig, patches: np.ndarray) -> None:
    motions, size = Motions(small, patches), 4 * small.stream.map_cells
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    for cell in (0, 7, 24):
        for motion in (0, 5, 48):
            dx, dy = motions.vectors[motion]
            assert (dx, dy) == (motion % 7 - 3, motion // 7 - 3)
            moved = motions.moved_pixels(pixels, pixels, np.array([1]), np.array([cell]), np.array([motion]))[0]
            y, x = cell // 5 * 4, cell % 5 * 4
            for i in range(4):
                for j in range(4):
                    assert (moved[i, j] == pixels[1, (y + i - dy) % size, (x + j - dx) % size]).all()


def test_the_code_of_what_moved_looks_most_like_it(small: ModelConfig, patches: np.ndarray) -> None:
    motions = Motions(small, patches)
    rng = np.random.default_rng(2)
    maps, cells, chosen = rng.integers(0, 64, (40, 25)), rng.integers(0, 25, 40), rng.integers(0, 49, 40)
    codes = motions.moved_codes(maps, maps, cells, chosen)
    for tile_map, cell, motion, code in zip(maps, cells, chosen, codes, strict=True):
        shown = patches[tile_map].reshape(5, 5, 4, 4, 3).swapaxes(1, 2).reshape(1, 20, 20, 3)
        there = motions.moved_pixels(shown, shown, np.array([0]), np.array([cell]), np.array([motion]))[0]
        distance = np.square(patches.astype(int) - there).sum((1, 2, 3))
        assert code == distance.argmin()


def test_errors_are_least_for_the_motion_that_brought_a_patch(small: ModelConfig, patches: np.ndarray) -> None:
    motions = Motions(small, patches)
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)
    slots, cells = rng.integers(0, 3, 30), rng.integers(0, 25, 30)
    chosen = rng.choice(np.delete(np.arange(49), motions.still), 30)
    wanted = motions.moved_pixels(pixels, pixels, slots, cells, chosen)
    error = motions.errors(pixels, pixels, slots, cells, wanted)
    assert error.shape == (30, 49)
    assert np.array_equal(error.argmin(1), chosen)
    assert (error[np.arange(30), chosen] == 0).all()
    there = motions.moved_pixels(pixels, pixels, slots, cells, np.full(30, 5)).astype(float)
    assert np.allclose(error[:, 5], np.square(there - wanted).mean((1, 2, 3)), rtol=1e-4)


def test_cells_of_a_group_agree_on_as_few_motions_as_can_be(small: ModelConfig, patches: np.ndarray) -> None:
    motions = Motions(small, patches)
    far, left, up = (int(np.flatnonzero((motions.vectors == v).all(1))[0]) for v in ([3, 3], [-1, 0], [0, -1]))
    allowed = np.zeros((8, 49), bool)
    allowed[[0, 1, 2], far] = True  # group 1: three cells may move far, the first and a fourth also by one
    allowed[[0, 3], left] = True
    allowed[5, [far, left, motions.still]] = True  # group 2: each is allowed as often, the shortest wins
    allowed[6, motions.still] = True  # to stay is no motion
    allowed[7, [left, up]] = True
    groups = np.array([1, 1, 1, 1, 1, 2, 2, 4])
    shortest = next(int(m) for m in motions.nearest_first if m in (left, up))
    assert motions.agreed(allowed, groups).tolist() == [far, far, far, left, -1, left, -1, shortest]
    assert motions.agreed(allowed[:0], groups[:0]).shape == (0,)


def test_patches_of_another_shape_are_refused(small: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"patches: expected uint8 \(64, 4, 4, 3\), got float64 \(64, 4, 4, 3\)"):
        Motions(small, np.zeros((64, 4, 4, 3)))


# --- canvas and encoder


def crossing(steps: int) -> np.ndarray:
    """A textured sprite that no table of patches knows, on its way over plain ground; a mosaic holds the camera."""
    rng = np.random.default_rng(9)
    sprite = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    frames = np.full((steps + 1, 64, 64, 3), 40, np.uint8)
    frames[:, 48:] = rng.integers(0, 256, (4, 16, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    for t in range(steps + 1):
        frames[t, 20 + t : 28 + t, 10 + 2 * t : 18 + 2 * t] = sprite
    return frames


def encoded(config: ModelConfig, table: Table, frames: np.ndarray, error_rate: float = 0.0) -> Stream:
    n = len(frames)
    none = [np.zeros(n)]
    return encode_clips(
        [frames], [np.zeros(n, int)], none, [np.zeros(n, bool)], config, table, game="g", fingerprint="f",
        error_rate=error_rate,
    )  # fmt: skip


def test_an_unknown_sprite_stays_sharp_where_it_may_move() -> None:
    frames = crossing(12)
    table = Table(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), 512)
    table.table[0] = 40  # the ground
    repaint = dataclasses.replace(MOVING, stream=StreamConfig())
    errors = []
    for config in (MOVING, repaint):
        stream = encoded(config, table, frames)
        shown = decode_stream(stream, 0, frames[0], config, table)
        errors.append(np.square(shown[-1].astype(int) - frames[-1]).mean())
    assert errors[0] == 0
    assert errors[1] > 100
    stream = encoded(MOVING, table, frames)
    motions = Motions(MOVING, table.patches())
    moved = stream.update_motion[stream.update_motion >= 0]
    assert len(moved) > 30
    # Ground that a corner of the sprite has left may come from anywhere near.
    assert (motions.vectors[moved] == (2, 1)).all(1).mean() > 0.8


def test_what_repainting_draws_nearly_right_does_not_move() -> None:
    """A motion is one more thing to foretell: it must be worth it."""
    frames = crossing(12)
    table = Table(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), 512)
    table.table[0] = 40  # the ground
    for contrast, moves in ((0.15, False), (0.6, True)):  # 17 and 68 levels off the ground, 2 and 31 tolerances
        soft = frames.copy()
        body = frames[:, :48] != 40
        soft[:, :48][body] = 40 + contrast * (frames[:, :48][body].astype(float) - 40)
        assert (encoded(MOVING, table, soft).update_motion >= 0).any() == moves


def test_streams_of_motions_survive_the_disk_and_errors_on_purpose(tmp_path: Path) -> None:
    frames = crossing(12)
    table = Table(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), 512)
    stream = encoded(MOVING, table, frames, error_rate=0.3)
    assert (stream.update_motion >= 0).any()
    spoilt = (stream.update_flag & 1) > 0
    assert spoilt.any()
    assert (stream.update_motion[spoilt] == -1).all()
    stream.save(tmp_path / "s.safetensors")
    loaded = Stream.load(tmp_path / "s.safetensors")
    assert np.array_equal(loaded.update_motion, stream.update_motion)
    stream.update_motion[0] = 49
    stream.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=r"update_motion: expected 0\.\.48"):
        Stream.load(tmp_path / "s.safetensors")


def test_what_moved_away_is_restored_and_what_moved_is_not_remembered() -> None:
    table = Table(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), 512)
    canvas, slot = Canvas(MOVING, table, 1), np.array([0])
    picture = np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    canvas.reset(slot, picture)
    before = canvas.codes[0].copy()
    assert canvas.motions is not None
    right = int((canvas.motions.vectors == (3, 0)).all(1).nonzero()[0][0])
    canvas.apply(slot, np.zeros((1, 2), int), np.array([0, 1]), np.array([1]), np.array([7]), np.array([right]))
    assert np.array_equal(canvas.view(slot)[0, :4, 4:8], picture[0, :4, 1:5])
    assert not canvas.original[0, 1]
    canvas.apply(slot, np.zeros((1, 2), int), np.array([0, 1]), np.array([1]), before[1:2], np.array([-1]))
    assert np.array_equal(canvas.view(slot), picture)


# --- engines


def built(name: str, config: ModelConfig, model: Transformer, patches: np.ndarray, slots: int = 1, **options: object):
    options = {"precision": "float32", **options}
    return make_engine(name, config, model, slots, patches=patches, **options)  # type: ignore[arg-type]


def moved_alike(
    config: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray, temperature: float,
    actions: Sequence[int],
) -> np.ndarray:  # fmt: skip
    """Assert that three engines play one game, and return the motions of its updates."""
    games = {}
    for name in ("reference", "torch", "native"):
        engine = built(name, config, model, patches, temperature=temperature)
        engine.reset(0, tile_map, seed=3)
        games[name] = play(engine, 0, actions)
    assert games["torch"] == games["reference"]
    assert games["native"] == games["reference"]
    return np.array([m for step in games["reference"] for m in step[3]])


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_engines_move_alike(
    small: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray, temperature: float
) -> None:
    moved = moved_alike(small, model, patches, tile_map, temperature, ACTIONS[:30])
    assert temperature == 0 or ((moved < 0).any() and (moved >= 0).any())


def same_however_decoded(config: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray) -> None:
    """Assert that the native engine plays one game alone with drafts, in a batch, and on every instruction set."""

    def games(slots: int, **options: object) -> list[tuple]:
        engine = NativeEngine(config, model, slots, patches=patches, **options)  # type: ignore[arg-type]
        engine.draft("always" if slots == 1 else "never")
        for slot in range(slots):
            engine.reset(slot, tile_map, seed=3 + slot)
        batches = [engine.step(range(slots), [(7 * t) % 63] * slots) for t in range(30)]
        return [spell(batch, 0) for batch in batches]

    alone = games(1)
    assert games(5, threads=2) == alone
    for isa in _native.available_isas():
        assert games(1, isa=isa) == alone


def test_motions_depend_on_neither_batch_nor_drafts_nor_instruction_set(
    small: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray
) -> None:
    same_however_decoded(small, model, patches, tile_map)


def test_a_saved_game_moves_on(
    small: ModelConfig, model: Transformer, patches: np.ndarray, tile_map: np.ndarray
) -> None:
    engine = built("native", small, model, patches, slots=2)
    engine.reset(0, tile_map, seed=3)
    play(engine, 0, ACTIONS[:10])
    engine.load(1, engine.save(0))
    assert play(engine, 0, ACTIONS[10:25]) == play(engine, 1, ACTIONS[10:25])


def test_engines_say_what_they_need(small: ModelConfig, model: Transformer) -> None:
    for name in ("reference", "torch", "native"):
        with pytest.raises(ValueError, match="patches: expected what codes look like"):
            make_engine(name, small, model, 1)
    with pytest.raises(ValueError, match="patches: expected what codes look like"):
        CudaEngine(small, model, 1, emulate=True)
    with pytest.raises(ValueError, match=r"max_motion: expected 0 without transformer\.pointer, got 3"):
        dataclasses.replace(small, transformer=dataclasses.replace(small.transformer, pointer=False))
    with pytest.raises(ValueError, match="max_motion: expected an integer >= 0, got -1"):
        StreamConfig(max_motion=-1)


# --- learning


def test_motions_are_learned_for_sprites_that_no_code_knows() -> None:
    """What moves keeps moving: seen of some sprites, true of others."""
    config = dataclasses.replace(
        MOVING,
        transformer=dataclasses.replace(
            MOVING.transformer, n_layers=2, d_model=64, n_heads=2, d_ff=128, window=700, pointer=True
        ),
    )
    table = Table(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), 512)
    table.table[0] = 40
    frames = crossing(18)
    stream = encoded(config, table, frames)
    torch.manual_seed(0)
    model = Transformer(config)
    sampler = Sampler([stream], config, 600, 1, 0)
    batch = sampler(0)
    assert (batch.motion >= 0).any()
    assert np.array_equal(batch.choice[batch.motion >= 0], 8192 + batch.motion[batch.motion >= 0])
    formed = predict(model, batch)
    choice = torch.from_numpy(batch.choice)
    whole = torch.nn.functional.cross_entropy(formed.code, choice)
    assert losses(model, batch)["code"].item() == pytest.approx(whole.item(), rel=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        loss = losses(model, sampler(step))["code"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    other = frames.copy()
    other[:, :48][frames[:, :48] != 40] = 255 - other[:, :48][frames[:, :48] != 40]  # another sprite
    unseen = Sampler([encoded(config, table, other)], config, 600, 1, 1)(0)
    moving = torch.from_numpy(unseen.motion >= 0)
    with torch.inference_mode():
        right = predict(model, unseen).code.argmax(1) == torch.from_numpy(unseen.choice)
    assert right[moving].float().mean() > 0.8
