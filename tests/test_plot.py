"""The picture of a run's metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gamegen_env.training.plot import main, read_metrics, smooth


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [{"step": s, "seconds": s, "event": 1 / s, "tokens_per_s": 100} for s in range(1, 9)]
    lines.insert(4, {"step": 4, "seconds": 4, "heldout_event": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_metrics_are_read_by_name(run: Path) -> None:
    curves = read_metrics(run)
    assert set(curves) == {"event", "heldout_event", "tokens_per_s"}
    assert curves["heldout_event"][0].tolist() == [4]
    assert np.allclose(curves["event"][1], 1 / np.arange(1, 9))


def test_smoothing_is_a_mean_of_the_last_values() -> None:
    assert smooth(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_command_draws_both_lines(run: Path) -> None:
    out = run / "curves.png"
    main([str(run), str(run), "--out", str(out)])
    with Image.open(out) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 5


def test_bad_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected the metrics of a run"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "event": 2}\n{"event": 3}\n')
    with pytest.raises(ValueError, match="line 2: expected numbers and a step"):
        read_metrics(tmp_path)
