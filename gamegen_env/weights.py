"""Tensors on disk: one safetensors file, or several and an index, as Hugging Face lays them out.

`model.safetensors`, or several others with `model.safetensors.index.json`, whose "weight_map" names each tensor's
file. Read one tensor at a time through a memory map: nothing is held twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gamegen_env.files import write_atomic

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 1 << 30
_CHUNK = 1 << 20


def files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's tensors; empty if there are none.

    Raises: ValueError naming the index, what was expected and what came.
    """
    if not (folder / INDEX).is_file():
        return [folder / SINGLE] if (folder / SINGLE).is_file() else []
    names = sorted(set(_weight_map(folder).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder / INDEX}: expected the files {names}, missing are {missing}")
    return [folder / name for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    try:
        found = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with a weight_map, got {error!r}") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: expected a weight_map of tensors, got {found!r:.40}")
    for name, file in found.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{path}: {name}: expected a safetensors file of this folder, got {file!r:.80}")
    return found


def digest(paths: list[Path]) -> bytes:
    """Return the SHA-256 of files, one after the other."""
    state = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
    return state.digest()


def names(path: Path) -> list[str]:
    """Return the names of a file's tensors. Raises: ValueError if it is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors file, got {error} (pickles are never loaded)") from None


def tensors(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors, one at a time. Raises: ValueError if a name comes twice."""
    seen: set[str] = set()
    for path in paths:
        here = names(path)
        if twice := sorted(seen & set(here)):
            raise ValueError(f"{path}: expected each tensor in one file, got {twice[:5]} again")
        seen |= set(here)
        with safe_open(path, framework="pt") as file:
            for name in here:
                yield name, file.get_tensor(name)


def write(folder: Path, state: dict[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors, in one file if they fit into `shard_bytes`. A kill leaves what was there before, or the new."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in sorted(state.items()):
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    weight_map = {}
    if len(shards) == 1:
        write_atomic(folder / SINGLE, save(state))
        (folder / INDEX).unlink(missing_ok=True)
    else:
        for i, shard in enumerate(shards):
            data = save(shard)
            # Named by what is in it: the shards that an older index names stay as they are until the new one stands.
            file = f"model-{i + 1:05d}-of-{len(shards):05d}-{hashlib.sha256(data).hexdigest()[:8]}.safetensors"
            write_atomic(folder / file, data)
            weight_map.update(dict.fromkeys(shard, file))
        size = sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_atomic(folder / INDEX, json.dumps(index, indent=1).encode())
        (folder / SINGLE).unlink(missing_ok=True)
    for stale in set(folder.glob("model-*-of-*.safetensors")) - {folder / file for file in weight_map.values()}:
        stale.unlink()
