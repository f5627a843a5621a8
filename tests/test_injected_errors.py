"""Errors put into training streams: flagged where they are, left to stand, and repaired."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen_env.closed_loop import AFTER_DROP, LASTING, WRONG_CODE, ClosedLoop
from gamegen_env.codec import decode_stream
from tests.patch_table import PatchTable
from tests.test_codec import CONFIG, RECORDING, cell_errors, encode, same, walking


@pytest.fixture(scope="module")
def coder() -> PatchTable:
    return PatchTable(np.concatenate([f[::4] for f in RECORDING]), 8000)


def test_errors_are_flagged_where_they_are(coder: PatchTable) -> None:
    """Beside every spoilt step, what a faultless encoder would do from the same canvas."""
    slot, n_updates, n_wrong, n_dropped, n_after, n_end = np.zeros(1, np.int64), 0, 0, 0, 0, 0
    for clip, frames in enumerate(RECORDING):
        bad, good = ClosedLoop(CONFIG, coder, 1, 0.3, seed=5), ClosedLoop(CONFIG, coder, 1)
        bad.start(slot, frames[:1])
        for t in range(1, len(frames)):
            good.canvas.load(0, bad.canvas.save(0))
            good.scrolled[0], good.rested[0] = bad.scrolled[0], bad.rested[0]
            waiting = bad.unseen[0].copy()
            pair = frames[t : t + 1], np.array([clip]), np.array([t])
            want, got = good.step(slot, *pair), bad.step(slot, *pair)
            assert np.array_equal(got.scroll, want.scroll)
            right = dict(zip(want.cell.tolist(), want.code.tolist(), strict=True))
            assert set(got.cell.tolist()) <= set(right)
            expected = want.cell.tolist()
            for cell, code, flag in zip(got.cell.tolist(), got.code.tolist(), got.flag.tolist(), strict=True):
                assert bool(flag & WRONG_CODE) == (code != right[cell])
                assert bool(flag & AFTER_DROP) == (expected[0] != cell)
                expected = expected[expected.index(cell) + 1 :]
                n_wrong += (flag & WRONG_CODE) * (waiting[cell] == 0)
                n_after += bool(flag & AFTER_DROP)
            assert got.end_flag[0] == (AFTER_DROP if expected else 0)
            n_end += bool(expected)
            fresh = {cell for cell in right if waiting[cell] == 0}  # those that are not left alone for an older error
            n_updates, n_dropped = n_updates + len(fresh), n_dropped + len(fresh - set(got.cell.tolist()))
    assert min(n_wrong, n_after, n_end) > 10
    assert 0.22 < (n_wrong + n_dropped) / n_updates < 0.35


def test_an_error_stands_for_its_time_and_is_then_repaired(coder: PatchTable) -> None:
    """In a picture that has changed once; of the errors as many stand for 1 step as for 2 to 3, 4 to 7, 8 to 15 ..."""
    slots, rng = np.arange(64), np.random.default_rng(0)
    drawn = coder.table[rng.integers(len(coder.table), size=(2, 64, 16, 16))].reshape(2, 64, 16, 16, 4, 4, 3)
    before, after = drawn.swapaxes(3, 4).reshape(2, 64, 64, 64, 3)
    loop = ClosedLoop(CONFIG, coder, 64, 0.3, seed=5)
    loop.start(slots, before)
    loop.step(slots, after, slots, slots * 0)
    stands = loop.unseen.copy()
    octaves = np.bincount(np.log2(stands[stands > 0] + 1).astype(int))
    assert octaves[1:].min() > 0.8 * octaves[1:].max()
    assert stands.max() == LASTING - 2
    for t in range(1, 6):
        left, wrong = loop.unseen.copy(), loop.canvas.codes.copy()
        loop.step(slots, after, slots, slots * 0 + t)
        waiting = left > 0
        assert (loop.canvas.codes[waiting] == wrong[waiting]).all()
        assert (loop.unseen[waiting] == left[waiting] - 1).all()
    late = waiting & (left == 1)
    kept = loop.canvas.codes.copy()
    loop.step(slots, after, slots, slots * 0 + 6)
    assert 0.6 < (loop.canvas.codes != kept)[late].mean() < 0.95  # but for those that go wrong once more


def test_an_error_waits_while_the_truth_looks_the_same_and_no_longer(coder: PatchTable) -> None:
    frames, slot = walking(1, 1), np.zeros(1, np.int64)
    fresh, waiting, changed = (ClosedLoop(CONFIG, coder, 1, 1e-9) for _ in range(3))
    for loop in (fresh, waiting, changed):
        loop.start(slot, frames[:1])
    want = fresh.step(slot, frames[1:], slot, slot)
    waiting.looks[:], changed.looks[:] = fresh.looks, fresh.looks + 1
    for loop in (waiting, changed):
        loop.unseen[:] = 3
    assert len(want.cell)
    assert len(waiting.step(slot, frames[1:], slot, slot).cell) == 0
    assert changed.step(slot, frames[1:], slot, slot).cell.tolist() == want.cell.tolist()


def test_errors_are_repaired_by_the_loop(coder: PatchTable) -> None:
    frames = walking(1, 12)
    frames = np.concatenate([frames, np.repeat(frames[-1:], 3 * LASTING, axis=0)])
    right, spoilt = encode([frames], coder), encode([frames], coder, error_rate=0.3)
    assert not same(right, spoilt)
    assert not spoilt.update_flag[spoilt.update_ptr[-3] :].any()
    for stream in (right, spoilt):
        last = decode_stream(stream, 0, frames[0], CONFIG, coder)[-1]
        error = cell_errors(last, frames[-1], np.zeros(2, int))
        assert max(error.values()) <= CONFIG.stream.tolerance


def test_without_errors_nothing_is_flagged(coder: PatchTable) -> None:
    stream = encode(RECORDING, coder)
    assert len(stream.update_cell)
    assert not stream.update_flag.any()
    assert not stream.end_flag.any()


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_error_rate_outside_its_range_is_refused(coder: PatchTable, rate: float) -> None:
    with pytest.raises(ValueError, match="error_rate"):
        ClosedLoop(CONFIG, coder, 1, rate)
