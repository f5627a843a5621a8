"""Shards: recorded play on disk, one safetensors file of whole clips, written atomically.

A clip is a contiguous piece of one play; a shard lays clips end to end. No game, no
policy and no model here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gamegen_env.config import FORMAT_VERSION
from gamegen_env.files import write_atomic
from gamegen_env.games.base import FRAME_SIZE

_META = "shard"  # one header key: safetensors does not keep the order of several

# array -> (dtype, shape after the leading N)
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "frames": ("uint8", (FRAME_SIZE, FRAME_SIZE, 3)),
    "first": ("uint8", ()),
    "action": ("uint8", ()),
    "reward": ("float32", ()),
    "terminated": ("uint8", ()),
    "truncated": ("uint8", ()),
}


@dataclass(frozen=True)
class Shard:
    """N recorded frames and what led to each.

    Attributes:
        frames: (N, 64, 64, 3) uint8 RGB.
        first: (N,) uint8, 1 on the first frame of a clip.
        action: (N,) uint8, token of the action that led to the frame; 0 where `first`.
        reward: (N,) float32, received on arriving at the frame; 0 where `first`.
        terminated: (N,) uint8, 1 if arriving at the frame ended the episode.
        truncated: (N,) uint8, 1 if a time limit cut the episode at the frame.
        meta: JSON-able description: game, source, licence, ships, split, seed and more.
    """

    frames: np.ndarray
    first: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames)


def _check(name: str, dtype: str, shape: tuple[int, ...], n: int, where: str) -> None:
    want_dtype, tail = _ARRAYS[name]
    if dtype != want_dtype or shape != (n, *tail):
        raise ValueError(f"{where}: {name}: expected {want_dtype} {(n, *tail)}, got {dtype} {shape}")


def _check_clips(shard: Shard, where: str) -> None:
    if len(shard) == 0 or shard.first[0] != 1:
        raise ValueError(f"{where}: first: expected a shard that starts with a clip, got {shard.first[:1]}")
    ended = (shard.terminated | shard.truncated)[:-1].astype(bool)
    if not shard.first[1:][ended].all():
        raise ValueError(f"{where}: first: expected a new clip after every end of an episode")


def write_shard(path: str | Path, shard: Shard) -> None:
    """Write a shard so that the file either holds all of it or does not exist.

    Args:
        path: target file; its folder is made if needed.
        shard: arrays as `Shard` describes them; `format_version` is added to its meta.

    Raises: ValueError if an array has another dtype or shape; OSError if the file cannot be
        written (the partial file is removed and earlier files are untouched).
    """
    path = Path(path)
    arrays = {f.name: getattr(shard, f.name) for f in fields(shard) if f.name != "meta"}
    for name, array in arrays.items():
        _check(name, str(array.dtype), array.shape, len(shard), str(path))
    _check_clips(shard, str(path))
    meta = json.dumps({**shard.meta, "format_version": FORMAT_VERSION}, sort_keys=True)
    blob = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {_META: meta})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, blob)


def read_meta(path: str | Path) -> tuple[dict[str, Any], int]:
    """Return a shard's description and its number of frames, without reading them.

    Raises: ValueError as `read_shard` does, but for the content of the arrays.
    """
    with _open(path) as file:
        return _meta(file, str(path)), file.get_slice("frames").get_shape()[0]


def read_shard(path: str | Path) -> Shard:
    """Read a shard and check all of it.

    Raises: FileNotFoundError if there is none; ValueError naming the file, what was expected
        and what was found if it is damaged, of another version or of another layout.
    """
    with _open(path) as file:
        meta = _meta(file, str(path))
        arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    shard = Shard(**arrays, meta=meta)
    _check_clips(shard, str(path))
    return shard


def iter_clips(shard: Shard) -> Iterator[Shard]:
    """Yield the clips of a shard in order, each a `Shard` of views with the same meta."""
    starts = np.flatnonzero(shard.first)
    for begin, end in zip(starts, [*starts[1:], len(shard)], strict=True):
        yield Shard(**{name: getattr(shard, name)[begin:end] for name in _ARRAYS}, meta=shard.meta)


def _open(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no shard at {path}")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a whole safetensors file, got {error}") from error


def _meta(file: Any, where: str) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_META)
    if text is None:
        raise ValueError(f"{where}: header: expected metadata {_META!r}, got none")
    meta: dict[str, Any] = json.loads(text)
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{where}: format_version: expected {FORMAT_VERSION}, got {meta.get('format_version')!r}")
    names = sorted(file.keys())
    if names != sorted(_ARRAYS):
        raise ValueError(f"{where}: arrays: expected {sorted(_ARRAYS)}, got {names}")
    dtypes = {"U8": "uint8", "I32": "int32", "I64": "int64", "F32": "float32", "F64": "float64"}
    n = file.get_slice("first").get_shape()[0]
    for name in _ARRAYS:
        view = file.get_slice(name)
        _check(name, dtypes.get(view.get_dtype(), view.get_dtype()), tuple(view.get_shape()), n, where)
    return meta
