"""Models on disk: a folder with `config.json` and `model.safetensors`, or several such files (`weights.py`).

The tensors of the tokenizer are named `tokenizer.*`, those of the transformer
`transformer.*`. Nothing is ever unpickled. Everything is checked before a model exists.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gamegen_env import weights
from gamegen_env.config import ModelConfig, TokenizerConfig, from_dict
from gamegen_env.files import write_atomic
from gamegen_env.tokenizer import Tokenizer
from gamegen_env.transformer import Transformer

WEIGHTS = resources.files("gamegen_env") / "assets" / "weights"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, in eval mode. `fingerprint` names exactly these weights and this config."""

    config: ModelConfig
    tokenizer: Tokenizer
    transformer: Transformer
    fingerprint: str

    @property
    def patches(self) -> np.ndarray | None:
        """What engines must know of the codes' looks, (codebook_size, c, c, 3) uint8; None if updates only repaint."""
        return self.tokenizer.patches() if self.config.stream.max_motion else None


def packaged_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    root = Path(str(WEIGHTS))
    return tuple(sorted(p.parent.name for p in root.glob("*/model.safetensors")))


def find(model: str | Path) -> Path:
    """Return the folder of a model given by name or path.

    Raises: FileNotFoundError if neither a packaged model nor a checkpoint folder is meant; TypeError.
    """
    if not isinstance(model, str | Path):
        raise TypeError(f"model: expected a name or a path, got {type(model).__name__}")
    folder = Path(model)
    if str(model) in packaged_models():
        folder = Path(str(WEIGHTS)) / str(model)
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if weights.files(folder) else [weights.SINGLE]
    if lacking:
        raise FileNotFoundError(
            f"model {str(model)!r}: expected one of {packaged_models()} or a folder with config.json and "
            f"model.safetensors; {folder / lacking[0]} is missing"
        )
    return folder


def load_checkpoint(model: str | Path) -> Checkpoint:
    """Load a model by packaged name or folder; the same files are loaded once per process.

    Raises: FileNotFoundError, or ValueError naming the file, what was expected and what came.
    """
    folder = find(model)
    stamps = tuple(path.stat().st_mtime_ns for path in (folder / "config.json", *weights.files(folder)))
    return _load(folder.resolve(), stamps)


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple[int, ...]) -> Checkpoint:
    path = folder / "config.json"
    try:
        text = path.read_text()
        config = ModelConfig.from_json(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    files = weights.files(folder)
    # Built without memory, then given the file's tensors: nothing is held twice.
    with torch.device("meta"):
        tokenizer, transformer = Tokenizer(config.tokenizer), Transformer(config)
    both = nn.ModuleDict({"tokenizer": tokenizer, "transformer": transformer})
    _assign(both, files)
    canonical = json.dumps(config.to_dict(), sort_keys=True).encode()
    digest = hashlib.sha256(canonical + weights.digest(files)).hexdigest()
    both.eval().requires_grad_(False)
    return Checkpoint(config, tokenizer, transformer, digest[:16])


def _assign(module: nn.Module, files: list[Path], prefix: str = "") -> None:
    """Give a module on the meta device its tensors. Without a prefix the files must hold no others."""
    expected = module.state_dict()
    found = {name for path in files for name in weights.names(path)}
    own = {prefix + name for name in expected}
    unknown, missing = sorted(set() if prefix else found - own), sorted(own - found)
    where = files[0] if len(files) == 1 else files[0].parent
    if unknown or missing:
        raise ValueError(f"{where}: unknown tensors {unknown[:5]}, missing tensors {missing[:5]}")
    state = {}
    for full_name, tensor in weights.tensors(files):
        name = full_name.removeprefix(prefix)
        if full_name not in own:
            continue
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{where}: {name}: expected shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"{where}: {name}: expected a floating-point tensor, got {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: {name}: expected finite numbers, got NaN or infinity")
        state[name] = tensor.to(torch.float32, copy=True)  # the file may go
    module.load_state_dict(state, assign=True)


def save_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    transformer: Transformer,
    shard_bytes: int = weights.SHARD_BYTES,
) -> None:
    """Write a model folder, weights in fp16: half the bytes, and far finer than the 4-bit cache.

    Args: shard_bytes: more than that is split into several files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"transformer.{k}": v.half().contiguous() for k, v in transformer.state_dict().items()}
    with torch.device("meta"):
        names = Tokenizer(config.tokenizer).state_dict()
    state = tokenizer.state_dict()
    tensors |= {f"tokenizer.{k}": state[k].contiguous() for k in names}
    weights.write(folder, tensors, shard_bytes)
    write_atomic(folder / "config.json", config.to_json().encode())


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load the tokenizer of a model (name or folder), or of a run of `gamegen train-tokenizer`.

    Raises: FileNotFoundError or ValueError, naming the file.
    """
    run = Path(source)
    if not (run / "checkpoint.safetensors").is_file():
        return load_checkpoint(source).tokenizer
    options = json.loads((run / "config.json").read_text())
    if "tokenizer" not in options or not isinstance(options["tokenizer"], dict):
        raise ValueError(f"{run / 'config.json'}: expected a run of `gamegen train-tokenizer`")
    config = from_dict(TokenizerConfig, options["tokenizer"], f"{run / 'config.json'}: tokenizer")
    with torch.device("meta"):
        tokenizer = Tokenizer(config)
    _assign(tokenizer, [run / "checkpoint.safetensors"], "model.")
    return tokenizer.eval().requires_grad_(False)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Return 16 hex digits that name exactly these weights."""
    digest = hashlib.sha256()
    with torch.device("meta"):
        names = Tokenizer(tokenizer.config).state_dict()
    state = tokenizer.state_dict()
    for name in sorted(names):
        digest.update(state[name].float().numpy().tobytes())
    return digest.hexdigest()[:16]
