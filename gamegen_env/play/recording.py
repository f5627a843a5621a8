"""A game as a small file: picture, model, seed and keys. Another machine plays it to the same frames.

A zip archive with `game.json` and `picture.png`; nothing in it is ever executed or unpickled.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from gamegen_env.actions import N_ACTIONS
from gamegen_env.image import encode_png, load_image

FORMAT = "gamegen-recording-1"
MAX_BYTES = 1 << 20
MAX_UNPACKED = 8 << 20  # bytes
MAX_KEYS = 1_000_000  # nine hours at 30 fps
MAX_TEMPERATURE = 2
FIELDS = {"format": str, "fingerprint": str, "engine": str, "temperature": float, "seed": int, "keys": list}


@dataclass(frozen=True)
class Recording:
    """`picture` (H, W, 3) uint8; `keys`: action tokens; `engine`: name of what decided them."""

    picture: np.ndarray
    fingerprint: str
    engine: str
    temperature: float
    seed: int
    keys: list[int]

    def to_bytes(self) -> bytes:
        """Return the file. Raises: ValueError if the game was longer than a file may be."""
        if len(self.keys) > MAX_KEYS:
            raise ValueError(f"recording: expected at most {MAX_KEYS} steps, got {len(self.keys)}")
        fields = {
            "format": FORMAT, "fingerprint": self.fingerprint, "engine": self.engine,
            "temperature": self.temperature, "seed": self.seed, "keys": self.keys,
        }  # fmt: skip
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("game.json", json.dumps(fields, separators=(",", ":")))
            archive.writestr("picture.png", encode_png(self.picture))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Recording:
        """Read a recording whose frames are `size` pixels wide.

        Raises: ValueError naming what was expected and what came.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"recording: expected at most {MAX_BYTES} bytes, got {len(data)}")
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                infos = {info.filename: info for info in archive.infolist()}
                if set(infos) != {"game.json", "picture.png"} or len(archive.infolist()) != 2:
                    raise ValueError(f"recording: expected game.json and picture.png, got {sorted(infos)[:5]}")
                # Unpacked size is checked before anything is unpacked, and no more than that is unpacked.
                if sum(info.file_size for info in infos.values()) > MAX_UNPACKED:
                    raise ValueError("recording: expected a small archive, got one that unpacks to far more")
                if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos.values()):
                    raise ValueError("recording: expected a stored or deflated archive, got another compression")
                text, png = archive.read("game.json"), archive.read("picture.png")
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"recording: expected a file saved by the player, got {error}") from None
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"recording: expected JSON in game.json, got {error}") from None
        if not isinstance(fields, dict) or set(fields) != set(FIELDS) or fields["format"] != FORMAT:
            raise ValueError(f"recording: expected the fields {sorted(FIELDS)} of {FORMAT!r}")
        for name, kind in FIELDS.items():
            value = fields[name]
            if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
                raise ValueError(f"recording: {name}: expected {kind.__name__}, got {value!r:.40}")
        keys = fields["keys"]
        if len(keys) > MAX_KEYS or not all(type(k) is int and 0 <= k < N_ACTIONS for k in keys):
            raise ValueError(f"recording: keys: expected at most {MAX_KEYS} action tokens 0..{N_ACTIONS - 1}")
        if not 0 <= fields["seed"] < 2**63:
            raise ValueError(f"recording: seed: expected 0..2**63-1, got {fields['seed']!r:.40}")
        if not 0 <= fields["temperature"] <= MAX_TEMPERATURE:
            raise ValueError(
                f"recording: temperature: expected 0..{MAX_TEMPERATURE}, got {fields['temperature']!r:.40}"
            )
        picture = load_image(png, size)
        return cls(picture, fields["fingerprint"], fields["engine"], float(fields["temperature"]), fields["seed"], keys)
