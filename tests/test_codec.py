"""The closed-loop codec: what is encoded comes back, is close to the truth, and survives the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gamegen_env.closed_loop import WORTH, WORTH_TOLERANCES, ClosedLoop
from gamegen_env.codec import Stream, decode_stream, encode_clips
from gamegen_env.config import ModelConfig
from gamegen_env.stream import Grammar
from tests.patch_table import PatchTable

CONFIG = ModelConfig()
GRAMMAR = Grammar(CONFIG)
N = CONFIG.stream.n_cells
Clips = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], list[np.ndarray]]


# --- synthetic recordings


def landscape(seed: int, side: int = 200) -> np.ndarray:
    """A world (side, side, 3) of flat 8-pixel tiles, each different from its neighbours."""
    tiles = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return tiles.repeat(8, 0).repeat(8, 1)


def panning(seed: int, moves: list[tuple[int, int]], sprite: bool = False) -> np.ndarray:
    """Frames (len(moves) + 1, 64, 64, 3) of a camera that moves over a landscape."""
    world, at, frames = landscape(seed), np.array([64, 64]), []
    for i, move in enumerate([(0, 0), *moves]):
        at = at + move
        frame = world[at[1] : at[1] + 64, at[0] : at[0] + 64].copy()
        if sprite:
            frame[30 + i % 5 : 37 + i % 5, 28:36] = (250, 30, 250)
        frames.append(frame)
    return np.stack(frames)


def walking(seed: int, steps: int) -> np.ndarray:
    """Frames of a still landscape that a sprite crosses, a pixel or three per step."""
    rng = np.random.default_rng(seed)
    world, frames, x = landscape(seed)[:64, :64], [], 0
    for _ in range(steps + 1):
        frame = world.copy()
        frame[20:29, x : x + 9] = (10, 250, 130)
        frames.append(frame)
        x = min(x + int(rng.integers(1, 4)), 55)
    return np.stack(frames)


def as_clips(frames: list[np.ndarray], seed: int = 0) -> Clips:
    rng = np.random.default_rng(seed)
    lengths = [len(f) for f in frames]
    ends = [np.arange(n) == n - 1 for n in lengths]
    return frames, [rng.integers(0, 63, n) for n in lengths], [rng.integers(-2, 3, n) * 0.5 for n in lengths], ends


RECORDING = [
    walking(1, 20), panning(2, [(3, 0), (0, 2), (-5, -1), (0, 0), (8, 8)] * 3, sprite=True), walking(3, 0),
    panning(4, [(1, 0)] * 30), walking(5, 6),
]  # fmt: skip


@pytest.fixture(scope="module")
def coder() -> PatchTable:
    return PatchTable(np.concatenate([f[::4] for f in RECORDING]), 8000)


def encode(frames: list[np.ndarray], coder: PatchTable, num_slots: int = 64, error_rate: float = 0.0) -> Stream:
    return encode_clips(
        *as_clips(frames), CONFIG, coder,
        game="test:walk", fingerprint="abc", num_slots=num_slots, error_rate=error_rate,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stream(coder: PatchTable) -> Stream:
    return encode(RECORDING, coder, num_slots=3)


@pytest.fixture(scope="module")
def spoilt(coder: PatchTable) -> Stream:
    return encode(RECORDING, coder, error_rate=0.2)


def arrays(stream: Stream) -> dict[str, np.ndarray]:
    return {name: value for name, value in vars(stream).items() if isinstance(value, np.ndarray)}


def same(a: Stream, b: Stream) -> bool:
    return all(np.array_equal(x, arrays(b)[name]) and x.dtype == arrays(b)[name].dtype for name, x in arrays(a).items())


def cell_errors(shown: np.ndarray, truth: np.ndarray, origin: np.ndarray) -> dict[int, float]:
    """Mean squared error of every visible cell over its visible pixels."""
    y, x = (origin[1] + np.arange(64)) % 68 // 4, (origin[0] + np.arange(64)) % 68 // 4
    cell = y[:, None] * 17 + x
    square = (shown.astype(float) - truth) ** 2
    return {int(i): float(square[cell == i].mean()) for i in np.unique(cell)}


def visible_patch(frame: np.ndarray, cell: int, origin: np.ndarray) -> np.ndarray:
    """A cell's true pixels (1, 4, 4, 3), those beyond the edge of the view replaced by the nearest inside."""
    y = (cell // 17 * 4 - origin[1] + 4) % 68 - 4 + np.arange(4)
    x = (cell % 17 * 4 - origin[0] + 4) % 68 - 4 + np.arange(4)
    return frame[y.clip(0, 63)[:, None], x.clip(0, 63)][None]


# --- what comes back


@pytest.mark.parametrize("error_rate", [0.0, 0.2])
def test_decoded_stream_is_the_encoders_canvas_bit_for_bit(coder: PatchTable, error_rate: float) -> None:
    stream = encode(RECORDING, coder, error_rate=error_rate)
    for clip, frames in enumerate(RECORDING):
        decoded = decode_stream(stream, clip, frames[0], CONFIG, coder)
        assert decoded.shape == frames.shape
        loop, slot = ClosedLoop(CONFIG, coder, 1, error_rate), np.zeros(1, np.int64)
        loop.start(slot, frames[:1])
        assert np.array_equal(loop.canvas.codes[0], stream.codes[clip])
        for t in range(1, len(frames)):
            loop.step(slot, frames[t : t + 1], np.array([clip]), np.array([t]))
            assert np.array_equal(loop.canvas.view(slot)[0], decoded[t]), (clip, t)


def test_every_cell_is_within_tolerance_or_shows_its_nearest_code_or_gains_little_by_it() -> None:
    coder, beyond, slot = PatchTable(np.concatenate(RECORDING), 300), 0, np.zeros(1, np.int64)  # too few codes
    loop = ClosedLoop(CONFIG, coder, 1)
    canvas = loop.canvas
    for clip, frames in enumerate(RECORDING):
        loop.start(slot, frames[:1])
        for t in range(1, len(frames)):
            loop.step(slot, frames[t : t + 1], np.array([clip]), np.array([t]))
            for cell, error in cell_errors(canvas.view(slot)[0], frames[t], canvas.origin[0]).items():
                if error > CONFIG.stream.tolerance:
                    patch = visible_patch(frames[t], cell, canvas.origin[0])
                    best = coder.encode_cells(patch)
                    repainted = canvas.repainted(slot, np.array([cell]), best)[0]
                    left = float(((repainted.astype(float) - patch) ** 2).mean())
                    worth = left <= WORTH * error or error - left >= WORTH_TOLERANCES * CONFIG.stream.tolerance
                    assert canvas.codes[0, cell] == best[0] or not worth, (clip, t, cell)
                    beyond += 1
    assert beyond > 100


def test_encoding_follows_the_picture_closely(coder: PatchTable, stream: Stream) -> None:
    for clip, frames in enumerate(RECORDING):
        decoded = decode_stream(stream, clip, frames[0], CONFIG, coder)
        assert ((decoded.astype(float) - frames) ** 2).mean() < CONFIG.stream.tolerance


def test_a_still_picture_needs_no_updates(coder: PatchTable) -> None:
    stream = encode([np.repeat(walking(9, 0), 5, axis=0)], coder)
    assert len(stream.action) == 4
    assert len(stream.update_cell) == 0
    assert not stream.scroll.any()


def test_only_cells_that_changed_are_updated(coder: PatchTable) -> None:
    frames = walking(1, 20)
    stream = encode([frames], coder)
    assert not stream.scroll.any()
    touched = (frames != frames[0]).any((0, 3)).reshape(16, 4, 16, 4).any((1, 3))
    assert np.pad(touched, (0, 1)).ravel()[stream.update_cell].all()
    decoded = decode_stream(stream, 0, frames[0], CONFIG, coder)
    still = ~touched.repeat(4, 0).repeat(4, 1)
    assert (decoded[:, still] == frames[0][still]).all()


def test_what_a_sprite_uncovers_is_the_original(coder: PatchTable) -> None:
    frames = walking(1, 20)
    decoded = decode_stream(encode([frames], coder), 0, frames[0], CONFIG, coder)
    # The cells of columns 16 to 31 are crossed and left again.
    assert (frames[-1][:, 16:32] == frames[0][:, 16:32]).all()
    assert (decoded[-1][:, 16:32] == frames[0][:, 16:32]).all()


def test_a_cell_is_updated_where_that_is_worth_it() -> None:
    # Two codes: a grey, and one that is grey with one pixel of its 16 white.
    table = PatchTable(np.zeros((1, 8, 8, 3), np.uint8), 1)
    grey = np.full((4, 4, 3), 100, np.uint8)
    spot = grey.copy()
    spot[0, 0] = 255
    table.table = np.stack([grey.ravel(), spot.ravel()])

    def cells(*patches: np.ndarray) -> np.ndarray:
        frame = np.full((64, 64, 3), 100, np.uint8)
        for i, patch in enumerate(patches):
            frame[8 * i : 8 * i + 4, 8:12] = patch
        return frame

    def off(pixels: int, by: int) -> np.ndarray:
        """The spot, and so many more pixels that no code has."""
        patch = spot.reshape(16, 3).copy()
        patch[1 : 1 + pixels] = 100 + by
        return patch.reshape(4, 4, 3)

    # A repaint mends 155 ** 2 / 16, 1,502, of all that is missed, 1,502, 2,222 and 3,938: less than WORTH asks.
    some, most = off(5, 48), off(12, 57)  # leave 720 and 2,437
    frames = np.stack([cells(), cells(spot, some, most)])
    assert encode([frames], table).update_cell.tolist() == [2, 2 * 17 + 2, 4 * 17 + 2]
    faint = grey.copy()
    faint[0, 0] = 160  # misses 225; the spot would miss 564
    blurred = grey.reshape(16, 3).copy()
    blurred[0], blurred[1:3] = 185, 155  # misses 830, the spot 684: not worth it
    frames = np.stack([cells(), cells(faint, blurred.reshape(4, 4, 3))])
    assert not len(encode([frames], table).update_cell)


# --- scrolling


def test_a_camera_movement_is_found(coder: PatchTable) -> None:
    moves = [(3, 0), (0, -2), (-8, 8), (1, 1), (0, 7), (0, 0), (5, -6)]
    stream = encode([panning(4, moves)], coder)
    assert stream.scroll.tolist() == [list(move) for move in moves]
    for (dx, dy), count in zip(moves, np.diff(stream.update_ptr), strict=True):
        edge = 17 * (-(-abs(dx) // 4) + 1) * (dx != 0) + 17 * (-(-abs(dy) // 4) + 1) * (dy != 0)
        assert count <= edge


def test_scrolled_content_keeps_its_pixels(coder: PatchTable) -> None:
    frames = panning(4, [(4, 0)] * 4)
    decoded = decode_stream(encode([frames], coder), 0, frames[0], CONFIG, coder)
    assert np.array_equal(decoded[4][:, :48], frames[0][:, 16:])


def test_a_cell_cut_by_the_edge_is_coded_from_its_visible_pixels() -> None:
    # A camera that moves 2 pixels shows half of the cells that come in; the hidden half is not on screen yet.
    frames = panning(4, [(2, 0)])
    asked: list[np.ndarray] = []

    class Recorder(PatchTable):
        def encode_cells(self, patches: np.ndarray) -> np.ndarray:
            asked.append(patches)
            return super().encode_cells(patches)

    stream = encode([frames], Recorder(frames, 200))
    assert stream.scroll.tolist() == [[2, 0]]
    fresh = asked[-1]
    assert len(fresh)
    assert (fresh[:, :, 2:] == fresh[:, :, 1:2]).all()
    rows = [patch[:, :2].tobytes() for patch in frames[1].reshape(16, 4, 64, 3)[:, :, 62:]]
    assert all(patch[:, :2].tobytes() in rows for patch in fresh)


# --- batches


def test_clips_encode_the_same_together_and_alone(coder: PatchTable, stream: Stream) -> None:
    for clip, frames in enumerate(RECORDING):
        alone = encode([frames], coder)
        assert np.array_equal(alone.codes[0], stream.codes[clip])
        for a, b in zip(alone.steps(0), stream.steps(clip), strict=True):
            assert a.scroll == b.scroll
            assert np.array_equal(a.cells, b.cells)
            assert np.array_equal(a.codes, b.codes)


@pytest.mark.parametrize("num_slots", [1, 2, 64])
def test_result_does_not_depend_on_the_number_of_slots(
    coder: PatchTable, stream: Stream, spoilt: Stream, num_slots: int
) -> None:
    assert same(encode(RECORDING, coder, num_slots), stream)
    assert same(encode(RECORDING, coder, num_slots, error_rate=0.2), spoilt)


def test_stream_carries_actions_rewards_and_ends(stream: Stream) -> None:
    _, actions, rewards, ends = as_clips(RECORDING)
    assert np.array_equal(np.diff(stream.clip_ptr), [len(f) - 1 for f in RECORDING])
    assert np.array_equal(stream.action, np.concatenate([a[1:] for a in actions]))
    assert np.array_equal(stream.reward_class, np.concatenate([np.sign(r[1:]) + 1 for r in rewards]))
    assert np.array_equal(stream.done, np.concatenate([e[1:] for e in ends]))
    assert set(stream.reward_class.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("which", ["stream", "spoilt"])
def test_stream_obeys_the_grammar(which: str, request: pytest.FixtureRequest) -> None:
    stream: Stream = request.getfixturevalue(which)
    for clip in range(stream.n_clips):
        rows, origin, camera = [GRAMMAR.keyframe_tokens(stream.codes[clip], (0, 0), 0)], np.zeros(2, np.int32), None
        for time, step in enumerate(stream.steps(clip), 1):
            rows.append(GRAMMAR.step_tokens(step, origin, time, camera))
            origin, camera = GRAMMAR.move(origin, step.scroll), GRAMMAR.camera(*step.scroll)
        GRAMMAR.validate(np.concatenate(rows))


def test_a_clip_alone_has_the_steps_and_maps_that_it_has_among_others(spoilt: Stream) -> None:
    for clip in range(spoilt.n_clips):
        alone = spoilt.only(clip)
        assert alone.n_clips == 1
        assert np.array_equal(alone.codes[0], spoilt.codes[clip])
        steps = list(spoilt.steps(clip))
        assert [repr(step) for step in alone.steps(0)] == [repr(step) for step in steps]
        for array, same in zip(alone.map_at(0, len(steps)), spoilt.map_at(clip, len(steps)), strict=True):
            assert np.array_equal(array, same)
        first, stop = spoilt.clip_ptr[clip : clip + 2]
        assert np.array_equal(alone.end_flag, spoilt.end_flag[first:stop])
        assert len(alone.update_flag) == alone.update_ptr[-1]


def test_map_at_equals_a_replay(spoilt: Stream) -> None:
    for clip in range(spoilt.n_clips):
        codes, origin = spoilt.codes[clip].astype(np.int32), np.zeros(2, np.int32)
        for i, step in enumerate(spoilt.steps(clip)):
            at = spoilt.map_at(clip, i)
            assert np.array_equal(at[0], codes)
            assert np.array_equal(at[1], origin)
            codes[step.cells] = step.codes
            origin = GRAMMAR.move(origin, step.scroll)
        assert np.array_equal(spoilt.map_at(clip, len(RECORDING[clip]) - 1)[0], codes)


CHANGES: dict[str, Callable[[Clips], object]] = {
    r"frames: expected at least one clip": lambda c: [x.clear() for x in c],
    r"actions: expected one entry per clip, 5, got 4": lambda c: c[1].pop(),
    r"frames\[1\]: expected uint8": lambda c: c[0].__setitem__(1, c[0][1][:, :60]),
    r"frames\[2\]: expected uint8 \(T >= 1": lambda c: c[0].__setitem__(2, c[0][2][:0]),
    r"rewards\[0\]: expected one value per frame": lambda c: c[2].__setitem__(0, c[2][0][1:]),
    r"actions\[4\]: expected 0..62, got": lambda c: c[1].__setitem__(4, c[1][4] + 63),
    r"rewards\[3\]: expected finite": lambda c: c[2].__setitem__(3, c[2][3] * np.nan),
}


@pytest.mark.parametrize("message", CHANGES)
def test_bad_clips_are_refused(coder: PatchTable, message: str) -> None:
    clips = as_clips(list(RECORDING))
    CHANGES[message](clips)
    with pytest.raises(ValueError, match=message):
        encode_clips(*clips, CONFIG, coder, game="g", fingerprint="f")


# --- on disk


def test_saved_stream_loads_equal(spoilt: Stream, tmp_path: Path) -> None:
    spoilt.save(tmp_path / "s.safetensors")
    loaded = Stream.load(tmp_path / "s.safetensors")
    assert same(spoilt, loaded)
    for name in ("game", "tokenizer", "settings", "cell_size", "error_rate"):
        assert getattr(loaded, name) == getattr(spoilt, name)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Stream.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a stream at all", b"half"])
def test_damaged_file_is_refused(stream: Stream, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.safetensors"
    stream.save(path)
    path.write_bytes(path.read_bytes()[:-100] if content == b"half" else content)
    with pytest.raises(ValueError, match=r"s\.safetensors: expected a whole safetensors file"):
        Stream.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_code": np.zeros(3, np.uint16)}, r"update_code: expected uint16 \(\d+,\), got uint16 \(3,\)"),
        ({"update_cell": None}, f"update_cell: expected 0..{N - 1}, got 999"),
        ({"reward_class": None}, "reward_class: expected 0..2, got 3"),
        ({"done": None}, "done: expected 0..1, got 3"),
        ({"scroll": None}, "scroll: expected at most 8 pixels"),
        ({"clip_ptr": np.array([0, 1, 2, 3, 4, 5])}, "clip_ptr: expected to rise from 0 to"),
        ({"codes": np.zeros((5, 256), np.uint16)}, r"codes: expected uint16 \(5, 289\)"),
        ({"action": np.zeros(72, np.int64)}, "action: expected uint8"),
    ],
)
def test_file_with_other_arrays_is_refused(
    stream: Stream, tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    bad = {
        name: np.full_like(getattr(stream, name), {"scroll": 9, "update_cell": 999}.get(name, 3))
        if array is None
        else array
        for name, array in changes.items()
    }
    replace(stream, **bad).save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=message):
        Stream.load(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "expected a stream of format_version 1, got None"),
        ({"format_version": 99}, "expected a stream of format_version 1, got 99"),
        ({"extra": 1}, "expected a stream's description in the header"),
        ({"settings": {"view_cells": 16}}, "settings: unknown keys"),
    ],
)
def test_file_with_another_header_is_refused(
    stream: Stream, tmp_path: Path, changes: dict[str, object] | None, message: str
) -> None:
    path = tmp_path / "s.safetensors"
    stream.save(path)
    meta = {"format_version": 1, "game": "g", "tokenizer": "t", "settings": {}, "cell_size": 4, "error_rate": 0.0}
    header = None if changes is None else {"stream": json.dumps(meta | changes)}
    save_file(load_file(path), path, header)
    with pytest.raises(ValueError, match=message):
        Stream.load(path)


def test_file_without_an_array_is_refused(stream: Stream, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    meta = {"format_version": 1, "game": "g", "tokenizer": "t", "settings": {}, "cell_size": 4, "error_rate": 0.0}
    save_file({k: v for k, v in arrays(stream).items() if k != "done"}, path, {"stream": json.dumps(meta)})
    with pytest.raises(ValueError, match="expected arrays"):
        Stream.load(path)


# --- a real game


def test_real_game_comes_back_within_its_own_tolerance() -> None:
    pytest.importorskip("envpool", reason="Procgen frames need envpool")
    from gamegen_env.games import make_source

    source, rng = make_source("procgen:coinrun", 2, 0), np.random.default_rng(0)
    frames, actions, rewards, ends = [source.reset()], [np.zeros(2, int)], [np.zeros(2)], [np.zeros(2, bool)]
    for _ in range(30):
        action = rng.choice(source.action_tokens, 2)
        frame, reward, terminated, _ = source.step(action)
        for column, value in zip((frames, actions, rewards, ends), (frame, action, reward, terminated), strict=True):
            column.append(value)
    source.close()
    clips = [[np.stack(column)[:, i] for i in range(2)] for column in (frames, actions, rewards, ends)]
    coder = PatchTable(np.concatenate(clips[0])[::5], 3000)
    stream = encode_clips(*clips, CONFIG, coder, game="procgen:coinrun", fingerprint="abc")
    assert 0 < np.diff(stream.update_ptr).mean() < 128
    for clip in range(2):
        decoded = decode_stream(stream, clip, clips[0][clip][0], CONFIG, coder)
        assert ((decoded.astype(float) - clips[0][clip]) ** 2).mean() < 2 * CONFIG.stream.tolerance
