"""Recorded games as training batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gamegen_env.checkpoint import tokenizer_fingerprint
from gamegen_env.closed_loop import RULES_VERSION
from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import ModelConfig
from gamegen_env.games.shards import iter_clips, read_meta, read_shard
from gamegen_env.tokenizer import Tokenizer


def game_folders(data: str | Path, split: str) -> list[Path]:
    """Return the folders of the recorded games of one split, sorted.

    Raises: FileNotFoundError if there are none.
    """
    root = Path(data) / split
    folders = sorted(path.parent for path in root.glob("*/shard-00000.safetensors"))
    if not folders:
        raise FileNotFoundError(f"{root}: expected recorded games, found none; run `gamegen record --out {data}` first")
    return folders


def load_frames(data: str | Path, split: str, per_game: int) -> np.ndarray:
    """Load up to `per_game` frames of every game, evenly spread.

    Returns: (N, H, W, 3) uint8.
    """
    chosen = []
    for folder in game_folders(data, split):
        paths = sorted(folder.glob("shard-*.safetensors"))
        share = -(-per_game // len(paths))
        for path in paths:
            frames = read_shard(path).frames
            chosen.append(frames[:: max(1, len(frames) // share)][:share])
    return np.concatenate(chosen)


def load_streams(
    data: str | Path,
    split: str,
    config: ModelConfig,
    tokenizer: Tokenizer,
    error_rate: float,
    games: Sequence[str] | None = None,
) -> list[Stream]:
    """Return the recorded games of a split as streams, coding those that are not coded yet.

    Streams are kept under `data/streams/`, by tokenizer, rules of the encoder, tolerance, error rate and what was
    recorded: a game recorded again, or longer, is coded again. A kill loses at most the game in work.

    Args:   games: folder names such as "procgen-maze"; default all.
    Raises: FileNotFoundError if nothing is recorded, ValueError on an unknown game.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    kind = f"{fingerprint}-rules{RULES_VERSION}-tolerance{config.stream.tolerance:g}-errors{error_rate:g}"
    folders = {folder.name: folder for folder in game_folders(data, split)}
    unknown = sorted(set(games or ()) - set(folders))
    if unknown:
        raise ValueError(f"games: expected some of {sorted(folders)}, got {unknown}")
    streams = []
    for name in tqdm(games or sorted(folders), desc=f"streams ({split})", unit="game"):
        shards = sorted(folders[name].glob("shard-*.safetensors"))
        path = Path(data) / "streams" / kind / split / f"{name}-{_digest(shards)}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _encode(name, shards, config, tokenizer, fingerprint, error_rate).save(path)
        streams.append(Stream.load(path))
    return streams


def _digest(shards: Sequence[Path]) -> str:
    """Identify a recording by what its shards say of themselves: each is a pure function of that."""
    described = json.dumps([read_meta(path) for path in shards], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def _encode(
    game: str, shards: Sequence[Path], config: ModelConfig, tokenizer: Tokenizer, fingerprint: str, error_rate: float
) -> Stream:
    clips = [clip for path in shards for clip in iter_clips(read_shard(path))]
    return encode_clips(
        [c.frames for c in clips],
        [c.action for c in clips],
        [c.reward for c in clips],
        [c.terminated for c in clips],
        config,
        tokenizer,
        game=game,
        fingerprint=fingerprint,
        error_rate=error_rate,
    )
