"""Things: what one update carries along, on the canvas, in streams, and in every engine's tile map."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.things import plain_fill
from gamegen_env.canvas import Canvas
from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.closed_loop import ClosedLoop
from gamegen_env.codec import Stream, decode_stream, encode_clips
from gamegen_env.config import KEY, UPD, ModelConfig, StreamConfig
from gamegen_env.motion import Motions
from gamegen_env.stream import Grammar
from gamegen_env.things import fill
from gamegen_env.training.batches import Sampler
from gamegen_env.training.selfplay import SelfPlay
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer
from gamegen_env.world import World
from tests.conftest import random_model
from tests.test_motion import Table, encoded
from tests.test_sprites import WHOLE as SPRITES
from tests.test_sprites import crossing, table_of, vector


def with_things(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(
        config,
        stream=dataclasses.replace(config.stream, max_motion=3, sprites=True, things=True),
        transformer=dataclasses.replace(config.transformer, pointer=True, ballistics=True, anchor=True),
    )


WHOLE = with_things(ModelConfig())
N = WHOLE.stream.n_vectors
HERE = np.zeros(1, np.int64)


def stage(*bodies: tuple[int, int, int, int]) -> tuple[Canvas, np.ndarray]:
    """A canvas that shows a mosaic, with bodies (x, y, width, height) of other colours before it, and the mosaic."""
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 100, (1, 64, 64, 3)).astype(np.uint8)
    canvas = Canvas(WHOLE, Table(ground, 512), 1)
    canvas.reset(HERE, ground)
    for x, y, width, height in bodies:
        canvas.pixels[0, y : y + height, x : x + width] = rng.integers(150, 256, (height, width, 3))
    return canvas, ground[0]


def moved(canvas: Canvas, cells: list[int], motions: list[int], scroll: tuple[int, int] = (0, 0)) -> dict[int, int]:
    """Let a step's updates move, and return which cells were carried along, by which update."""
    step = HERE, np.array([scroll]), np.array([0, len(cells)]), np.array(cells), np.array(motions)
    along = canvas.carried(*step)
    canvas.apply(*step[:4], np.ones(len(cells), np.int64), step[4])
    canvas.carry(HERE, along, np.ones(len(along.cells), np.int64))
    assert (along.motions // N == 1).all()
    return dict(zip(along.cells.tolist(), along.update.tolist(), strict=True))


def right_down(canvas: Canvas) -> int:
    assert canvas.motions is not None
    return 2 * N + vector(canvas.motions, 2, 1)


# --- the canvas


def test_one_update_moves_a_whole_body_over_its_ground() -> None:
    canvas, ground = stage((9, 9, 10, 7))
    body = canvas.pixels[0, 9:16, 9:19].copy()
    cells = moved(canvas, [2 * 17 + 2], [right_down(canvas)])
    expected = ground.copy()
    expected[10:17, 11:21] = body
    assert np.array_equal(canvas.view(HERE)[0], expected)
    rows, columns = np.divmod(np.array(sorted(cells)), 17)
    assert set(rows) == {2, 3, 4}
    assert set(columns) == {2, 3, 4, 5}
    assert 2 * 17 + 2 not in cells


def test_what_does_not_hang_together_stays() -> None:
    canvas, ground = stage((9, 9, 6, 6), (17, 9, 6, 6), (9, 17, 3, 3))
    others = canvas.pixels[0, 9:15, 17:23].copy(), canvas.pixels[0, 17:20, 9:12].copy()
    cells = moved(canvas, [2 * 17 + 2], [2 * N + vector(canvas.motions, -3, -3)])  # type: ignore[arg-type]
    assert len(cells)
    shown = canvas.view(HERE)[0]
    assert np.array_equal(shown[9:15, 17:23], others[0])
    assert np.array_equal(shown[17:20, 9:12], others[1])
    assert np.array_equal(shown[12:15, 9:15], ground[12:15, 9:15])


def test_corners_hold_and_what_is_on_the_ground_does_not_stand_out() -> None:
    canvas, ground = stage((8, 8, 4, 4), (12, 12, 4, 4))  # two bodies that touch at a corner
    canvas.pixels[0, 20:24, 20:24] = ground[20:24, 20:24]
    cells = moved(canvas, [2 * 17 + 2], [right_down(canvas)])
    assert 3 * 17 + 3 in cells
    shown = canvas.view(HERE)[0]
    assert np.array_equal(shown[8:12, 8:10], ground[8:12, 8:10])


def test_a_step_that_says_otherwise_of_a_cell_has_its_way() -> None:
    canvas, _ = stage((9, 9, 10, 7))
    inner = 2 * 17 + 3
    before = canvas.cells()[0, 2, 3].copy()
    canvas.memory_codes[0, inner, 0], canvas.memory_pixels[0, inner, 0] = 1, before  # a repaint that shows it again
    cells = moved(canvas, [2 * 17 + 2, inner], [right_down(canvas), -1])
    assert inner not in cells
    assert np.array_equal(canvas.cells()[0, 2, 3], before)


def test_a_name_beside_the_thing_will_do() -> None:
    canvas, ground = stage((9, 9, 10, 7))
    body = canvas.pixels[0, 9:16, 9:19].copy()
    moved(canvas, [1 * 17 + 1], [right_down(canvas)])  # the cell up and to the left, all ground
    expected = ground.copy()
    expected[10:17, 11:21] = body
    assert np.array_equal(canvas.view(HERE)[0], expected)
    canvas, ground = stage((13, 13, 6, 6))
    assert not moved(canvas, [1 * 17 + 1], [2 * N + vector(canvas.motions, -1, 0)])  # type: ignore[arg-type]  # too far


def test_two_things_are_told_apart_by_who_is_named_first() -> None:
    canvas, _ = stage((8, 8, 7, 7), (20, 8, 7, 7))
    left, right = 2 * 17 + 2, 2 * 17 + 5
    cells = moved(canvas, [left, right], [right_down(canvas), 2 * N + vector(canvas.motions, -3, 0)])  # type: ignore[arg-type]
    assert set(cells.values()) == {0, 1}
    assert cells[2 * 17 + 4] in (0, 1)  # where both would go


def test_cells_that_are_not_wholly_on_screen_stay() -> None:
    canvas, _ = stage((56, 8, 8, 7))
    canvas.origin[0] = 2, 0  # the first column is cut, the spare one comes into view
    cells = moved(canvas, [2 * 17 + 14], [right_down(canvas)])
    assert cells
    assert not {cell % 17 for cell in cells} & {0, 16}


# --- the encoder and its streams


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_things_grow_over_all_that_hangs_together_on_the_torus(share: float) -> None:
    rng = np.random.default_rng(3)
    out = rng.random((4, 21, 21)) < share
    thing = out & (rng.random(out.shape) < 0.01)
    expected = thing.copy()
    plain_fill(expected, out)
    fill(thing, out)
    assert np.array_equal(thing, expected)


def bodies(steps: int) -> np.ndarray:
    """`crossing`, with a second body in the lower half that comes the other way."""
    frames = crossing(steps)
    second = np.random.default_rng(11).integers(180, 256, (6, 9, 3)).astype(np.uint8)
    for t in range(steps + 1):
        frames[t, 44:50, 50 - 2 * t : 59 - 2 * t] = second
    return frames


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of(crossing(22))


@pytest.fixture(scope="module")
def stream(table: Table) -> Stream:
    return encoded(WHOLE, table, crossing(22))


def test_a_thing_takes_few_updates_and_looks_as_good(stream: Stream, table: Table) -> None:
    frames = crossing(22)
    each = encoded(SPRITES, table, frames)
    late, before = slice(int(stream.update_ptr[14]), None), slice(int(each.update_ptr[14]), None)
    assert len(stream.update_cell[late]) < 0.5 * len(each.update_cell[before])
    assert (stream.update_motion[late] >= 2 * N).sum() >= 8
    errors = [
        np.square(decode_stream(s, 0, frames[0], c, table)[14:].astype(int) - frames[14:]).mean()
        for s, c in ((stream, WHOLE), (each, SPRITES))
    ]
    assert errors[0] <= 1.1 * errors[1] + 1


@pytest.mark.parametrize("error_rate", [0.0, 0.1])
def test_a_stream_says_what_the_encoder_shows(table: Table, error_rate: float) -> None:
    """Maps, codes and pixels, step by step, errors on purpose among them."""
    frames = bodies(20)
    stream = encoded(WHOLE, table, frames, error_rate)
    loop, again = ClosedLoop(WHOLE, table, 1, error_rate), decode_stream(stream, 0, frames[0], WHOLE, table)
    loop.start(HERE, frames[:1])
    for t in range(20):
        loop.step(HERE, frames[t + 1 : t + 2], HERE, HERE + t + 1)
        assert np.array_equal(loop.canvas.view(HERE)[0], again[t + 1])
        assert np.array_equal(loop.canvas.codes[0], stream.map_at(0, t + 1)[0])
    assert len(stream.carried_cell)


def test_streams_with_things_spell_valid_tokens(stream: Stream, tmp_path: Path) -> None:
    grammar, origin = Grammar(WHOLE), np.zeros(2, np.int64)
    rows = [grammar.keyframe_tokens(stream.codes[0].astype(np.int64), origin, 0)]
    rows += [grammar.step_tokens(step, origin, t + 1) for t, step in enumerate(stream.steps(0))]
    read = grammar.parse(np.concatenate(rows))
    assert [s.cells.tolist() for s in read[1:]] == [s.cells.tolist() for s in stream.steps(0)]  # type: ignore[union-attr]
    stream.save(tmp_path / "s")
    loaded = Stream.load(tmp_path / "s")
    assert np.array_equal(loaded.carried_code, stream.carried_code)


def test_sequences_know_what_was_carried_along(stream: Stream) -> None:
    """The code that an update replaces is that of the map, whoever has changed it."""
    batch = Sampler([stream], WHOLE, 900, 2, seed=1)(0)
    now, checked = np.zeros(WHOLE.stream.n_cells, int), 0
    present = dict(zip((batch.code_at + 1).tolist(), batch.present.tolist(), strict=True))
    for place, (kind, cell, content, *_) in enumerate(batch.rows.reshape(-1, 6).tolist()):
        if place in present:
            assert present[place] == now[cell]
            checked += 1
        if kind in (KEY, UPD):
            now[cell] = content % WHOLE.tokenizer.codebook_size
    assert checked > 20
    carried = (batch.rows[..., 0] == UPD).sum() - checked
    assert carried > 0


def test_a_step_is_told_to_models_without_things_in_their_words(stream: Stream, table: Table) -> None:
    canvas = Canvas(SPRITES, table, 1)
    canvas.reset(HERE, crossing(1)[:1])
    for t, step in enumerate(stream.steps(0)):
        one = step.unfolded(N)
        assert one.carried is None
        assert (np.diff(one.cells) > 0).all()
        assert one.motions.max(initial=-1) < 2 * N  # type: ignore[union-attr]
        canvas.apply(HERE, np.array([one.scroll]), np.array([0, len(one.cells)]), one.cells, one.codes, one.motions)
        assert np.array_equal(canvas.codes[0], stream.map_at(0, t + 1)[0])


def test_a_models_things_are_carried_on_in_self_play(table: Table) -> None:
    model = shy(WHOLE)
    player = SelfPlay(WHOLE, model, 0.5, num_slots=2, temperature=1.0, patches=table.patches())
    frames, n = bodies(20), 21
    stream = encode_clips(
        [frames] * 3, [np.zeros(n, int)] * 3, [np.zeros(n)] * 3, [np.zeros(n, bool)] * 3, WHOLE, table, game="g",
        fingerprint="f", num_slots=2, player=player,
    )  # fmt: skip
    played = stream.update_flag == 3
    assert (played & (stream.update_motion >= 2 * N)).any()
    for clip in range(3):
        shown = decode_stream(stream, clip, frames[0], WHOLE, table)
        assert shown.shape == frames.shape
    assert np.array_equal(player.engine.codes[0], stream.map_at(2, 20)[0]) or np.array_equal(
        player.engine.codes[0], stream.map_at(0, 20)[0]
    )


# --- worlds


def shy(config: ModelConfig) -> Transformer:
    """Random weights that seldom move the camera, update a few cells, and move most of them as things."""
    model = copy.deepcopy(random_model(config)[1])
    cells = config.stream.n_cells
    assert model.motion_head is not None
    with torch.no_grad():
        model.event_head.bias[cells:-1] = -12
        model.event_head.bias[-1] = 3
        model.motion_head.bias += 2
        model.motion_head.bias[2 * N :] += 3
    return model


@pytest.fixture(scope="module")
def checkpoint(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, folder = with_things(tiny_config), tmp_path_factory.mktemp("things")
    tokenizer, _ = random_model(config)
    save_checkpoint(folder, config, tokenizer, shy(config))
    return folder


@pytest.mark.parametrize("engine", ["native", "torch", "reference"])
def test_engine_and_canvas_agree_on_the_tile_map(checkpoint: Path, picture: np.ndarray, engine: str) -> None:
    worlds = [World(str(checkpoint), 2, engine=name, temperature=1.0, kv_bits=16, **(
        {"precision": "float32"} if name == "native" else {})) for name in (engine, "torch")]  # fmt: skip
    frames, along = [], 0
    for world in worlds:
        world.reset([0, 1], [picture, picture[::-1].copy()], [5, 6])
        world.canvas.pixels[:, 8:56, 8:56] ^= 64  # type: ignore[union-attr]  # it stands out, all of it
        frames.append([])
        for t in range(12):
            result = world.step([0, 1] if t % 3 else [1], [t % 5, 1] if t % 3 else [2])
            along += len(result.cells) - int(result.tokens.sum() - 2 * len(result.tokens) - result.scroll.any(1).sum())
            frames[-1].append(result.frames)
            assert np.array_equal(world.canvas.codes, world.engine.codes)
    assert along > 20
    assert all(np.array_equal(a, b) for a, b in zip(*frames, strict=True))


def test_a_saved_game_goes_on_as_it_would_have(checkpoint: Path, picture: np.ndarray) -> None:
    world, other = (World(str(checkpoint), n, temperature=1.0) for n in (1, 3))
    world.reset([0], [picture], [5])
    world.canvas.pixels[:, 8:56, 8:56] ^= 64  # type: ignore[union-attr]
    for t in range(6):
        world.step([0], [t])
    other.load(2, world.save(0))
    for t in range(6):
        assert np.array_equal(world.step([0], [t]).frames, other.step([2], [t]).frames)


def test_known_steps_are_shown_as_the_stream_has_them(table: Table, stream: Stream, checkpoint: Path) -> None:
    world = World(str(checkpoint))
    frames = crossing(22)
    mine = encode_clips(
        [frames], [np.zeros(23, int)], [np.zeros(23)], [np.zeros(23, bool)], world.config, world.canvas.tokenizer,  # type: ignore[union-attr]
        game="g", fingerprint="f",
    )  # fmt: skip
    assert len(mine.carried_cell)
    world.reset([0], [frames[0]], [0])
    for t, step in enumerate(mine.steps(0)):
        world.observe([0], [step], frames[t + 1 : t + 2])
        assert np.array_equal(world.engine.codes[0], mine.map_at(0, t + 1)[0])
        assert np.array_equal(world.canvas.codes[0], world.engine.codes[0])


# --- configurations and weights


def test_things_need_sprites() -> None:
    with pytest.raises(ValueError, match=r"StreamConfig\.things: expected False without sprites, got True"):
        StreamConfig(max_motion=3, things=True)
    assert WHOLE.stream.n_motions == 3 * N
    assert ModelConfig.from_json(WHOLE.to_json()) == WHOLE
    assert "things" not in SPRITES.to_json()


def test_a_model_begins_from_one_without_things(small_map_config: ModelConfig) -> None:
    config = with_things(small_map_config)
    plain = dataclasses.replace(config, stream=dataclasses.replace(config.stream, things=False))
    source, model = random_model(plain)[1], random_model(config)[1]
    start_from(model, source, "plain")
    assert model.motion_head is not None
    assert source.motion_head is not None
    assert torch.equal(model.motion_head.weight[: 2 * N], source.motion_head.weight)
    assert torch.equal(model.motion_head.weight[2 * N :], source.motion_head.weight[N:])
    assert torch.equal(model.small.weight[-1], source.small.weight[-1])
    assert Motions(config, np.zeros((config.tokenizer.codebook_size, 4, 4, 3), np.uint8)).things
