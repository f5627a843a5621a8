"""Films of what was played."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gamegen_env.image import encode_gif
from gamegen_env.play import film


@pytest.fixture
def frames(picture: np.ndarray) -> list[np.ndarray]:
    """Thirty frames in which a square moves over a picture of few colours."""
    made = []
    for at in range(30):
        frame = np.full((64, 64, 3), (40, 90, 200), np.uint8)
        frame[20:28, at : at + 8] = (250, 220, 40)
        made.append(frame)
    return made


@pytest.mark.parametrize(("fps", "count", "seconds"), [(15, 30, 2.0), (30, 30, 1.0), (60, 15, 0.5)])
def test_gif_keeps_colours_and_time(frames: list[np.ndarray], fps: int, count: int, seconds: float) -> None:
    with Image.open(io.BytesIO(encode_gif(frames, 4, fps))) as gif:
        assert (gif.n_frames, gif.size) == (count, (256, 256))
        total = 0
        for i in range(count):
            gif.seek(i)
            total += gif.info["duration"]
            assert gif.info["duration"] >= 20  # browsers play shorter ones at 10 fps
            assert np.array_equal(np.asarray(gif.convert("RGB"))[::4, ::4], frames[i * 30 // count])
    assert total / 1000 == pytest.approx(seconds, rel=0.11)  # hundredths of a second are all that GIF knows


@pytest.mark.parametrize("fps", [15, 30, 60])
def test_mp4_keeps_frames_and_time(frames: list[np.ndarray], fps: int) -> None:
    av = pytest.importorskip("av", reason="needs the extra [play]")
    with av.open(io.BytesIO(film.encode("mp4", frames, fps))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (512, 512, fps)
        back = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(back) == 30
    for got, frame in zip(back, frames, strict=True):
        # Colour is stored at half the resolution and lossily; in the middle of pixels it is nearly right.
        assert np.abs(got[4::8, 4::8].astype(int) - frame).mean() < 6


def test_unknown_kinds_are_refused(frames: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="film: expected one of"):
        film.encode("exe", frames, 30)


def test_without_pyav_there_is_gif_only(frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    monkeypatch.setattr(film.importlib.util, "find_spec", lambda name: None)
    assert film.kinds() == ["gif"]
    with pytest.raises(ImportError, match=r"pip install 'gamegen-env\[play\]'"):
        film.encode("mp4", frames, 30)
