from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gamegen_env.image import FITS, load_every_fit, load_image, packaged_images

RED, BLACK = (255, 0, 0), (0, 0, 0)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F"]
)
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (3, 200), (640, 480)])
def test_every_mode_and_size_becomes_a_frame(mode: str, size: tuple[int, int]) -> None:
    frame = load_image(Image.new(mode, size), 64)
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8


@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "bmp", "webp", "tiff", "ppm", "ico"])
def test_every_common_file_type_is_read(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"picture.{extension}"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(path)
    assert np.abs(load_image(path, 64).astype(int) - (200, 40, 40)).max() < 8
    assert np.array_equal(load_image(str(path), 64), load_image(path.read_bytes(), 64))


def halves(width: int, height: int) -> Image.Image:
    """Left half red, right half black."""
    image = Image.new("RGB", (width, height))
    image.paste(RED, (0, 0, width // 2, height))
    return image


def test_crop_keeps_the_middle_letterbox_everything_and_stretch_all_sides() -> None:
    wide = halves(256, 64)
    crop, box, stretch = (load_image(wide, 64, fit) for fit in ("crop", "letterbox", "stretch"))
    for frame, row in ((crop, 0), (box, 32), (stretch, 0)):
        assert (frame[row, :32] == RED).all()
        assert (frame[row, 32:] == BLACK).all()
    assert (box[:24] == 0).all()
    assert (box[40:] == 0).all()


def test_exif_turn_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    halves(64, 64).save(tmp_path / "turned.png", exif=exif)
    frame = load_image(tmp_path / "turned.png", 64)
    assert (frame[:30] == RED).all()
    assert (frame[34:] == BLACK).all()


def test_exif_turn_of_a_pil_image_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    halves(64, 64).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as picture:
        assert np.array_equal(load_image(picture, 64), load_image(buffer.getvalue(), 64))


def test_long_picture_is_letterboxed_without_a_huge_frame() -> None:
    """A square around it would hold 3.6 gigapixels."""
    box = load_image(halves(60_000, 700), 64, "letterbox")
    assert (box[31, :32] == RED).all()
    assert (box[31, 32:] == BLACK).all()
    assert box.any(axis=(1, 2)).sum() == 1


def test_transparency_lies_over_black() -> None:
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    frame = load_image(image, 64)
    assert (frame[:, :32] == RED).all()
    assert (frame[:, 32:] == 0).all()


def test_palette_transparency_is_seen() -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([9, 9, 9, 255, 255, 255])
    image.info["transparency"] = 1
    assert (load_image(image, 64) == 0).all()


def test_sixteen_bits_keep_their_range() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    frame = load_image(Image.fromarray(values), 64)
    assert frame[0, 0, 0] == 0
    assert frame[-1, -1, 0] == 255
    assert abs(int(frame[32, 0, 0]) - 128) <= 1
    # A dark one stays dark.
    assert load_image(Image.fromarray(np.full((64, 64), 200, np.uint16)), 64).max() == 1


@pytest.mark.parametrize(("top", "mode"), [(1.0, "F"), (255.0, "F"), (65535.0, "F"), (255, "I"), (65535, "I")])
def test_pictures_without_a_range_use_the_smallest_that_holds_them(top: float, mode: str) -> None:
    values = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.float32 if mode == "F" else np.int32)
    frame = load_image(Image.fromarray(values), 64)
    assert (frame.min(), frame.max()) == (0, 255)
    assert abs(int(frame[32, 0, 0]) - 128) <= 1


def test_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), c) for c in (RED, BLACK)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (load_image(tmp_path / "a.gif", 64) == RED).all()


