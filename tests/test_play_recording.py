"""Recordings of the player: they come back, and broken ones are refused."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest

from gamegen_env.image import encode_png
from gamegen_env.play.recording import Recording


def recording(picture: np.ndarray, **changes: object) -> Recording:
    fields = {"fingerprint": "f", "engine": "native", "temperature": 0.5, "seed": 7, "keys": [0, 1, 2], **changes}
    return Recording(picture, **fields)  # type: ignore[arg-type]


def test_recording_comes_back(picture: np.ndarray) -> None:
    original = recording(picture)
    back = Recording.from_bytes(original.to_bytes(), 64)
    assert np.array_equal(back.picture, picture)
    assert (back.fingerprint, back.engine, back.temperature, back.seed, back.keys) == ("f", "native", 0.5, 7, [0, 1, 2])


def packed(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def test_broken_recordings_are_refused(picture: np.ndarray) -> None:
    png = encode_png(picture)
    good = {
        "format": "gamegen-recording-1", "fingerprint": "f", "engine": "native", "temperature": 1.0, "seed": 1,
        "keys": [1],
    }  # fmt: skip
    for data, message in (
        (b"junk", "expected a file saved by the player"),
        (b"x" * (2 << 20), "expected at most"),
        (packed(game_json=b"{}"), "expected game.json and picture.png"),
        (packed(game_json=b"{", picture_png=png), "expected JSON"),
        (packed(game_json=b"[" * 100_000, picture_png=png), "expected"),
        (packed(game_json=b" " * (8 << 20), picture_png=png), "unpacks to far more"),
        (packed(game_json=json.dumps(good).encode(), picture_png=b"no"), "expected an image"),
        *(
            (packed(game_json=json.dumps({**good, name: value}).encode(), picture_png=png), "recording: ")
            for name, value in (
                ("keys", [99]), ("keys", [1.5]), ("keys", "x"), ("seed", -1), ("seed", True), ("temperature", "hot"),
                ("format", "other"), ("more", 1), ("temperature", 10**400), ("temperature", float("nan")),
            )
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Recording.from_bytes(data, 64)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("game.json", json.dumps(good))
        archive.writestr("picture.png", png)
    with pytest.raises(ValueError, match="got another compression"):
        Recording.from_bytes(squeezed.getvalue(), 64)
    with pytest.raises(ValueError, match="expected at most 1000000 steps"):
        recording(picture, keys=[0] * 1_000_001).to_bytes()


def test_no_damaged_byte_of_a_recording_goes_unanswered(picture: np.ndarray) -> None:
    data = recording(picture).to_bytes()
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        with contextlib.suppress(ValueError):
            Recording.from_bytes(bytes(damaged), 64)
