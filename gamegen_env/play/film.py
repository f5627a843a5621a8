"""What was played, as a film: GIF always, MP4 where PyAV is installed (extra `play`)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence

import numpy as np

from gamegen_env.image import encode_gif

SCALE = {"gif": 4, "mp4": 8}  # enlargement of the pixels
MEDIA = {"gif": "image/gif", "mp4": "video/mp4"}


def kinds() -> list[str]:
    """Return the kinds of film that can be made here."""
    return ["gif", "mp4"] if importlib.util.find_spec("av") else ["gif"]


def encode(kind: str, frames: Sequence[np.ndarray], fps: int) -> bytes:
    """Return frames (H, W, 3) uint8 as a film with pixels enlarged.

    Raises: ValueError if the kind is unknown, ImportError if MP4 is asked for without PyAV.
    """
    if kind not in MEDIA:
        raise ValueError(f"film: expected one of {list(MEDIA)}, got {kind!r:.40}")
    return encode_gif(frames, SCALE["gif"], fps) if kind == "gif" else _mp4(frames, fps)


def _mp4(frames: Sequence[np.ndarray], fps: int) -> bytes:
    try:
        import av
    except ImportError:
        raise ImportError("an MP4 film needs PyAV: pip install 'gamegen-env[play]'") from None
    buffer, scale = io.BytesIO(), SCALE["mp4"]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "fast"})
        stream.height, stream.width = (scale * side for side in frames[0].shape[:2])
        stream.pix_fmt = "yuv420p"  # what every browser and phone plays
        for frame in frames:
            enlarged = np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(enlarged, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
