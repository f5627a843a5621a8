"""Image intake: anything that is a picture becomes a square RGB frame, or is refused with a reason.

Rules: EXIF turns are applied; of an animation file the first frame counts, of a PIL image the one
it stands at; transparency is laid over black. 16-bit pictures use their full range; 32-bit integers
and floats have no range of their own and are read as [0, 1], [0, 255] or [0, 65535], the smallest
that holds them. "crop" keeps the middle square, "letterbox" keeps everything and fills with black,
"stretch" ignores the aspect. Pictures shrink with an area filter and grow with nearest neighbour,
which keeps pixel art sharp.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000
MAX_ASPECT = 100.0
FITS = ("crop", "letterbox", "stretch")

Source = str | os.PathLike | bytes | Image.Image | np.ndarray


def packaged_images() -> dict[str, Path]:
    """Return the sample pictures inside the package by name."""
    root = Path(str(resources.files("gamegen_env") / "assets" / "images"))
    return {path.stem: path for path in sorted(root.glob("*.png"))}


def load_image(source: Source, size: int, fit: str = "crop") -> np.ndarray:
    """Turn a picture into a frame.

    Args:    source: path of a file that Pillow reads, name of a packaged image, file content as
             bytes, a PIL image, or an array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or
             float in [0, 1]. size: side of the frame in pixels. fit: "crop", "letterbox" or "stretch".
    Returns: (size, size, 3) uint8, the caller's own.
    Raises:  FileNotFoundError, or ValueError or TypeError naming what was expected and what came.
    """
    if fit not in FITS:
        raise ValueError(f"fit: expected one of {FITS}, got {fit!r}")
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size!r}")
    picture = _square(_rgb(_open(source)), size, fit)
    return np.array(picture, np.uint8)


def load_every_fit(source: Source, size: int) -> dict[str, np.ndarray]:
    """Return a picture's frames by fit, decoded once. Arguments, frames and errors as `load_image`."""
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size!r}")
    picture = _rgb(_open(source))
    return {fit: np.array(_square(picture, size, fit), np.uint8) for fit in FITS}


def encode_png(picture: np.ndarray) -> bytes:
    """Return a picture (H, W, 3) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def encode_gif(frames: Sequence[np.ndarray], scale: int, fps: float) -> bytes:
    """Return frames (H, W, 3) uint8 as an endless animation, pixels enlarged `scale` times.

    GIF counts time in hundredths of a second, and browsers take one such step for a mistake: above 50 fps
    frames are left out.
    """
    every = math.ceil(fps / 50)
    # Colours are chosen before frames are enlarged: 16 times less work, a third of the memory.
    pictures = [
        Image.fromarray(f).quantize().resize((f.shape[1] * scale, f.shape[0] * scale), Image.Resampling.NEAREST)
        for f in frames[::every]
    ]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=10 * round(100 * every / fps), loop=0
    )
    return buffer.getvalue()


def _open(source: Source) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "image")
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "image bytes")
    if isinstance(source, str | os.PathLike):
        path = packaged_images().get(os.fspath(source)) or Path(source)
        if os.path.isdir(path):
            raise ValueError(f"{path}: expected an image file, got a folder")
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: expected an image file or one of {sorted(packaged_images())}, found none")
        # A pipe or a device could be read for ever.
        if not os.path.isfile(path):
            raise ValueError(f"{path}: expected an image file, got something that is no regular file")
        return _read(path, str(path))
    raise TypeError(f"image: expected a path, bytes, PIL image or array, got {type(source).__name__}")


def _read(file: Any, name: str) -> Image.Image:
    with _refusing(name):
        picture = Image.open(file)
    with picture:
        return _decode(picture, name)


def _decode(picture: Image.Image, name: str) -> Image.Image:
    """Read the pixels of a picture whose header passes the checks: a bomb is refused before it is unpacked."""
    _checked(picture, name)
    with _refusing(name):
        picture.load()
        turned: Image.Image = ImageOps.exif_transpose(picture)
        return turned


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Say of what Pillow raises which picture it was."""
    try:
        with warnings.catch_warnings():
            # Our own limit, checked from the header, stands for Pillow's warning.
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got far more") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name}: expected an image that Pillow reads, got something else") from None
    # On damaged data decoders raise whatever their parsers stumble over: struct.error, AttributeError, RuntimeError ...
    except Exception as error:
        raise ValueError(f"{name}: expected a whole image file, got a broken one ({error})") from error


def _checked(picture: Image.Image, name: str) -> Image.Image:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ValueError(f"{name}: expected at least one pixel, got {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got {width}x{height}")
    if max(width / height, height / width) > MAX_ASPECT:
        raise ValueError(f"{name}: expected an aspect of at most {MAX_ASPECT:g}:1, got {width}x{height}")
    return picture


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise ValueError(f"image: expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError("image: expected floats in [0, 1], got values outside it")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"image: expected dtype uint8 or float, got {array.dtype}")
    return _checked(Image.fromarray(np.ascontiguousarray(array)), "image")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float32)
        if not np.isfinite(values).all():
            raise ValueError("image: expected finite pixel values, got NaN or infinity")
        highest = np.inf if picture.mode.startswith("I;16") else values.max()
        top = np.float32(65535 if highest > 255 else 255 if highest > 1 else 1)
        return Image.fromarray(np.round(values.clip(0, top) / top * 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Image.Image, size: int, fit: str) -> Image.Image:
    width, height = picture.size
    if fit == "letterbox":
        # Scaled before it is framed: the frame of a long picture may be far larger than MAX_PIXELS.
        longest = max(width, height)
        inner = _resized(picture, max(1, round(width * size / longest)), max(1, round(height * size / longest)))
        ground = Image.new("RGB", (size, size))
        ground.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return ground
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return _resized(picture, size, size)


def _resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    grows = picture.width <= width and picture.height <= height
    return picture.resize((width, height), Image.Resampling.NEAREST if grows else Image.Resampling.BOX)
