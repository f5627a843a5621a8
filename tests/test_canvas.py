"""The canvas: what changes on screen, what never does, and what it remembers."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.canvas import Canvas
from gamegen_env.config import ModelConfig
from gamegen_env.stream import Grammar
from tests.patch_table import ContextTable, PatchTable, spell

CONFIG = ModelConfig()
GRAMMAR = Grammar(CONFIG)
N = CONFIG.stream.n_cells
SLOT = np.zeros(1, np.int64)
STILL = np.zeros((1, 2), np.int64)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def table(pictures: np.ndarray) -> PatchTable:
    return PatchTable(pictures, 300)


def apply(canvas: Canvas, cells: list[int], codes: list[int], scroll: tuple[int, int] = (0, 0), slot: int = 0) -> None:
    canvas.apply(
        np.array([slot]), np.array([scroll]), np.array([0, len(cells)]), np.array(cells, int), np.array(codes, int)
    )


def view_cells(origin: np.ndarray) -> np.ndarray:
    """Return the visible cells as they lie on the screen: (rows, columns) map indices."""
    columns, rows = (np.unique((np.arange(64) + o) % 68 // 4, return_index=True) for o in origin.tolist())
    in_order = [cells[first.argsort()] for cells, first in (rows, columns)]
    return in_order[0][:, None] * 17 + in_order[1]


def random_step(rng: np.random.Generator, canvas: Canvas, slot: int, n_codes: int) -> tuple[np.ndarray, ...]:
    """A scroll, and updates of random visible cells to random other codes."""
    scroll = rng.integers(-8, 9, 2) * rng.integers(0, 2)
    visible = GRAMMAR.visible_cells(GRAMMAR.move(canvas.origin[slot], scroll)).nonzero()[0]
    cells = np.sort(rng.choice(visible, rng.integers(0, 40), replace=False))
    codes = (canvas.codes[slot, cells] + rng.integers(1, n_codes, len(cells))) % n_codes
    return scroll, cells, codes


# --- reset and view


def test_reset_shows_the_picture_itself(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 3)
    canvas.reset(np.array([2, 0]), pictures[:2])
    assert np.array_equal(canvas.view(np.array([0, 2])), pictures[[1, 0]])
    assert not canvas.view(np.array([1])).any()


def test_true_pixels_are_shown_and_remembered_but_change_no_code(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 2)
    canvas.reset(np.arange(2), pictures[:2])
    apply(canvas, [], [], scroll=(7, -5), slot=1)
    codes, beside = canvas.codes.copy(), canvas.view(SLOT)
    canvas.show(np.array([1]), pictures[2:])
    assert np.array_equal(canvas.view(np.array([1])), pictures[2:])
    assert np.array_equal(canvas.codes, codes)
    assert np.array_equal(canvas.view(SLOT), beside)
    cell = int(GRAMMAR.visible_cells(canvas.origin[1]).nonzero()[0][100])
    before = int(canvas.codes[1, cell])
    apply(canvas, [cell], [before + 1], slot=1)
    assert not np.array_equal(canvas.view(np.array([1])), pictures[2:])
    apply(canvas, [cell], [before], slot=1)
    assert np.array_equal(canvas.view(np.array([1])), pictures[2:])
    with pytest.raises(ValueError, match=r"frames: expected uint8 \(1, 64, 64, 3\), got uint8 \(1, 64, 63, 3\)"):
        canvas.show(SLOT, pictures[:1, :, :63])


def test_reset_repeats_the_edge_in_the_spare_row_and_column(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    grid = canvas.codes[0].reshape(17, 17)
    patches = pictures[0].reshape(16, 4, 16, 4, 3).swapaxes(1, 2)
    assert np.array_equal(grid[:16, :16].ravel(), table.encode_cells(patches.reshape(-1, 4, 4, 3)))
    assert np.array_equal(grid[16, :16], grid[15, :16])
    assert np.array_equal(grid[:, 16], grid[:, 15])
    assert np.array_equal(canvas.pixels[0, 64:], canvas.pixels[0, 60:64])
    assert np.array_equal(canvas.pixels[0, :, 64:], canvas.pixels[0, :, 60:64])


def test_reset_forgets_the_game_before(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    fresh = canvas.save(0)
    apply(canvas, [0, 50], [1, 2], (3, -2))
    canvas.reset(SLOT, pictures[:1])
    for name, array in canvas.save(0).items():
        assert np.array_equal(array, fresh[name]), name


def test_view_follows_the_origin_around_the_torus(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    moved = np.zeros(2, int)
    for scroll in [(5, 0), (-8, 3), (0, -8), (8, 8), (-7, 1)]:
        apply(canvas, [], [], scroll)
        moved += scroll
        expected = np.roll(canvas.pixels[0], (-moved[1], -moved[0]), (0, 1))[:64, :64]
        assert np.array_equal(canvas.view(SLOT)[0], expected)


def test_view_is_a_copy(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    canvas.view(SLOT)[:] = 0
    assert np.array_equal(canvas.view(SLOT)[0], pictures[0])


@pytest.mark.parametrize("frames", [np.zeros((1, 64, 60, 3), np.uint8), np.zeros((2, 64, 64, 3), np.uint8),
                                    np.zeros((1, 64, 64, 3), np.float32)])  # fmt: skip
def test_reset_refuses_other_pictures(table: PatchTable, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames: expected uint8 \(1, 64, 64, 3\), got"):
        Canvas(CONFIG, table, 1).reset(SLOT, frames)


def test_no_slots_are_refused(table: PatchTable) -> None:
    with pytest.raises(ValueError, match="num_slots"):
        Canvas(CONFIG, table, 0)


# --- updates


def test_update_shows_the_decoded_patch(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    apply(canvas, [18], [7])
    assert canvas.codes[0, 18] == 7
    assert np.array_equal(canvas.view(SLOT)[0, 4:8, 4:8], table.table[7].reshape(4, 4, 3))


def test_cells_not_updated_never_change_a_pixel(pictures: np.ndarray, table: PatchTable) -> None:
    rng = np.random.default_rng(2)
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    for _ in range(60):
        before = canvas.cells()[0].reshape(N, 48).copy()
        scroll, cells, codes = random_step(rng, canvas, 0, 300)
        apply(canvas, cells.tolist(), codes.tolist(), tuple(scroll))
        untouched = np.ones(N, bool)
        untouched[cells] = False
        assert np.array_equal(canvas.cells()[0].reshape(N, 48)[untouched], before[untouched])


def test_decoder_sees_the_neighbours_on_screen_after_the_whole_step(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    canvas = Canvas(CONFIG, ContextTable(pictures, 300), 1)
    canvas.reset(SLOT, pictures[:1])
    decoded = 0
    for _ in range(40):
        scroll, cells, codes = random_step(rng, canvas, 0, 300)
        canvas.memory_codes[:] = -1  # so that every update is decoded
        apply(canvas, cells.tolist(), codes.tolist(), tuple(scroll))
        on_screen = view_cells(canvas.origin[0])
        padded = np.pad(canvas.codes[0][on_screen], 1, mode="edge")
        for cell in cells:
            (y,), (x,) = (on_screen == cell).nonzero()
            around = padded[y : y + 3, x : x + 3].reshape(1, 9)
            assert np.array_equal(canvas.cells()[0, cell // 17, cell % 17], spell(around)[0])
            decoded += 1
    assert decoded > 300


def test_slots_do_not_depend_on_each_other(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    coder = ContextTable(pictures, 300)
    together, alone = Canvas(CONFIG, coder, 3), [Canvas(CONFIG, coder, 1) for _ in range(3)]
    together.reset(np.arange(3), pictures)
    for canvas, picture in zip(alone, pictures, strict=True):
        canvas.reset(SLOT, picture[None])
    for _ in range(25):
        slots = rng.permutation(3)[: rng.integers(1, 4)]
        steps = [random_step(rng, together, slot, 300) for slot in slots]
        scrolls, cells, codes = zip(*steps, strict=True)
        ptr = np.concatenate([[0], np.cumsum([len(c) for c in cells])])
        together.apply(slots, np.stack(scrolls), ptr, np.concatenate(cells), np.concatenate(codes))
        for slot, (scroll, cell, code) in zip(slots, steps, strict=True):
            alone[slot].apply(SLOT, scroll[None], np.array([0, len(cell)]), cell, code)
    for slot, canvas in enumerate(alone):
        for name, array in canvas.save(0).items():
            assert np.array_equal(array, together.save(slot)[name]), name


# --- tile memory


def test_memory_restores_the_original_pixels_when_an_occluder_leaves(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    cells = [40, 41, 57, 58]
    before = canvas.codes[0, cells].tolist()
    occluder = [(code + 1) % 300 for code in before]
    for _ in range(3):
        apply(canvas, cells, occluder)
        assert not np.array_equal(canvas.view(SLOT)[0], pictures[0])
        apply(canvas, cells, before)
        assert np.array_equal(canvas.view(SLOT)[0], pictures[0])


def test_memory_of_the_original_outlives_whatever_is_decoded(pictures: np.ndarray) -> None:
    """A cell crossed by a sprite in many phases looks as before; decoded codes look as their neighbours say now."""
    canvas = Canvas(CONFIG, ContextTable(pictures, 300), 1)
    canvas.reset(SLOT, pictures[:1])
    original = int(canvas.codes[0, 0])
    for code in [c for c in range(20) if c != original]:
        apply(canvas, [0], [code])
    apply(canvas, [1], [5])
    apply(canvas, [0], [original])
    assert np.array_equal(canvas.view(SLOT)[0, :4, :4], pictures[0, :4, :4])
    apply(canvas, [0], [7])
    beside_five = canvas.view(SLOT)[0, :4, :4]
    apply(canvas, [0, 1], [original, 6])
    apply(canvas, [0], [7])
    assert not np.array_equal(canvas.view(SLOT)[0, :4, :4], beside_five)


def test_a_code_that_the_picture_has_in_one_colour_is_painted_in_it(pictures: np.ndarray) -> None:
    """A plain ground never seen behind a sprite comes without traces of its neighbours; a texture does not."""
    picture = pictures[:1].copy()
    picture[0, 8:16, 8:16] = (9, 99, 200)
    coder = ContextTable(np.concatenate([picture, pictures[1:]]), 300)
    for cell, copied in ((2 * 17 + 2, True), (8 * 17 + 8, False)):
        canvas = Canvas(CONFIG, coder, 2)
        canvas.reset(np.arange(2), pictures[:2])  # another slot's picture is none of ours
        canvas.reset(SLOT, picture)
        code = int(canvas.codes[0, cell])
        y, x = 4 * (cell // 17), 4 * (cell % 17)
        apply(canvas, [0], [code])
        apply(canvas, [0], [code], slot=1)
        shown = canvas.view(np.arange(2))[:, :4, :4]
        assert np.array_equal(shown[0], picture[0, y : y + 4, x : x + 4]) == copied
        assert not (shown[1] == (9, 99, 200)).all()
        assert not canvas.original[0, 0]


def test_memory_keeps_the_last_four_true_codes_of_a_cell_each_once(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    rng, seen = np.random.default_rng(5), []
    for _ in range(200):
        code = int(rng.integers(0, 7))
        if code != canvas.codes[0, 0]:
            seen.append(int(canvas.codes[0, 0]))
            apply(canvas, [0], [code])
            canvas.show(SLOT, pictures[:1])  # as it really looks
        held = [c for c in canvas.memory_codes[0, 0].tolist() if c >= 0]
        assert len(set(held)) == len(held) <= CONFIG.stream.memory_per_cell
        assert not seen or seen[-1] in held
    assert len(held) == CONFIG.stream.memory_per_cell


def test_cells_cut_by_the_edge_are_not_the_original(pictures: np.ndarray, table: PatchTable) -> None:
    """What lies beyond the edge is a guess, which must not come back later as if it had been seen."""
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    grid = canvas.original[0].reshape(17, 17)
    assert grid[:16, :16].all()
    assert not grid[16].any()
    assert not grid[:, 16].any()
    apply(canvas, [], [], scroll=(2, 0))
    canvas.show(SLOT, pictures[1:2])
    assert not grid[:, 16].any()
    apply(canvas, [], [], scroll=(2, 0))
    canvas.show(SLOT, pictures[1:2])
    assert grid[:16, 16].all()


# --- snapshots


def test_saved_state_continues_the_same_in_another_canvas(pictures: np.ndarray, table: PatchTable) -> None:
    rng = np.random.default_rng(6)
    one, other = Canvas(CONFIG, table, 1), Canvas(CONFIG, table, 2)
    one.reset(SLOT, pictures[:1])
    for _ in range(10):
        scroll, cells, codes = random_step(rng, one, 0, 300)
        apply(one, cells.tolist(), codes.tolist(), tuple(scroll))
    state = one.save(0)
    kept = {name: array.copy() for name, array in state.items()}
    other.load(1, state)
    for _ in range(10):
        scroll, cells, codes = random_step(rng, one, 0, 300)
        apply(one, cells.tolist(), codes.tolist(), tuple(scroll))
        apply(other, cells.tolist(), codes.tolist(), tuple(scroll), slot=1)
        assert np.array_equal(one.view(SLOT)[0], other.view(np.array([1]))[0])
    for name, array in state.items():
        assert np.array_equal(array, kept[name]), name


def test_load_refuses_a_wrong_state_and_changes_nothing(pictures: np.ndarray, table: PatchTable) -> None:
    canvas = Canvas(CONFIG, table, 1)
    canvas.reset(SLOT, pictures[:1])
    state = canvas.save(0)
    before = canvas.save(0)
    wrong = [
        {k: v for k, v in state.items() if k != "origin"},
        state | {"extra": np.zeros(1)},
        state | {"pixels": state["pixels"][:60]},
        state | {"memory_next": state["memory_next"].astype(np.int64)},
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match="state"):
            canvas.load(0, bad)
    for name, array in canvas.save(0).items():
        assert np.array_equal(array, before[name]), name
