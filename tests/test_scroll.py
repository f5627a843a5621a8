"""Where the camera went: whole pixels, from what is on screen and the next true picture."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.codec import encode_clips
from gamegen_env.config import ModelConfig
from gamegen_env.scroll import THING, find_scrolls
from tests.patch_table import PatchTable
from tests.test_codec import landscape, walking

REACH = 8


def texture(seed: int, side: int = 256, grain: int = 4) -> np.ndarray:
    """A smooth world (side, side, 3): random colours every `grain` pixels, blended between."""
    knots = np.random.default_rng(seed).uniform(0, 256, (side // grain + 2, side // grain + 2, 3))
    at = np.arange(side) / grain
    low, part = at.astype(int), at % 1
    rows = knots[low] * (1 - part)[:, None, None] + knots[low + 1] * part[:, None, None]
    both = rows[:, low] * (1 - part)[:, None] + rows[:, low + 1] * part[:, None]
    return both


def seen(world: np.ndarray, x: float, y: float) -> np.ndarray:
    """The view (64, 64, 3) uint8 of a camera between pixels: the four that it stands on, blended."""
    left, top = int(x), int(y)
    (dx, dy), part = (x - left, y - top), world[top : top + 65, left : left + 65]
    rows = part[:-1] * (1 - dy) + part[1:] * dy
    return (rows[:, :-1] * (1 - dx) + rows[:, 1:] * dx).astype(np.uint8)


def found(screen: np.ndarray, picture: np.ndarray, last: tuple[int, int] = (0, 0), moving: bool = False) -> list[int]:
    return find_scrolls(screen[None], picture[None], np.array([last]), np.array([moving]), REACH)[0].tolist()


@pytest.mark.parametrize("move", [(8, -8), (-8, 8), (1, 0), (0, -5), (-3, 7)])
def test_the_true_movement_is_found_from_rest_and_in_motion(move: tuple[int, int]) -> None:
    world = texture(0)
    screen, picture = seen(world, 80, 80), seen(world, 80 + move[0], 80 + move[1])
    assert found(screen, picture) == list(move)
    assert found(screen, picture, last=(2, 2), moving=True) == list(move)


def test_views_of_a_batch_do_not_meet() -> None:
    world = texture(1)
    places = [(80, 80), (83, 80), (80, 74), (81, 81)]
    screens, pictures = np.stack([seen(world, 80, 80)] * 4), np.stack([seen(world, *place) for place in places])
    together = find_scrolls(screens, pictures, np.zeros((4, 2), int), np.zeros(4, bool), REACH)
    assert together.tolist() == [[x - 80, y - 80] for x, y in places]
    assert together.dtype == np.int32


def test_a_thing_that_moves_on_its_own_sets_no_camera_in_motion() -> None:
    before = np.full((64, 64, 3), 40, np.uint8)
    after = before.copy()
    before[20:28, 20:28] = after[20:28, 23:31] = 250  # explains 2 * 3 * 8 pixels
    assert found(before, after) == [0, 0]
    assert found(before, after, last=(-3, 0), moving=True) == [-3, 0]  # the same, where the view moved already


def test_a_camera_sets_out_if_it_explains_more_than_a_thing() -> None:
    for bars, sets_out in ((THING // 20, False), (THING // 20 + 2, True)):
        before = np.full((64, 64, 3), 40, np.uint8)
        after = before.copy()
        for i in range(bars):  # each explains 20 pixels: the rows that it leaves and enters
            before[4 + 8 * i, 10:20] = after[5 + 8 * i, 10:20] = 250
        assert found(before, after) == ([0, -1] if sets_out else [0, 0])


def test_a_camera_in_motion_stops_with_the_picture() -> None:
    screen = seen(texture(2), 80, 80)
    assert found(screen, screen, last=(3, 0), moving=True) == [0, 0]


def test_a_camera_between_pixels_is_followed_for_ever() -> None:
    # 0.7 and 0.3 pixels a step: between two pictures that is nothing or a whole pixel, and 90 roundings add up.
    world = texture(3, grain=16)
    at = np.stack([40 + 0.7 * np.arange(91), 60 + 0.3 * np.arange(91)], 1)
    frames = np.stack([seen(world, *place) for place in at])
    off = np.cumsum(scrolls(frames), 0) - (at - at[0])[1:]
    assert np.abs(off).max() <= 2.5


def test_a_jump_is_the_parabola_that_it_is() -> None:
    # The view brings in rows of new cells at every step, as many as staying would repaint: no reason to stay.
    world = texture(4, grain=16)
    speed = [-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0, -7, -6]
    at = 100 + np.concatenate([[0], np.cumsum(speed)])
    frames = np.stack([seen(world, 80, y) for y in at])
    assert scrolls(frames).tolist() == [[0, v] for v in speed]


def test_a_moving_sprite_does_not_mislead_the_camera() -> None:
    flat = np.full((12, 64, 64, 3), (30, 40, 50), np.uint8)
    for i, frame in enumerate(flat):
        frame[50:56, 3 * i : 3 * i + 22] = (250, 250, 250)  # a paddle: nothing says that the camera stands still
    for frames in (walking(5, 15), flat):
        assert not scrolls(frames).any()


def test_a_camera_in_motion_goes_on_where_little_tells_of_it() -> None:
    world = np.full((204, 204, 3), (30, 40, 50), np.uint8)
    world[80:104, 72:96] = landscape(6)[80:104, 72:96]  # sets the camera in motion, and is out of sight after 16 steps
    world[64:72, 150:154] = world[112:120, 150:154] = (250, 250, 250)  # eight cells at most change when it moves on
    frames = np.stack([world[60:124, x : x + 64] for x in range(64, 138, 2)])
    assert scrolls(frames).tolist() == [[2, 0]] * 36
    assert not scrolls(frames[17:]).any()  # and does not begin to


def scrolls(frames: np.ndarray) -> np.ndarray:
    """The camera's movements in a recording's stream, (steps, 2) int64."""
    n = len(frames)
    stream = encode_clips(
        [frames], [np.zeros(n, np.int64)], [np.zeros(n, np.float32)], [np.zeros(n, bool)], ModelConfig(),
        PatchTable(frames, 8000), game="test", fingerprint="test",
    )  # fmt: skip
    return stream.scroll.astype(np.int64)