def test_pixel_art_grows_without_blur() -> None:
    frame = load_image(halves(16, 16), 64)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) == 2


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((8, 8, 3), 7, np.uint8), 7),
        (np.full((8, 8), 7, np.uint8), 7),
        (np.full((8, 8, 1), 7, np.uint8), 7),
        (np.full((8, 8, 4), 255, np.uint8), 255),
        (np.full((8, 8, 3), 0.5), 128),
        (np.full((8, 8, 3), 0.5, np.float32), 128),
        (np.full((16, 8, 3), 7, np.uint8)[::2], 7),
    ],
)
def test_arrays_are_taken(array: np.ndarray, expected: int) -> None:
    assert (load_image(array, 64) == expected).all()


def test_frame_does_not_share_memory_with_the_source() -> None:
    source = np.zeros((64, 64, 3), np.uint8)
    frame = load_image(source, 64)
    frame[:] = 9
    assert (source == 0).all()


def bomb_png(side: int) -> bytes:
    """A PNG whose header promises side x side pixels and whose data is nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an image that Pillow reads"),
        (b"hello, world", "expected an image that Pillow reads"),
        (bomb_png(20_000), "expected at most 64000000 pixels"),
        (bomb_png(200_000), "expected at most 64000000 pixels"),
        (bomb_png(100), "expected a whole image file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            load_image(path, 64)
        with pytest.raises(ValueError, match=message):
            load_image(content, 64)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(buffer, "JPEG")
    with pytest.raises(ValueError, match="expected a whole image file, got a broken one"):
        load_image(buffer.getvalue()[: len(buffer.getvalue()) // 2], 64)
    with (
        Image.open(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2])) as picture,
        pytest.raises(ValueError, match="image: expected a whole image file, got a broken one"),
    ):
        load_image(picture, 64)


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "DDS", "SGI", "SPIDER"]
)
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    """Whatever a decoder trips over, the user sees a ValueError that says what was expected."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    source = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    options = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF") else {}
    source.convert("F" if kind == "SPIDER" else "RGB").save(buffer, kind, **options)
    refused = 0
    for _ in range(60):
        data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        data[rng.integers(min(len(data), 300), size=4)] = rng.integers(0, 256, 4)
        try:
            assert load_image(data[: rng.integers(8, len(data) + 1)].tobytes(), 64).shape == (64, 64, 3)
        except ValueError as error:
            assert "image bytes: expected" in str(error)  # noqa: PT017  (either outcome is right)
            refused += 1
    assert refused > 10


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: expected an image file"):
        load_image(tmp_path / "nowhere.png", 64)
    with pytest.raises(FileNotFoundError, match="expected an image file"):
        load_image("x" * 5000, 64)
    with pytest.raises(ValueError, match="got a folder"):
        load_image(tmp_path, 64)
    with pytest.raises(ValueError, match="no regular file"):
        load_image("/dev/zero", 64)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((8, 8, 2), np.uint8), ValueError, "expected an array"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "expected an array"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "expected an array"),
        (np.full((8, 8, 3), np.nan), ValueError, r"floats in \[0, 1\]"),
        (np.full((8, 8, 3), 3.0), ValueError, r"floats in \[0, 1\]"),
        (np.zeros((8, 8, 3), np.int64), ValueError, "dtype uint8 or float"),
        (Image.new("RGB", (5000, 2)), ValueError, "aspect"),
        (42, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_bad_sources_are_refused(source: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_image(source, 64)  # type: ignore[arg-type]


def test_empty_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="size: expected at least 1 pixel, got 0"):
        load_image(np.zeros((8, 8, 3), np.uint8), 0)


def test_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="fit: expected one of"):
        load_image(np.zeros((8, 8, 3), np.uint8), 64, "squeeze")


def test_packaged_images_load_by_name() -> None:
    assert len(packaged_images()) >= 8
    for name in packaged_images():
        assert load_image(name, 64).std() > 1


def test_every_fit_is_what_each_alone_gives() -> None:
    picture = halves(90, 40)
    every = load_every_fit(picture, 64)
    assert list(every) == list(FITS)
    assert all(np.array_equal(frame, load_image(picture, 64, fit)) for fit, frame in every.items())
    with pytest.raises(ValueError, match="expected an image that Pillow reads"):
        load_every_fit(b"junk", 64)
