"""Figures under true histories, and minutes of play."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gamegen_env.config import ACT, END, KEY, UPD
from gamegen_env.evaluation import drift
from gamegen_env.evaluation.histories import absences, f1
from gamegen_env.games import make_source
from gamegen_env.training.batches import Batch
from gamegen_env.world import World


def test_absence_counts_steps_since_a_cell_last_had_its_code() -> None:
    # Cell 0: 7, covered by 9 at time 1, uncovered at time 4; cell 1: 8, never seen 5.
    tokens = [
        (KEY, 0, 7, 0), (KEY, 1, 8, 0), (ACT, 0, 0, 1), (UPD, 0, 9, 1), (END, 1, 0, 1),
        (ACT, 0, 0, 4), (UPD, 0, 7, 4), (UPD, 1, 5, 4), (END, 1, 0, 4),
    ]  # fmt: skip
    rows = np.array([[(k, a, b, 0, 0, t) for k, a, b, t in tokens]], np.int32)
    none = np.zeros(0, np.int64)
    code_at = np.array([2, 5, 6])
    batch = Batch(
        rows, none, none, code_at, np.array([0, 0, 1]), np.zeros((3, 2)), none, none, np.array([9, 7, 5]),
        np.full(3, -1), np.array([9, 7, 5]), none, none, none,
    )  # fmt: skip
    assert absences(batch).tolist() == [0, 3, 0]


def test_f1() -> None:
    truth = np.array([1, 1, 0, 0], bool)
    assert f1(truth, truth) == 1
    assert f1(np.array([1, 0, 1, 0], bool), truth) == pytest.approx(0.5)
    assert f1(np.zeros(4, bool), truth) == 0
    assert np.isnan(f1(truth, np.zeros(4, bool)))


def test_nearest_real_frame() -> None:
    real = np.zeros((3, 16, 16, 3), np.uint8)
    real[1], real[2] = 100, 110
    known = drift.thumbnails(real)
    assert drift.nearest(known, known) == pytest.approx([0, 0, 0], abs=0.1)
    assert drift.nearest(known, known, ~np.eye(3, dtype=bool)) == pytest.approx([100, 10, 10], abs=0.1)


def test_drift_of_a_model(tiny_checkpoint: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "STEPS_PER_MINUTE", 10)
    clips = [np.stack([np.roll(picture, (i, t), (0, 1)) for t in range(20)]) for i in range(3)]
    game = make_source("invented:roam", 2, 0, "heldout")
    figures = drift.evaluate_drift(World(tiny_checkpoint, 2), game, clips, [0, 1], minutes=5, slots=2)
    assert set(figures) == {"drift_1", "drift_5", "collapsed", "collapsed_real"}
    assert figures["collapsed_real"] == 1  # of another game than the clips
    assert all(np.isfinite(value) for value in figures.values())
    with pytest.raises(ValueError, match="expected more than 3 clips"):
        drift.evaluate_drift(World(tiny_checkpoint, 3), game, clips, [0], minutes=1, slots=3)
